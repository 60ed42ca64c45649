"""Sessions as their owner sees them: listed, revoked, and what a change of password does to them."""

from uuid import uuid4

import pytest

PASSWORD, NEW = "correct horse battery", "staple battery horse"

NOBODYS = "6f1c2a52-6f0e-4d0e-9d53-0c1f3a6f7b11"  # no session has this id


@pytest.fixture
def log_in(auth):
    """Log in (registering first) and give the answer's JSON, with the headers that carry its token."""

    def log_in(email="ada@example.org", password=PASSWORD, address="192.0.2.1", agent="Netscape 4"):
        auth.client.post("/register", json={"email": email, "password": PASSWORD})
        answer = auth.client.post(
            "/login",
            json={"email": email, "password": password},
            headers={"User-Agent": agent},
            environ_base={"REMOTE_ADDR": address},
        )
        assert answer.status_code == 200
        return answer.json | {"headers": {"Authorization": f"Bearer {answer.json['access_token']}"}}

    return log_in


@pytest.fixture
def listed(auth):
    def listed(login):
        answer = auth.client.get("/sessions", headers=login["headers"])
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.json["sessions"]

    return listed


def refresh(auth, login, **more):
    return auth.client.post("/refresh", json={"refresh_token": login["refresh_token"]}, **more)


def change(auth, login, current=PASSWORD, new=NEW):
    return auth.client.post("/password", headers=login["headers"], json={"current": current, "new": new})


def test_sessions_are_listed_with_where_they_were_used(log_in, listed):
    log_in(address="2001:db8::1", agent="Mosaic\t" + "x" * 200)
    here, there = listed(log_in())
    assert set(here) == {"id", "created_at", "last_used_at", "address", "user_agent", "current"}
    assert (here["address"], here["user_agent"], here["current"]) == ("192.0.2.1", "Netscape 4", True)
    assert (there["address"], there["current"]) == ("2001:db8::1", False)
    assert there["user_agent"] == "Mosaic" + "x" * 94


def test_a_refresh_is_the_sessions_last_use(auth, log_in, listed):
    login = log_in()
    refresh(auth, login, environ_base={"REMOTE_ADDR": "::ffff:198.51.100.7"}, headers={"User-Agent": ""})
    (one,) = listed(login)
    assert one["last_used_at"] > one["created_at"]
    assert (one["address"], one["user_agent"]) == ("198.51.100.7", None)


def test_only_ones_own_sessions_that_go_on_are_listed(auth, log_in, listed, postgresql):
    log_in("bob@example.org")
    auth.client.post("/logout", json={"refresh_token": log_in()["refresh_token"]})
    log_in()
    postgresql.execute("UPDATE auth.sessions SET expires_at = now() WHERE revoked_at IS NULL AND user_agent <> 'x'")
    (one,) = listed(log_in())
    assert one["current"]


def test_a_session_is_revoked_by_its_owner(auth, log_in, listed):
    lost, here = log_in(address="198.51.100.7"), log_in()
    (there,) = [one for one in listed(here) if one["address"] == "198.51.100.7"]
    assert auth.client.delete(f"/sessions/{there['id']}", headers=here["headers"]).status_code == 204
    assert refresh(auth, lost).status_code == 401
    assert refresh(auth, here).status_code == 200
    assert len(auth.log("session_revoked")) == 1


def test_anothers_session_is_404_and_goes_on(auth, log_in, listed):
    ada, bob = log_in(), log_in("bob@example.org")
    (one,) = listed(bob)
    assert auth.client.delete(f"/sessions/{one['id']}", headers=ada["headers"]).status_code == 404
    assert refresh(auth, bob).status_code == 200


@pytest.mark.parametrize("name", [NOBODYS, "x", "", "1"])
def test_a_session_that_never_was_is_404(auth, log_in, name):
    assert auth.client.delete(f"/sessions/{name}", headers=log_in()["headers"]).status_code == 404


def test_an_ended_sessions_token_cannot_see_or_end_sessions_or_change_the_password(auth, log_in):
    ended, other = log_in(), log_in()
    auth.client.post("/logout", json={"refresh_token": ended["refresh_token"]})
    assert auth.client.get("/sessions", headers=ended["headers"]).status_code == 401
    assert auth.client.delete(f"/sessions/{uuid4()}", headers=ended["headers"]).status_code == 401
    assert change(auth, ended).status_code == 401
    assert refresh(auth, other).status_code == 200


def test_a_token_without_a_session_is_401_there(auth, signer):
    headers = {"Authorization": f"Bearer {signer.sign(uuid4(), 'ada@example.org')}"}
    assert auth.client.get("/sessions", headers=headers).status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/sessions"), ("DELETE", f"/sessions/{NOBODYS}")])
def test_without_a_token_it_is_401(auth, method, path):
    assert auth.client.open(path, method=method).status_code == 401


def test_a_changed_password_works_and_the_old_one_no_longer(auth, log_in):
    assert change(auth, log_in()).status_code == 204
    credentials = {"email": "ada@example.org"}
    assert auth.client.post("/login", json=credentials | {"password": PASSWORD}).status_code == 401
    assert auth.client.post("/login", json=credentials | {"password": NEW}).status_code == 200


def test_a_change_of_password_ends_all_other_sessions(auth, log_in):
    others, here, bob = [log_in(), log_in()], log_in(), log_in("bob@example.org")
    assert change(auth, here).status_code == 204
    assert [refresh(auth, other).status_code for other in others] == [401, 401]
    assert refresh(auth, here).status_code == 200
    assert refresh(auth, bob).status_code == 200


def test_a_wrong_current_password_is_403_and_changes_nothing(auth, log_in):
    here, other = log_in(), log_in()
    answer = change(auth, here, current="not that one")
    assert (answer.status_code, answer.mimetype) == (403, "application/problem+json")
    assert refresh(auth, other).status_code == 200
    assert len(auth.log("password_change_failed")) == 1


def test_a_new_password_must_be_as_good_as_at_registration(auth, log_in):
    answer = change(auth, log_in(), new="short")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == "new"


def test_a_forwarded_address_counts_only_behind_the_edges_certificate(start_auth, log_in, listed, tmp_path):
    login = log_in()
    headers = login["headers"] | {"X-Forwarded-For": "6.6.6.6"}
    pem = tmp_path / "pem"
    pem.touch()
    body = {"email": "ada@example.org", "password": PASSWORD}
    start_auth().client.post("/login", json=body, headers=headers)
    behind = start_auth(TLS_CA=str(pem), TLS_CERT=str(pem), TLS_KEY=str(pem))
    behind.client.post("/login", json=body, headers=headers | {"X-Forwarded-For": "203.0.113.9"})
    assert [one["address"] for one in listed(login)] == ["203.0.113.9", "127.0.0.1", "192.0.2.1"]
