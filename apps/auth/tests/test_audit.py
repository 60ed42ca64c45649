"""Audit events: one for every outcome, in a table that only grows, and no secrets in it."""

import psycopg
import pytest

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}


@pytest.fixture
def post(auth):
    def post(path, body, token=None):
        headers = {"User-Agent": "Netscape 4 " + "x" * 200} | ({"Authorization": f"Bearer {token}"} if token else {})
        return auth.client.post(path, json=body, headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"})

    return post


@pytest.fixture
def login(post):
    post("/register", CREDENTIALS)
    return post("/login", CREDENTIALS)


@pytest.fixture
def events_of(postgresql):
    """The events of an answer's request, as (event, reason)."""

    def events_of(answer):
        events = "SELECT event, reason FROM auth.audit_events WHERE request_id = %s ORDER BY id"
        return postgresql.execute(events, [answer.headers["X-Request-Id"]]).fetchall()

    return events_of


def test_a_registration_is_recorded(post, events_of):
    assert events_of(post("/register", CREDENTIALS)) == [("account_registered", None)]


def test_a_registration_that_failed_is_not_recorded_as_one(post, login, events_of):
    assert events_of(post("/register", CREDENTIALS)) == []


def test_a_login_is_recorded_with_who_where_and_which_session(login, postgresql, events_of):
    assert events_of(login) == [("login_succeeded", None)]
    row = postgresql.execute(
        """
        SELECT a.email, e.session_id = s.id, host(e.address), e.user_agent
        FROM auth.audit_events e JOIN auth.accounts a ON a.id = e.account_id, auth.sessions s
        WHERE e.request_id = %s
        """,
        [login.headers["X-Request-Id"]],
    ).fetchone()
    assert row == (EMAIL, True, "192.0.2.1", "Netscape 4 " + "x" * 89)


def test_a_wrong_password_and_an_unknown_account_are_recorded_with_the_reason(post, login, events_of):
    assert events_of(post("/login", CREDENTIALS | {"password": "wrong"})) == [("login_failed", "wrong_password")]
    unknown = post("/login", {"email": "nobody@example.org", "password": PASSWORD})
    assert events_of(unknown) == [("login_failed", "unknown_account")]


def test_refreshing_reusing_and_logging_out_are_recorded(post, login, events_of):
    token = {"refresh_token": login.json["refresh_token"]}
    assert events_of(post("/refresh", token)) == [("token_refreshed", None)]
    assert events_of(post("/refresh", token)) == [("token_reuse", None)]
    other = {"refresh_token": post("/login", CREDENTIALS).json["refresh_token"]}
    assert events_of(post("/logout", other)) == [("logged_out", None)]


def test_an_unknown_refresh_token_leaves_a_log_line_and_a_count_only(auth, post, events_of):
    assert events_of(post("/refresh", {"refresh_token": "never issued"})) == []
    assert len(auth.log("refresh_refused")) == 1
    assert 'auth_token_refreshes_total{outcome="refused"} 1.0' in auth.metrics()


def test_a_change_of_password_is_recorded_whether_it_succeeds_or_not(post, login, events_of):
    def change(current):
        return post("/password", {"current": current, "new": "staple battery horse"}, login.json["access_token"])

    assert events_of(change("wrong")) == [("password_change_failed", None)]
    assert events_of(change(PASSWORD)) == [("password_changed", None)]


def test_a_revoked_session_is_recorded(auth, login, events_of):
    headers = {"Authorization": f"Bearer {login.json['access_token']}"}
    (one,) = auth.client.get("/sessions", headers=headers).json["sessions"]
    answer = auth.client.delete(f"/sessions/{one['id']}", headers=headers)
    assert events_of(answer) == [("session_revoked", None)]


def test_no_event_holds_a_password_a_token_or_an_email(post, login, postgresql):
    post("/login", CREDENTIALS | {"password": "a wrong secret"})
    post("/refresh", {"refresh_token": login.json["refresh_token"]})
    text = str(postgresql.execute("SELECT e::text FROM auth.audit_events e").fetchall())
    secrets = EMAIL, PASSWORD, "a wrong secret", login.json["refresh_token"], login.json["access_token"]
    assert not [secret for secret in secrets if secret in text]


REFUSE = "ALTER TABLE auth.audit_events ADD CONSTRAINT refuses CHECK (event <> 'login_succeeded') NOT VALID"


def test_a_login_without_its_event_does_not_happen(auth, post, login, postgresql):
    postgresql.execute(REFUSE)
    try:
        assert post("/login", CREDENTIALS).status_code == 500
    finally:
        postgresql.execute("ALTER TABLE auth.audit_events DROP CONSTRAINT refuses")
    assert postgresql.execute("SELECT count(*) FROM auth.sessions").fetchone() == (1,)


CHANGES = ["UPDATE auth.audit_events SET reason = ''", "DELETE FROM auth.audit_events", "TRUNCATE auth.audit_events"]


@pytest.mark.parametrize("change", CHANGES)
def test_the_service_may_not_change_events(login, postgresql, change):
    with (
        psycopg.connect(
            host=postgresql.info.host, port=postgresql.info.port, dbname=postgresql.info.dbname, user="auth"
        ) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
    ):
        connection.execute(change)


@pytest.mark.parametrize("change", CHANGES)
def test_an_administrator_does_not_change_events_by_mistake(login, postgresql, change):
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        postgresql.execute(change)
