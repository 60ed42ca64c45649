"""What tests of faults and of changes share: clients with a ledger, a cluster that is whole before and after, the
table at the end. The conftest.py of each folder of them takes it from here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from belvedere_platform import ROOT, Edge, Platform, wait_until, whole
from ledger import Ledger, Watch, clients

LEDGERS: list[Ledger] = []


@pytest.fixture(autouse=True)
def local_and_whole(platform: Platform) -> Iterator[None]:
    """Only containers are for a test to break; it begins and ends with a cluster that is whole."""
    if platform.name != "local":
        pytest.skip("only the local platform's hosts are containers that a test may break")
    wait_until("the cluster is whole", lambda: whole(platform), seconds=60)
    yield
    wait_until("the cluster is whole again", lambda: whole(platform), seconds=180, every=2)


@pytest.fixture
def primary(platform: Platform) -> str:
    return platform.primary()


@pytest.fixture
def replicas(platform: Platform, primary: str) -> list[str]:
    return [host for host in platform.groups["postgres"] if host != primary]


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


def summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config, title: str) -> None:
    """Print the table, and keep it as JSON."""
    if not LEDGERS:
        return
    columns = "{:<58} {:>6} {:>5} {:>10} {:>8} {:>9} {:>8} {:>8}"
    terminalreporter.section(title)
    terminalreporter.line(
        columns.format("", "writes", "lost", "duplicate", "unknown", "asked", "s without", "s without")
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
    path = ROOT / ".state" / str(config.getoption("--platform")) / f"{title}.json"
    path.write_text(json.dumps(table, indent=2) + "\n")
    terminalreporter.line(f"also in {path}")
