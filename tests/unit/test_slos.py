"""Objectives are declared in a form that the rules can keep."""

from pathlib import Path

import yaml

from dashboards.slos import read_slos
from servicekit import metrics

ROOT = Path(__file__).parents[2]


def test_every_service_and_the_edge_have_objectives():
    declared = {path.parent.name for path in ROOT.glob("apps/*/service.yml")}
    assert {slo.service for slo in read_slos(ROOT)} == {*declared, "edge"}


def test_an_objective_leaves_a_budget():
    assert [slo for slo in read_slos(ROOT) if not 0.5 < slo.objective < 1] == []


def test_latency_objectives_are_buckets_of_the_histogram():
    """The count of another bound is empty, and every request would be too slow."""
    for path in ROOT.glob("apps/*/service.yml"):
        for slo in yaml.safe_load(path.read_text())["slos"].values():
            assert slo["latency"]["seconds"] in metrics.REQUEST_BUCKETS
