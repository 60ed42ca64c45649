"""One user's way through every tier, and what the platform knows of it afterwards."""

import subprocess
import sys
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import requests
from belvedere_platform import PASSWORD, REQUEST_ID, ROOT, Edge, Platform, wait_until


@dataclass
class Journey:
    """The answers along the way, by step."""

    user: Edge
    email: str
    answers: dict[str, requests.Response]

    def request_id(self, step: str) -> str:
        return self.answers[step].headers["X-Request-Id"]


@pytest.fixture(scope="module")
def journey(platform: Platform) -> Journey:
    """Register, log in, look at oneself, store an item, read it."""
    user = Edge(platform.edge.url, platform.ca)
    email = f"{uuid.uuid4().hex}@example.com"
    answers = {"register": user.post("/register", json={"email": email, "password": PASSWORD})}
    answers["login"] = user.post("/login", json={"email": email, "password": PASSWORD})
    user.token = answers["login"].json().get("access_token")
    answers["validate"] = user.get("/validate")
    answers["me"] = user.get("/api/v1/users/me")
    answers["create"] = user.post("/api/v1/items", json={"title": "a title", "body": "a body"})
    # Without the cookie that tells how far the write is, so that any replica will do.
    answers["read"] = Edge(user.url, user.ca, user.token).get(answers["create"].headers.get("Location", "/none"))
    answers["list"] = user.get("/api/v1/items")
    return Journey(user, email, answers)


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def test_every_step_succeeds(journey: Journey) -> None:
    statuses = {step: answer.status_code for step, answer in journey.answers.items()}
    expected = {"register": 201, "login": 200, "validate": 200, "me": 200, "create": 201, "read": 200, "list": 200}
    assert statuses == expected


def test_answers_say_what_the_contract_promises(journey: Journey) -> None:
    answers = {step: answer.json() for step, answer in journey.answers.items()}
    assert set(answers["register"]) == {"id", "email"}
    assert {"access_token", "token_type", "expires_in", "refresh_token"} <= set(answers["login"])
    assert answers["validate"]["sub"] == answers["register"]["id"] == answers["me"]["id"]
    assert answers["me"]["email"] == journey.email
    assert answers["read"]["title"] == "a title"
    assert answers["read"]["body"] == "a body"
    assert [item["id"] for item in answers["list"]["items"]] == [answers["read"]["id"]]


def test_every_answer_has_a_request_id_of_its_own(journey: Journey) -> None:
    ids = {journey.request_id(step) for step in journey.answers}
    assert len(ids) == len(journey.answers)
    assert all(REQUEST_ID.fullmatch(each) for each in ids)


def test_a_session_is_refreshed_and_ends_with_logout(journey: Journey) -> None:
    login = journey.answers["login"].json()
    refreshed = journey.user.post("/refresh", json={"refresh_token": login["refresh_token"]})
    assert refreshed.status_code == 200, refreshed.text
    token = {"refresh_token": refreshed.json()["refresh_token"]}
    assert journey.user.post("/logout", json=token).status_code == 204
    assert journey.user.post("/refresh", json=token).status_code == 401


def test_another_user_s_item_is_not_found(journey: Journey, user: Edge) -> None:
    assert user.get(journey.answers["create"].headers["Location"]).status_code == 404


def spans_of(platform: Platform, journey: Journey, step: str, *wanted: str) -> list[dict[str, Any]]:
    """The step's spans, once a span whose name starts so has come for each wanted name."""

    def ask() -> list[dict[str, Any]]:
        spans = platform.trace(journey.request_id(step))
        names = [span["operationName"] for span in spans]
        assert all(any(name.startswith(each) for name in names) for each in wanted), f"{wanted} among {names}"
        return spans

    return wait_until(f"Jaeger has the spans of {step} ({journey.request_id(step)})", ask)


