"""Dashboards as they are committed: every panel can be read, and none hides another."""

import itertools
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "dashboards" / "json").glob("*.json"))
TEMPLATE = (ROOT / "roles" / "grafana" / "templates" / "datasources.yaml.j2").read_text()
SOURCES = set(re.findall(r"^    uid: (\S+)$", TEMPLATE, re.MULTILINE))
# A dashboard for each of these, beside the services'.
BOARDS = {
    "overview",
    "edge",
    "postgresql",
    "pooler",
    "hosts",
    "logins",
    "logs",
    "traces",
    "backups",
    "watchers",
}
GRAFANA_S_OWN = {"__rate_interval", "__interval", "__range", "__from", "__to", "__all"}


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request):
    return json.loads(request.param.read_text())


def shown(dashboard):
    """The panels that are no rows' titles."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert panels
    return panels


def variables(dashboard):
    """The dashboard's variables, by name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def source(dashboard, part):
    """The uid of the data source that a panel, an annotation or a variable asks."""
    uid = part["datasource"]["uid"]
    return variables(dashboard)["environment"]["current"]["value"] if uid == "${environment}" else uid


def test_every_part_of_the_platform_has_a_dashboard():
    assert BOARDS - {path.stem for path in DASHBOARDS} == set()


def test_every_service_has_a_dashboard():
    names = [yaml.safe_load(path.read_text())["name"] for path in ROOT.glob("apps/*/service.yml")]
    assert {f"service-{name}" for name in names} <= {path.stem for path in DASHBOARDS}


def test_the_dashboard_is_of_the_schema_that_grafana_writes(dashboard):
    assert dashboard["schemaVersion"] in (41, 42)


def test_every_panel_has_a_title_a_description_and_a_unit(dashboard):
    for panel in shown(dashboard):
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_panels_have_different_titles(dashboard):
    titles = [panel["title"] for panel in shown(dashboard)]
    assert len(titles) == len(set(titles))


def test_everything_asks_a_known_data_source(dashboard):
    queried = [variable for variable in variables(dashboard).values() if variable["type"] == "query"]
    for part in [*shown(dashboard), *dashboard["annotations"]["list"], *queried]:
        assert source(dashboard, part) in SOURCES, part.get("title") or part["name"]
    assert [panel["title"] for panel in shown(dashboard) if not panel["targets"]] == []


def test_every_variable_that_is_used_is_there_and_the_other_way_round(dashboard):
    text = json.dumps([dashboard["panels"], dashboard["annotations"], dashboard["templating"]])
    used = set(re.findall(r"\$\{?([a-z_]\w*)", text)) - GRAFANA_S_OWN
    assert used == set(variables(dashboard))


def test_links_lead_to_explore_with_a_query_of_a_known_data_source(dashboard):
    for panel in shown(dashboard):
        for link in panel.get("links", []):
            address = urlsplit(link["url"])
            pane = json.loads(parse_qs(address.query)["panes"][0])["panel"]
            assert address.path == "/explore"
            assert pane["datasource"] in SOURCES
            assert [query["datasource"]["uid"] for query in pane["queries"]] == [pane["datasource"]]


def test_data_sources_name_only_one_another():
    named = set(re.findall(r"datasourceUid: (\S+)", TEMPLATE))
    assert named
    assert named <= SOURCES


def test_every_service_s_dashboard_leads_to_its_traces_and_logs():
    for path in DASHBOARDS:
        if path.stem.startswith("service-"):
            panels = shown(json.loads(path.read_text()))
            assert [panel["title"] for panel in panels if any(target.get("exemplar") for target in panel["targets"])]
            assert {"Log lines", "Traces"} <= {
                re.sub(r" of \w+$", "", link["title"]) for panel in panels for link in panel.get("links", [])
            }


def test_no_panel_lies_on_another_or_beyond_the_edge(dashboard):
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        apart_across = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_down = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_across or apart_down, f"{a} and {b}"
