"""tools/explain.py."""

import importlib.util
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "tools" / "explain.py"
spec = importlib.util.spec_from_file_location("explain", SOURCE)
assert spec and spec.loader
explain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(explain)


def span(name: str, span_id: str, parent: str, start: int, **attributes: str) -> dict[str, Any]:
    return {
        "spanID": span_id,
        "operationName": name,
        "references": [{"refType": "CHILD_OF", "spanID": parent}],
        "startTime": start,
        "duration": 1500,
        "processID": "p1",
        "tags": [{"key": key.replace("__", "."), "value": value} for key, value in attributes.items()],
    }


PROCESSES = {"p1": {"serviceName": "auth", "tags": [{"key": "service.instance.id", "value": "app1:8101"}]}}


def test_children_stand_below_their_parent_with_their_time_and_sql() -> None:
    spans = [
        span("SELECT primary", "c", "b", 3000, db__query__text="SELECT  1\n FROM x"),
        span("POST /login", "b", "the edge, which sends no spans", 1000),
    ]
    lines = explain.span_lines({"spans": spans, "processes": PROCESSES})
    assert [" ".join(line.split()) for line in lines] == [
        "auth: POST /login 0.0 ms 1.5 ms app1:8101",
        "auth: SELECT primary 2.0 ms 1.5 ms",
        "SELECT 1 FROM x",
    ]
    assert lines[1].startswith("  auth")


def test_a_log_line_says_when_where_who_and_what() -> None:
    line = {"_time": "2026-01-02T03:04:05.678Z", "_HOSTNAME": "app1", "service": "auth", "message": "Welcome"}
    assert explain.log_line(line | {"user_id": "7"}).split() == ["03:04:05.678", "app1", "auth", "Welcome", "user_id=7"]


def test_the_edge_s_line_has_no_message_but_tells_the_same() -> None:
    line = {
        "_time": "2026-01-02T03:04:05.678Z",
        "_HOSTNAME": "edge1",
        "service": "nginx",
        "event": "request",
        "method": "GET",
        "route": "/api/",
        "status": "503",
        "seconds": "2.2",
        "upstream_addr": "a, b",
        "upstream_status": "504, 503",
        "upstream_seconds": "1.1, 1.1",
    }
    assert "GET /api/ answered 503 after 2.2 s, by a, b (504, 503; 1.1, 1.1 s)" in explain.log_line(line)
