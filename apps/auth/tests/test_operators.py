"""The operations pages' login: who gets a cookie, and what it is good for."""

import pytest

CREDENTIALS = {"email": "ada@example.net", "password": "correct horse battery"}
ELSEWHERE = {"email": "bob@example.net", "password": "another horse battery"}


@pytest.fixture
def auth(start_auth):
    app = start_auth()
    for account in (CREDENTIALS, ELSEWHERE):
        assert app.client.post("/register", json=account).status_code == 201
    return app


@pytest.fixture
def operator(auth, postgresql):
    """Ada is one, as the playbook makes one."""
    postgresql.execute("INSERT INTO auth.operators SELECT id FROM auth.accounts WHERE email = 'ada@example.net'")
    return auth


def ask(app, method="GET"):
    """What the edge asks, with the cookie that the client has by now."""
    return app.client.open("/operators/session", method=method, base_url="https://localhost")


def log_in(app, credentials=CREDENTIALS):
    return app.client.post("/operators/session", json=credentials, base_url="https://localhost")


def cookie(answer):
    return answer.headers.get("Set-Cookie", "")


def test_an_operator_gets_a_cookie_that_no_script_and_no_other_site_can_use(operator):
    answer = log_in(operator)
    assert answer.status_code == 204
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict", "Max-Age=28800"} <= set(cookie(answer).split("; ")[1:])
    assert cookie(answer).startswith("__Host-operations=")
    assert "Domain" not in cookie(answer)


def test_the_edge_is_told_who_it_is(operator):
    log_in(operator)
    answer = ask(operator)
    assert (answer.status_code, answer.headers["X-Operator"]) == (204, "ada@example.net")


def test_who_is_no_operator_is_refused_and_their_session_ends(operator, postgresql):
    answer = log_in(operator, ELSEWHERE)
    assert answer.status_code == 403
    assert "__Host-operations" not in cookie(answer)
    assert ask(operator).status_code == 401
    assert postgresql.execute("SELECT count(*) FROM auth.sessions WHERE revoked_at IS NULL").fetchone() == (0,)
    assert [line["level"] for line in operator.log("operator_refused")] == ["warning"]


def test_a_wrong_password_is_answered_as_at_login(operator):
    wrong = log_in(operator, CREDENTIALS | {"password": "wrong"})
    assert (wrong.status_code, wrong.json["type"]) == (401, "urn:belvedere:problem:login-failed")


def test_another_site_s_form_is_no_login(operator):
    assert operator.client.post("/operators/session", data=CREDENTIALS).status_code == 415
    json_as_text = {"data": '{"email": "ada@example.net"}', "content_type": "text/plain"}
    assert operator.client.post("/operators/session", **json_as_text).status_code == 415


def test_neither_token_is_good_for_what_the_other_is(operator):
    token = cookie(log_in(operator)).split(";")[0].partition("=")[2]
    bearer = {"Authorization": f"Bearer {token}"}
    assert operator.client.get("/validate", headers=bearer).status_code == 401
    assert operator.client.get("/sessions", headers=bearer).status_code == 401
    access = operator.client.post("/login", json=CREDENTIALS).json["access_token"]
    operator.client.set_cookie("__Host-operations", access, domain="localhost", secure=True)
    assert ask(operator).status_code == 401


def test_who_is_no_operator_any_more_is_refused_at_once(operator, postgresql):
    log_in(operator)
    postgresql.execute("DELETE FROM auth.operators")
    assert ask(operator).status_code == 401


def test_logging_out_ends_the_session_for_whoever_has_the_cookie(operator):
    token = cookie(log_in(operator)).split(";")[0].partition("=")[2]
    assert ask(operator, "DELETE").status_code == 204
    operator.client.set_cookie("__Host-operations", token, domain="localhost", secure=True)
    assert ask(operator).status_code == 401


def test_a_changed_password_ends_it_too(operator):
    log_in(operator)
    access = operator.client.post("/login", json=CREDENTIALS).json["access_token"]
    change = {"current": CREDENTIALS["password"], "new": "a wholly new battery"}
    operator.client.post("/password", json=change, headers={"Authorization": f"Bearer {access}"})
    assert ask(operator).status_code == 401


@pytest.mark.parametrize("value", ["", "nonsense", "a.b.c"])
def test_a_cookie_that_is_none_is_refused(auth, value):
    auth.client.set_cookie("__Host-operations", value, domain="localhost", secure=True)
    assert ask(auth).status_code == 401


def test_the_service_itself_can_make_nobody_an_operator(postgresql):
    rights = "SELECT has_table_privilege('auth', 'auth.operators', wanted) FROM unnest(%s::text[]) AS wanted"
    granted = [row[0] for row in postgresql.execute(rights, [["SELECT", "INSERT", "UPDATE", "TRUNCATE"]])]
    assert granted == [True, False, False, False]
