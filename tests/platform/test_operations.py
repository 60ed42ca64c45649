"""The operations pages are seen by operators, and by nobody else."""

import uuid

import pytest
import requests
from belvedere_platform import PASSWORD, Platform, wait_until

COOKIE = "__Host-operations"


def browser(platform: Platform) -> requests.Session:
    session = requests.Session()
    session.verify = platform.ca
    return session


def log_in(platform: Platform, session: requests.Session, email: str) -> requests.Response:
    body = {"email": email, "password": PASSWORD}
    return session.post(platform.url("ops") + "/session", json=body, verify=platform.ca, timeout=10)


def seen(platform: Platform, session: requests.Session, path: str) -> requests.Response:
    return session.get(platform.url("ops") + path, verify=platform.ca, timeout=10, allow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/prometheus/", "/alertmanager/", "/jaeger/", "/logs/select/vmui/", "/grafana/"])
def test_a_stranger_is_shown_the_login_page(platform: Platform, path: str) -> None:
    answer = seen(platform, browser(platform), path)
    assert answer.status_code == 401
    assert "basic" not in answer.headers.get("WWW-Authenticate", "").lower(), "a browser would ask for a password"
    assert '<form id="login">' in answer.text


def test_a_user_who_is_no_operator_is_refused(platform: Platform) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    platform.edge.post("/register", json={"email": email, "password": PASSWORD})
    session = browser(platform)
    assert log_in(platform, session, email).status_code == 403
    assert seen(platform, session, "/prometheus/").status_code == 401


def test_an_operator_sees_the_tools_until_they_log_out(platform: Platform, operator: str) -> None:
    session = browser(platform)
    assert log_in(platform, session, operator).status_code == 204
    cookie = next(each for each in session.cookies if each.name == COOKIE)
    assert cookie.secure
    assert seen(platform, session, "/prometheus/api/v1/query?query=up").json()["status"] == "success"
    assert session.delete(platform.url("ops") + "/session", verify=platform.ca, timeout=10).status_code == 204
    session.cookies.set_cookie(cookie)
    assert seen(platform, session, "/prometheus/").status_code == 401


def test_an_access_token_opens_nothing_here(platform: Platform) -> None:
    token = str(platform.edge.as_new_user().token)
    for headers in ({"Cookie": f"{COOKIE}={token}"}, {"Authorization": f"Bearer {token}"}):
        answer = requests.get(platform.url("ops") + "/prometheus/", headers=headers, verify=platform.ca, timeout=10)
        assert answer.status_code == 401


@pytest.mark.needs("victorialogs")
def test_who_looked_at_what_is_logged(platform: Platform, operator: str) -> None:
    session = browser(platform)
    log_in(platform, session, operator)
    request_id = seen(platform, session, "/prometheus/api/v1/query?query=up").headers["X-Request-Id"]
    query = f'event:=operations_request user:="{operator}" route:="/prometheus/" request_id:={request_id}'
    assert wait_until("VictoriaLogs has the operator's request", lambda: platform.logs(query))


def test_the_password_still_lets_scripts_in(platform: Platform) -> None:
    assert platform.prometheus("up")
