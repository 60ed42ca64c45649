"""What the runbooks say to ask can be asked."""

import re

import pytest
from belvedere_platform import ROOT, Platform

RUNBOOKS = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))}


def queries(tool: str) -> list[tuple[str, str]]:
    found = {alert: re.findall(rf"^    # in {tool}: (.+)$", text, re.MULTILINE) for alert, text in RUNBOOKS.items()}
    return [(alert, query) for alert, asked in found.items() for query in asked]


def test_prometheus_answers_every_query_of_a_runbook(platform: Platform) -> None:
    for _, query in queries("Prometheus"):
        platform.prometheus(query)


@pytest.mark.needs("victorialogs")
def test_victorialogs_answers_every_query_of_a_runbook(platform: Platform) -> None:
    for _, query in queries("VictoriaLogs"):
        platform.logs(query)


def test_operators_read_every_runbook_where_its_alert_s_link_leads(platform: Platform) -> None:
    rules = platform.ask("prometheus", "/api/v1/rules", type="alert").json()["data"]["groups"]
    links = {rule["name"]: rule["annotations"]["runbook"] for group in rules for rule in group["rules"]}
    assert sorted(links) == sorted(RUNBOOKS)
    page = platform.ask("ops", "/runbooks.html").text
    for alert, link in links.items():
        assert link == f"{platform.url('ops')}/runbooks.html#{alert}"
        assert f'<article id="{alert}">' in page
