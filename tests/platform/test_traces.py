"""Traces: which are kept, what leads to them, and that nobody notices when Jaeger is away."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
from belvedere_platform import PASSWORD, Edge, Platform, wait_until

pytestmark = pytest.mark.needs("jaeger")


@contextmanager
def none_of_the_rest_kept(platform: Platform) -> Iterator[None]:
    play = ("ansible-playbook", "playbooks/observability.yml", "--tags", "jaeger")
    platform.ansible(*play, "-e", json.dumps({"jaeger_share": 0}), timeout=300)
    try:
        yield
    finally:
        platform.ansible(*play, timeout=300)


@pytest.mark.disruptive
def test_a_failed_login_s_trace_is_always_there_whatever_the_share_of_the_rest(platform: Platform, user: Edge) -> None:
    with none_of_the_rest_kept(platform):
        ordinary = [user.get("/validate").headers["X-Request-Id"] for _ in range(5)]
        wrong = {"email": "nobody@example.com", "password": "not this one"}
        failed = [platform.edge.post("/login", json=wrong).headers["X-Request-Id"] for _ in range(5)]
        for request_id in failed:
            wait_until(f"the trace {request_id} is there", partial(platform.trace, request_id), seconds=60)
        assert [request_id for request_id in ordinary if platform.trace(request_id)] == []


def test_spans_are_counted_by_service_and_name(platform: Platform, user: Edge) -> None:
    user.get("/validate")
    calls = 'sum by (service_name) (spans_calls_total{span_name="GET /validate"})'
    wait_until("the span is counted", lambda: platform.prometheus(calls), seconds=90)


def test_a_slow_statement_leads_to_its_trace_while_it_runs_and_from_the_log(platform: Platform, user: Edge) -> None:
    item = user.post("/api/v1/items", json={"title": "slow", "body": ""}).headers["Location"]
    number = item.rsplit("/", 1)[1]
    primary = platform.primary()
    hold = f"begin; select 1 from api.items where id = '{number}' for update; select pg_sleep(1.5); rollback"  # noqa: S608
    waiting = "select query from pg_stat_activity where wait_event_type = 'Lock' and query like 'UPDATE api.items %'"
    with ThreadPoolExecutor() as pool:
        pool.submit(platform.sql, primary, hold)
        time.sleep(0.7)  # the row is locked for longer than this takes
        asked = pool.submit(user.request, "PATCH", item, json={"body": "written late"})
        shown = wait_until("PostgreSQL shows the statement", lambda: platform.sql(primary, waiting), 5, every=0.1)
    answer = asked.result()
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["X-Request-Id"]
    query = f"_time:10m trace_id:={request_id} event:=slow_query statement:~'^UPDATE'"
    (line,) = wait_until("the service's line is there", lambda: platform.logs(query), seconds=60)
    assert shown.endswith(f"/*traceparent='00-{request_id}-{line['span_id']}-01'*/")
    spans = wait_until("the trace is there", lambda: platform.trace(request_id), seconds=60)
    assert [each["operationName"] for each in spans if each["spanID"] == line["span_id"]] == ["UPDATE primary"]


@pytest.mark.disruptive
def test_services_do_not_notice_that_jaeger_is_away_and_count_what_is_lost(platform: Platform, user: Edge) -> None:
    lost = "sum(service_spans_lost_total)"
    before = float(platform.prometheus(lost)[0]["value"][1])

    def times(count: int) -> list[float]:
        client = Edge(user.url, user.ca, user.token)
        taken = []
        for _ in range(count):
            begun = time.monotonic()
            assert client.get("/validate").status_code == 200
            taken.append(time.monotonic() - begun)
        return sorted(taken)

    usual = times(300)
    platform.ssh("obs1", "sudo systemctl stop jaeger", timeout=60)
    try:
        away = times(300)
        wait_until("spans are counted as lost", lambda: float(platform.prometheus(lost)[0]["value"][1]) > before, 60)
    finally:
        platform.ssh("obs1", "sudo systemctl start jaeger", timeout=60)
    print(f"median {usual[150] * 1000:.1f} ms with Jaeger, {away[150] * 1000:.1f} ms without")
    assert away[150] < 2 * usual[150] + 0.005
    wait_until("Jaeger answers", lambda: platform.ask("jaeger", "/api/services").json()["data"], seconds=60)


def test_a_run_of_ansible_is_a_trace_and_measured(platform: Platform) -> None:
    begun = time.time()
    platform.ansible("ansible-playbook", "playbooks/info.yml", timeout=120)
    newest = 'ansible_run_timestamp_seconds{playbook="info"}'
    wait_until("the run is measured", lambda: float(platform.prometheus(newest)[0]["value"][1]) >= begun - 1, 60)
    since = int(begun * 1e6)
    found = wait_until(
        "the run is a trace",
        lambda: platform.ask("jaeger", "/api/traces", service="ansible", operation="info", start=since).json()["data"],
        seconds=60,
    )
    assert len(found[0]["spans"]) > 3


def test_a_login_s_password_is_in_no_span(platform: Platform, user: Edge) -> None:
    login = {"email": "nobody@example.com", "password": PASSWORD}
    request_id = platform.edge.post("/login", json=login).headers["X-Request-Id"]
    assert PASSWORD not in json.dumps(wait_until("the trace is there", lambda: platform.trace(request_id), seconds=60))
