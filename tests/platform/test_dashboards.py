"""Every query of every dashboard is answered by the running platform: panels, annotations, variables and links.

A panel's `noValue` and an annotation's `emptyWhen` say when they rightly show nothing; without, they must not.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from belvedere_platform import PASSWORD, ROOT, Edge, Platform, wait_until

DASHBOARDS = sorted((ROOT / "dashboards" / "json").glob("*.json"))
SPAN = 3600  # seconds that dashboards show
STEP = "30s"
NEEDS = {"victoriametrics-logs-datasource": "victorialogs", "jaeger": "jaeger"}


@dataclass(frozen=True)
class Asked:
    """One query: `what` it is for, the kind of data source, the query as Grafana would send it, why it may be empty."""

    what: str
    source: str
    query: dict[str, Any]
    empty_when: str


@pytest.fixture(scope="module", autouse=True)
def traffic(platform: Platform, user: Edge) -> None:
    """Some of everything, so that there is something to see."""
    item = user.post("/api/v1/items", json={"title": "seen", "body": ""}).headers["Location"]
    for _ in range(5):
        user.get(item)
        user.get("/api/v1/items")
        user.get("/validate")
        user.get("/none")
    platform.edge.post("/login", json={"email": "nobody@example.com", "password": PASSWORD})


def dashboard_queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], str]]:
    """Every query of a dashboard: what for, its data source, the query itself, why it may be empty."""
    for panel in dashboard["panels"]:
        why = panel.get("fieldConfig", {}).get("defaults", {}).get("noValue", "")
        for target in panel.get("targets", []):
            yield panel["title"], target.get("datasource") or panel["datasource"], target, why
        for link in panel.get("links", []):
            pane = json.loads(parse_qs(urlsplit(link["url"]).query)["panes"][0])["panel"]
            for query in pane["queries"]:
                yield f"{panel['title']}: link {link['title']}", query["datasource"], query, "it leads where it is rare"
    for annotation in dashboard["annotations"]["list"]:
        query = {"expr": annotation["expr"]}
        yield f"annotation {annotation['name']}", annotation["datasource"], query, annotation["emptyWhen"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])
            assert metric, f"no label_values: {variable['query']}"
            yield f"variable {variable['name']}", variable["datasource"], {"expr": metric[1]}, ""


def substituted(text: str, dashboard: dict[str, Any]) -> str:
    """The text with Grafana's variables replaced: its own by spans of time, the dashboard's by all of their values."""
    for name, span in (("rate_interval", "5m"), ("interval", "1m"), ("range", "1h")):
        text = re.sub(rf"\$__{name}\b|\$\{{__{name}\}}", span, text)
    for variable in dashboard["templating"]["list"]:
        everything = (variable.get("allValue") or str(variable["current"]["value"])).replace("\\", r"\\")
        text = re.sub(rf"\${variable['name']}\b|\$\{{{variable['name']}(:\w+)?\}}", everything, text)
    assert not re.search(r"\$[a-z{]", text), f"a variable that nobody defines: {text}"
    return text


def asked(path: Path) -> Iterator[Asked]:
    dashboard = json.loads(path.read_text())
    for what, source, query, empty_when in dashboard_queries(dashboard):
        filled = {
            key: substituted(value, dashboard) if isinstance(value, str) else value for key, value in query.items()
        }
        yield Asked(f"{path.stem}: {what}", source["type"], filled, empty_when)


def cases() -> list[Any]:
    everything = [each for path in DASHBOARDS for each in asked(path)]
    # Annotations and links are the same on many dashboards: each query is asked once.
    once = {(each.source, json.dumps(each.query, sort_keys=True)): each for each in reversed(everything)}
    marks = {source: [pytest.mark.needs(component)] for source, component in NEEDS.items()}
    return [pytest.param(each, marks=marks.get(each.source, []), id=each.what) for each in reversed(once.values())]


def answer(platform: Platform, each: Asked) -> list[Any]:
    """What the data source answers. Raises where it refuses the query."""
    query, now = each.query, time.time()
    if each.source == "prometheus":
        return platform.prometheus(query["expr"])
    if each.source == "jaeger":
        search = {key: value for key, value in query.items() if key in ("service", "operation", "minDuration", "limit")}
        if query.get("tags"):
            search["tags"] = json.dumps(dict([query["tags"].split("=", 1)]))
        times = {"start": int((now - SPAN) * 1e6), "end": int(now * 1e6)}
        return list(platform.ask("jaeger", "/api/traces", **search, **times).json()["data"])
    assert each.source == "victoriametrics-logs-datasource", f"nobody asks {each.source}"
    times = {"start": int(now - SPAN), "end": int(now)}
    if query["queryType"] == "statsRange":
        path = "/select/logsql/stats_query_range"
        found = platform.ask("logs", path, query=query["expr"], step=STEP, **times).json()["data"]["result"]
        return list(found)
    return platform.ask("logs", "/select/logsql/query", query=query["expr"], limit=1, **times).text.splitlines()


def test_there_are_queries_of_every_kind_of_data_source() -> None:
    assert {case.values[0].source for case in cases()} == {"prometheus", *NEEDS}


@pytest.mark.parametrize("each", cases())
def test_the_query_is_answered(platform: Platform, each: Asked) -> None:
    if each.empty_when:
        answer(platform, each)
    else:
        wait_until(f"{each.source} answers {each.query}", lambda: answer(platform, each), seconds=45)
