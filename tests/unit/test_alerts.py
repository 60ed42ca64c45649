"""Every alert tells what to do, and has been seen to fire and to stay silent."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("Meaning.", "Impact.", "First checks", "Mitigation", "Verify.")


def rules():
    groups = [group for path in ROOT.glob("alerts/*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


NAMES = sorted({rule["alert"] for rule in rules()})


def expectations(name):
    """What the promtool tests expect of the alert: for each case, whether it fires."""
    files = [yaml.safe_load(path.read_text()) for path in ROOT.glob("alerts/tests/*.yml")]
    cases = [case for file in files for test in file["tests"] for case in test.get("alert_rule_test", [])]
    return {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == name}


def test_no_two_groups_have_one_name():
    """Prometheus gets them in one file."""
    names = [
        group["name"] for path in ROOT.glob("alerts/*.yml") for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert sorted(names) == sorted(set(names))


def test_every_rule_names_its_alert_s_runbook():
    assert [
        rule["alert"] for rule in rules() if rule["annotations"]["runbook"] != f"docs/runbooks/{rule['alert']}.md"
    ] == []


def test_there_are_runbooks_for_alerts_and_for_nothing_else():
    assert sorted(path.stem for path in ROOT.glob("docs/runbooks/*.md")) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_the_runbook_has_all_its_parts(name):
    text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    assert [part for part in PARTS if f"**{part}" not in text] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_the_runbook_begins_with_three_checks_of_which_one_is_a_command_and_one_a_query(name):
    text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    first = text[text.index("**First checks") : text.index("**Mitigation")]
    checks = [line.strip() for line in first.splitlines() if line.startswith("    ")]
    commands = [check for check in checks if check.startswith(("ssh ", "ansible-playbook ", "docker ", "openssl "))]
    assert len(checks) >= 3
    assert commands
    assert len(commands) < len(checks)


@pytest.mark.parametrize("name", NAMES)
def test_promtool_sees_the_alert_fire(name):
    assert True in expectations(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_promtool_sees_the_alert_stay_silent(name):
    assert False in expectations(name)
