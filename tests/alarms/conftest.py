"""What the alarms share: a watch over Alertmanager's receivers, the quiet faults, and the table at the end."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from alarms.faults import NOT_MADE, QUIET
from alarms.watching import SEEN, Watch, receivers
from belvedere_platform import ROOT, Platform, wait_until, whole
from platform_fixtures import *


@pytest.fixture(scope="session")
def watch(platform: Platform) -> Iterator[Watch]:
    if platform.name != "local":
        pytest.skip("only the local platform's hosts are containers that a test may break")
    if platform.primary() == "db2":  # a failover made it so, and the first cause is a replica's loss
        platform.ansible("ansible-playbook", "playbooks/switchover.yml", timeout=120)
    with receivers(platform):
        watch = Watch(platform)
        wait_until("the heartbeat arrives", watch.told, seconds=120, every=2)
        yield watch


@pytest.fixture(scope="session", autouse=True)
def quiet(request: pytest.FixtureRequest, watch: Watch) -> Iterator[dict[str, ExitStack]]:
    """The selected quiet faults, begun before anything else: they take their time beside the others."""
    selected = [item.callspec.params.get("quiet_cause") for item in request.session.items if hasattr(item, "callspec")]
    begun = {}
    with ExitStack() as all_of_them:
        for cause in QUIET:
            if cause in selected:
                begun[cause.name] = all_of_them.enter_context(ExitStack())
                watch.begun[cause.name] = time.time()
                begun[cause.name].enter_context(cause.make(watch.platform))
        yield begun


@pytest.fixture(autouse=True)
def platform_recovered(platform: Platform) -> Iterator[None]:
    """Nothing begins before the database, and a user's way, have recovered from what was there before."""
    recovered(platform)
    yield
    recovered(platform)


def recovered(platform: Platform) -> None:
    wait_until("the database is whole", lambda: whole(platform), seconds=180, every=2)
    wait_until(
        "the journey goes well",
        lambda: platform.prometheus("min(probe_journey_success) == 1"),
        seconds=180,
        every=5,
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not SEEN:
        return
    columns = "{:<24} {:>7} {:>7} {:>6}  {}"
    terminalreporter.section("alarms")
    terminalreporter.line(columns.format("alert", "fires", "told", "pages", "cause"))
    for seen in SEEN:
        told = f"{seen.told:.0f} s" if seen.told is not None else "-"
        held = f" (held back by {seen.held_back_by})" if seen.held_back_by else ""
        terminalreporter.line(columns.format(seen.alert, f"{seen.fires:.0f} s", told, seen.pages, seen.cause + held))
        terminalreporter.line(f"{'':<25}{seen.runbook}")
    terminalreporter.line("")
    for alert, reason in sorted(NOT_MADE.items()):
        terminalreporter.line(f"{alert:<24} not made: {reason}")
    path = ROOT / ".state" / str(config.getoption("--platform")) / "alarms.json"
    path.write_text(json.dumps([vars(seen) for seen in SEEN], indent=2) + "\n")
    terminalreporter.line(f"also in {path}")
