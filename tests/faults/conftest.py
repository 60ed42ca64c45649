"""What fault tests share: clients with a ledger, a cluster that is whole before and after, the table at the end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from belvedere_platform import ROOT, Edge, Platform, wait_until, whole
from faults.ledger import Ledger, Watch, clients
from platform_fixtures import *

LEDGERS: list[Ledger] = []


@pytest.fixture(autouse=True)
def local_and_whole(platform: Platform) -> Iterator[None]:
    """Faults are for containers that a test may kill, and begin and end with a cluster that is whole."""
    if platform.name != "local":
        pytest.skip("only the local platform's hosts are containers that a test may break")
    wait_until("the cluster is whole", lambda: whole(platform), seconds=60)
    yield
    wait_until("the cluster is whole again", lambda: whole(platform), seconds=180, every=2)


@pytest.fixture
def watch(platform: Platform, user: Edge) -> Watch:
    """Clients write and read while a fault, whose name it takes, runs its course; gives their ledger."""

    @contextmanager
    def watched(fault: str) -> Iterator[Ledger]:
        ledger = Ledger(fault)
        LEDGERS.append(ledger)
        with clients(platform, user, ledger):
            yield ledger
        assert ledger.lost == 0, f"{ledger.lost} acknowledged writes are gone"
        assert ledger.duplicate == 0, f"{ledger.duplicate} writes are there more than once"

    return watched


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not LEDGERS:
        return
    columns = "{:<58} {:>6} {:>5} {:>10} {:>8} {:>9} {:>8} {:>8}"
    terminalreporter.section("faults")
    terminalreporter.line(
        columns.format("fault", "writes", "lost", "duplicate", "unknown", "asked", "s without", "s without")
    )
    terminalreporter.line(columns.format("", "", "", "", "", "again", "writes", "reads"))
    for ledger in LEDGERS:
        terminalreporter.line(
            columns.format(
                ledger.fault,
                len(ledger.acknowledged),
                ledger.lost,
                ledger.duplicate,
                len(ledger.unknown),
                ledger.repeated,
                f"{ledger.without_writes:.1f}",
                f"{ledger.without_reads:.1f}",
            )
            + (f"  {ledger.note}" if ledger.note else "")
        )
    table = [
        {
            "fault": ledger.fault,
            "acknowledged": len(ledger.acknowledged),
            "lost": ledger.lost,
            "duplicate": ledger.duplicate,
            "unknown": len(ledger.unknown),
            "repeated": ledger.repeated,
            "failed_reads": len(ledger.failed_reads),
            "seconds_without_writes": round(ledger.without_writes, 1),
            "seconds_without_reads": round(ledger.without_reads, 1),
        }
        for ledger in LEDGERS
    ]
    path = ROOT / ".state" / str(config.getoption("--platform")) / "faults.json"
    path.write_text(json.dumps(table, indent=2) + "\n")
    terminalreporter.line(f"also in {path}")
