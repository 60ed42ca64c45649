"""Registration and login, from outside."""

import pytest

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}


@pytest.fixture
def client(auth):
    auth.client.post("/register", json=CREDENTIALS)
    return auth.client


def bearer(answer):
    return {"Authorization": f"Bearer {answer.json['access_token']}"}


def test_registering_answers_201_with_the_account_and_without_the_password(auth):
    answer = auth.client.post("/register", json={"email": " Ada@Example.ORG", "password": PASSWORD})
    assert answer.status_code == 201
    assert answer.json["email"] == EMAIL
    assert set(answer.json) == {"id", "email"}


def test_a_taken_email_is_409_whatever_its_case(client):
    answer = client.post("/register", json={"email": "ADA@example.org", "password": PASSWORD})
    assert answer.status_code == 409
    assert answer.json["type"] == "urn:belvedere:problem:email-taken"


def test_a_login_answers_with_tokens_that_nobody_may_cache(client):
    answer = client.post("/login", json=CREDENTIALS)
    assert answer.status_code == 200
    assert set(answer.json) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 900)
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_wrong_password_and_an_unknown_account_are_answered_alike(client):
    wrong = client.post("/login", json={"email": EMAIL, "password": "wrong"})
    unknown = client.post("/login", json={"email": "nobody@example.org", "password": "wrong"})
    assert wrong.status_code == unknown.status_code == 401
    assert {**wrong.json, "request_id": ""} == {**unknown.json, "request_id": ""}
    assert "WWW-Authenticate" in wrong.headers


def test_an_unknown_account_costs_a_hash_of_the_same_cost(auth):
    auth.client.post("/login", json={"email": "nobody@example.org", "password": "wrong"})
    assert auth.span_names().count("password.verify") == 1


def test_passwords_are_stored_as_bcrypt_hashes_of_the_set_cost(client, postgresql):
    (stored,) = postgresql.execute("SELECT password_hash FROM auth.accounts").fetchone()
    assert stored.startswith("$2b$04$")


def test_a_token_validates_to_its_account(client):
    answer = client.get("/validate", headers=bearer(client.post("/login", json=CREDENTIALS)))
    assert answer.status_code == 200
    assert answer.json["email"] == EMAIL
    assert answer.json["exp"] - answer.json["iat"] == 900
    assert answer.headers["X-User-Id"] == answer.json["sub"]


def test_a_refresh_token_works_once_and_is_replaced(client):
    first = client.post("/login", json=CREDENTIALS).json["refresh_token"]
    answer = client.post("/refresh", json={"refresh_token": first})
    assert answer.status_code == 200
    assert answer.json["refresh_token"] != first
    assert client.get("/validate", headers=bearer(answer)).status_code == 200


def test_a_reused_refresh_token_ends_its_whole_session(auth, client):
    first = client.post("/login", json=CREDENTIALS).json["refresh_token"]
    second = client.post("/refresh", json={"refresh_token": first}).json["refresh_token"]
    assert client.post("/refresh", json={"refresh_token": first}).status_code == 401
    assert client.post("/refresh", json={"refresh_token": second}).status_code == 401
    assert len(auth.log("token_reuse")) == 1


def test_another_login_survives_the_end_of_a_session(client):
    kept = client.post("/login", json=CREDENTIALS).json["refresh_token"]
    ended = client.post("/login", json=CREDENTIALS).json["refresh_token"]
    assert client.post("/logout", json={"refresh_token": ended}).status_code == 204
    assert client.post("/refresh", json={"refresh_token": ended}).status_code == 401
    assert client.post("/refresh", json={"refresh_token": kept}).status_code == 200


def test_an_expired_session_cannot_be_refreshed(client, postgresql):
    token = client.post("/login", json=CREDENTIALS).json["refresh_token"]
    postgresql.execute("UPDATE auth.sessions SET expires_at = now()")
    assert client.post("/refresh", json={"refresh_token": token}).status_code == 401


def test_logging_out_with_an_unknown_token_is_204_too(client):
    assert client.post("/logout", json={"refresh_token": "never issued"}).status_code == 204


def test_refresh_tokens_are_stored_as_digests_only(client, postgresql):
    token = client.post("/login", json=CREDENTIALS).json["refresh_token"]
    (stored,) = postgresql.execute("SELECT digest FROM auth.refresh_tokens").fetchone()
    assert len(stored) == 32
    assert token.encode() not in stored
