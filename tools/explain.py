"""One request's story: its spans as a tree, and the log lines of every host, in the order in which they happened.

    tools/explain.py <request id> [--platform local]

The id is in each answer's X-Request-Id and in each problem's request_id; the request's trace has the same one.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import requests

STATE = Path(__file__).resolve().parents[1] / ".state"
TEXT_ATTRIBUTES = ("db.query.text", "exception.message", "error.type")  # said under their span
SHOWN = 200  # characters of such a text

Json = dict[str, Any]


class Tools:
    """Jaeger and VictoriaLogs behind the operations login."""

    def __init__(self, platform: Json) -> None:
        self._platform = platform
        self._session = requests.Session()
        self._session.auth = (platform["ops_user"], Path(platform["ops_password_file"]).read_text().strip())

    def trace(self, request_id: str) -> Json | None:
        """The trace as Jaeger's query API has it, or None where it has none."""
        answer = self._get("jaeger", f"/api/traces/{request_id}")
        if answer is None or answer.status_code == 404:
            return None
        answer.raise_for_status()
        traces = answer.json()["data"]
        return dict(traces[0]) if traces else None

    def lines(self, request_id: str) -> list[Json]:
        """The log lines of the request, oldest first."""
        query = f"trace_id:={request_id} | sort by (_time)"
        answer = self._get("logs", "/select/logsql/query", query=query, limit=1000)
        if answer is None:
            return []
        answer.raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines() if line]

    def _get(self, tool: str, path: str, **parameters: Any) -> requests.Response | None:
        url = self._platform.get(tool)
        if not url:
            print(f"({tool} was left out: {self._platform['left_out'].get(tool, 'no reason is given')})")
            return None
        # Said with each request: a session's own CA gives way to REQUESTS_CA_BUNDLE.
        return self._session.get(url.rstrip("/") + path, params=parameters, verify=self._platform["ca"], timeout=30)


def span_lines(trace: Json) -> list[str]:
    """A line for each span, children below their parent, with milliseconds since the first and duration."""
    spans = sorted(trace["spans"], key=lambda span: span["startTime"])
    known = {span["spanID"] for span in spans}
    children: dict[str | None, list[Json]] = defaultdict(list)
    for span in spans:
        parents = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
        children[next((parent for parent in parents if parent in known), None)].append(span)
    begun = spans[0]["startTime"]
    lines = []

    def walk(parent: str | None, depth: int) -> None:
        for span in children[parent]:
            process = trace["processes"][span["processID"]]
            attributes = {tag["key"]: tag["value"] for tag in span["tags"]}
            name = f"{'  ' * depth}{process['serviceName']}: {span['operationName']}"
            instance = {tag["key"]: tag["value"] for tag in process["tags"]}.get("service.instance.id", "")
            where = f"  {instance}" if depth == 0 else ""
            failed = "  ERROR" if attributes.get("error") in (True, "true") else ""
            after, took = (span["startTime"] - begun) / 1000, span["duration"] / 1000
            lines.append(f"{name:<58} {after:>9.1f} ms {took:>9.1f} ms{where}{failed}")
            for key in TEXT_ATTRIBUTES:
                if key in attributes:
                    lines.append(f"{'  ' * depth}    {' '.join(str(attributes[key]).split())[:SHOWN]}")
            walk(span["spanID"], depth + 1)

    walk(None, 0)
    return lines


def log_line(line: Json) -> str:
    """What a log line says, with its time, host and service; the edge's has no message but fields."""
    what = line.get("message")
    if not what and line.get("event") == "request":
        what = (
            f"{line.get('method')} {line.get('route')} answered {line.get('status')} after {line.get('seconds')} s, "
            f"by {line.get('upstream_addr')} ({line.get('upstream_status')}; {line.get('upstream_seconds')} s)"
        )
    fields = {key: line[key] for key in ("user_id", "duration_ms", "statement", "detail") if line.get(key)}
    rest = "".join(f"  {key}={' '.join(str(value).split())[:SHOWN]}" for key, value in fields.items())
    who = f"{line.get('_HOSTNAME', '-'):<8} {line.get('service', '-'):<8}"
    return f"{line['_time'][11:23]}  {who} {what or line.get('_msg')}{rest}"


def explain(request_id: str, platform: Json) -> str:
    """The story, or an empty text where nobody knows the request."""
    tools = Tools(platform)
    trace, lines = tools.trace(request_id), tools.lines(request_id)
    if not trace and not lines:
        return ""
    story = [f"Request {request_id}", ""]
    if trace:
        story += [f"{'Spans':<58} {'begins at':>12} {'takes':>12}", *span_lines(trace), ""]
    else:
        story += ["No spans: its trace was not sampled, or has not arrived yet (some seconds).", ""]
    return "\n".join([*story, "Log lines", *(log_line(line) for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="explain", description="Tell one request's story: its spans and log lines.")
    parser.add_argument("request_id", help="32 hexadecimal digits, from an answer's X-Request-Id")
    parser.add_argument("--platform", default="local", help="the inventory's name (default: local)")
    arguments = parser.parse_args()
    if not re.fullmatch("[0-9a-f]{32}", arguments.request_id):
        sys.exit(f"explain: {arguments.request_id!r} is no request id: it has 32 hexadecimal digits (X-Request-Id)")
    path = STATE / arguments.platform / "platform.json"
    if not path.exists():
        sys.exit(f"explain: {path} does not exist: is the platform up? 'make up' makes it")
    try:
        story = explain(arguments.request_id, json.loads(path.read_text()))
    except requests.RequestException as error:
        sys.exit(f"explain: the operations pages do not answer: {error}")
    if not story:
        sys.exit(f"explain: nobody knows {arguments.request_id}: wait some seconds, or it is older than what is kept")
    print(story)


if __name__ == "__main__":
    main()