@pytest.mark.needs("jaeger")
def test_the_login_s_trace_shows_the_password_hash_the_token_and_the_sql(platform: Platform, journey: Journey) -> None:
    spans = spans_of(platform, journey, "login", "POST /login", "password.", "token.sign", "SELECT ")
    sql = next(span for span in spans if span["operationName"].startswith("SELECT "))
    assert tags(sql)["db.system.name"] == "postgresql"
    hashing = next(span for span in spans if span["operationName"].startswith("password."))
    assert hashing["duration"] > 20_000, "a bcrypt hash of cost 12 takes more than 20 ms"


@pytest.mark.needs("jaeger")
def test_the_list_s_trace_shows_that_a_replica_answered(platform: Platform, journey: Journey) -> None:
    # A list, for a single item may come from the cache.
    spans = spans_of(platform, journey, "list", "GET /api/v1/items", "SELECT ")
    assert "replica" in {tags(span).get("db.belvedere.target") for span in spans}


@pytest.mark.needs("jaeger")
def test_the_write_s_trace_shows_that_the_primary_answered(platform: Platform, journey: Journey) -> None:
    spans = spans_of(platform, journey, "create", "POST /api/v1/items", "INSERT ")
    targets = {tags(span).get("db.belvedere.target") for span in spans if span["operationName"].startswith("INSERT ")}
    assert targets == {"primary"}


def test_prometheus_counts_the_steps_with_route_method_and_status(platform: Platform, journey: Journey) -> None:
    assert journey.answers
    for metric, route, method, status in (
        ("auth_service_duration_seconds_count", "/login", "POST", "200"),
        ("api_service_duration_seconds_count", "/api/v1/items", "POST", "201"),
    ):
        query = f'sum({metric}{{route="{route}",method="{method}",status="{status}"}}) > 0'
        wait_until(f"Prometheus answers {query}", partial(platform.prometheus, query), seconds=45)


def test_prometheus_counts_reads_of_replicas_and_writes_of_the_primary(platform: Platform, journey: Journey) -> None:
    assert journey.answers
    for operation, target in (("SELECT", "replica"), ("INSERT", "primary")):
        labels = f'service="api",operation="{operation}",target="{target}"'
        query = f"sum(postgresql_query_duration_seconds_count{{{labels}}}) > 0"
        wait_until(f"Prometheus answers {query}", partial(platform.prometheus, query), seconds=45)


@pytest.mark.needs("victorialogs")
def test_the_login_s_log_line_is_found_by_its_trace_id(platform: Platform, journey: Journey) -> None:
    trace_id = journey.request_id("login")
    query = f"_time:15m trace_id:={trace_id}"
    lines = wait_until(f"VictoriaLogs answers {query}", lambda: platform.logs(query))
    assert "login_succeeded" in {line.get("event") for line in lines}
    line = next(line for line in lines if line.get("event") == "login_succeeded")
    assert line["service"] == "auth"
    assert line["request_id"] == trace_id
    assert line["user_id"] == journey.answers["register"].json()["id"]


@pytest.mark.needs("victorialogs")
def test_no_log_line_holds_the_password_or_the_token(platform: Platform, journey: Journey) -> None:
    trace_id = journey.request_id("login")
    wait_until("the login is in the logs", lambda: platform.logs(f'_time:15m "{trace_id}"'))
    signature = str(journey.user.token).rsplit(".", 1)[1]
    assert platform.logs(f'_time:15m "{PASSWORD}"') == []
    assert platform.logs(f'_time:15m "{signature}"') == []


@pytest.mark.needs("jaeger")
@pytest.mark.needs("victorialogs")
def test_a_request_s_story_is_told_in_the_terminal(platform: Platform, journey: Journey) -> None:
    def tell(request_id: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / "explain.py"), request_id, "--platform", platform.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def told(request: str, *parts: str) -> str:
        done = tell(journey.request_id(request))
        assert done.returncode == 0, done.stderr
        assert [part for part in parts if part not in done.stdout] == [], done.stdout
        return done.stdout

    written = wait_until("the write's spans", lambda: told("create", "POST /api/v1/items", "INSERT INTO api.items"))
    login = wait_until("the login's spans and line", lambda: told("login", "POST /login", "A login succeeded"))
    assert str(journey.user.token) not in written + login
    unknown = tell("0" * 32)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "nobody knows" in unknown.stderr
