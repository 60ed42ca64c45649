"""Dashboards as they are committed: every panel can be read, and none hides another."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "dashboards" / "json").glob("*.json"))
SOURCES = {
    "prometheus",
    "alertmanager",
    "jaeger",
    "victorialogs",
}  # uids in roles/grafana/templates/datasources.yaml.j2


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request):
    return json.loads(request.param.read_text())


def shown(dashboard):
    """The panels that are no rows' titles."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert panels
    return panels


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


def test_every_panel_asks_a_known_data_source(dashboard):
    template = (ROOT / "roles/grafana/templates/datasources.yaml.j2").read_text()
    for panel in shown(dashboard):
        assert panel["datasource"]["uid"] in SOURCES, panel["title"]
        assert f"uid: {panel['datasource']['uid']}\n" in template
        assert panel["targets"], panel["title"]


def test_no_panel_lies_on_another_or_beyond_the_edge(dashboard):
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        apart_across = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_down = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_across or apart_down, f"{a} and {b}"
