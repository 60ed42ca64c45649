"""Clients that write and read through the edge while something breaks, and remember what they were told.

A write is acknowledged when the edge answered 201. Whatever else a client saw (an error, a time-out, a connection that
broke), it cannot know whether the row is there: such writes are counted apart. Each attempt has a title of its own.
Where a connection ends without an answer a client asks once more, a write with the same Idempotency-Key.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import requests
from belvedere_platform import Edge, Platform, at_work, wait_until

WRITERS, READERS = 4, 2
PAUSE = 0.05  # seconds between two requests of a client
PATIENCE = 35  # seconds for one answer; Nginx gives up after 30
RENEWED = 300  # seconds after which clients get a new token


@dataclass
class Ledger:
    """What clients saw of one fault."""

    fault: str
    begun: float = field(default_factory=time.monotonic)
    ended: float = 0
    acknowledged: dict[str, float] = field(default_factory=dict)  # title → when
    unknown: dict[str, str] = field(default_factory=dict)  # title → what the client saw instead
    reads: list[float] = field(default_factory=list)  # when
    failed_reads: list[str] = field(default_factory=list)
    repeated: int = 0  # requests sent once more
    lost: int = 0
    duplicate: int = 0
    note: str = ""

    @property
    def without_writes(self) -> float:
        """Seconds: the longest time in which no write was acknowledged."""
        return self._longest_gap(list(self.acknowledged.values()))

    @property
    def without_reads(self) -> float:
        """Seconds: the longest time in which no read was answered."""
        return self._longest_gap(self.reads)

    def writes_go_on(self, seconds: float = 90) -> None:
        """Wait until several writes in a row were acknowledged, from now on."""
        now = time.monotonic()
        wait_until(
            "writes are acknowledged again",
            lambda: sum(when > now for when in list(self.acknowledged.values())) >= 20,
            seconds=seconds,
            every=0.1,
        )

    def settle(self, platform: Platform, run: str) -> None:
        """Hold what was acknowledged against what the primary has."""
        primary = platform.primary()
        ours = f"from api.items where title like '{run}-%'"
        rows = platform.sql(primary, f"select title, count(*) {ours} group by title", timeout=60)
        stored = Counter({title: int(count) for title, count in (row.split("|") for row in rows.splitlines())})
        self.lost = sum(title not in stored for title in self.acknowledged)
        self.duplicate = sum(count > 1 for count in stored.values())
        platform.sql(primary, f"delete {ours}", timeout=60)

    def _longest_gap(self, moments: list[float]) -> float:
        points = [self.begun, *sorted(moment for moment in moments if moment > self.begun), self.ended]
        return max(later - earlier for earlier, later in pairwise(points))


Watch = Callable[[str], AbstractContextManager[Ledger]]


@contextmanager
def clients(platform: Platform, user: Edge, ledger: Ledger) -> Iterator[None]:
    """Run the clients; afterwards the ledger is settled."""
    run = uuid.uuid4().hex

    def logged_in() -> bool:
        user.log_in()
        return True

    wait_until("the clients' user logs in", logged_in, seconds=20)  # poolers find a whole cluster a moment later
    edges = [Edge(user.url, user.ca, user.token) for _ in range(WRITERS + READERS)]
    writers = [partial(_write, edge, ledger, f"{run}-{n}") for n, edge in enumerate(edges[:WRITERS])]
    readers = [partial(_read, edge, ledger) for edge in edges[WRITERS:]]
    with at_work(*writers, *readers, partial(_stay_logged_in, user, edges)):
        try:
            ledger.writes_go_on(20)  # before anything breaks
            ledger.begun = time.monotonic()
            yield
            ledger.writes_go_on()
        finally:
            ledger.ended = time.monotonic()
    ledger.repeated = sum(edge.repeated for edge in edges)
    ledger.settle(platform, run)


def _stay_logged_in(user: Edge, edges: list[Edge], stop: threading.Event) -> None:
    while not stop.wait(RENEWED):
        with suppress(requests.RequestException, AssertionError):  # while nobody can: the next time
            user.log_in()
            for edge in edges:
                edge.token = user.token


def _write(client: Edge, ledger: Ledger, name: str, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(PAUSE):
        number += 1
        title = f"{name}-{number}"
        ledger.unknown[title] = "no answer yet"
        try:
            answer = client.insist("POST", "/api/v1/items", json={"title": title, "body": ""}, timeout=PATIENCE)
        except requests.RequestException as error:
            ledger.unknown[title] = f"{type(error).__name__}: {error}"
            client.session.close()
            continue
        if answer.status_code == 201:
            del ledger.unknown[title]
            ledger.acknowledged[title] = time.monotonic()
        else:
            ledger.unknown[title] = f"{answer.status_code} {answer.text[:200]}"


def _read(client: Edge, ledger: Ledger, stop: threading.Event) -> None:
    while not stop.wait(PAUSE):
        try:
            answer = client.insist("GET", "/api/v1/items?limit=1", timeout=PATIENCE)
        except requests.RequestException as error:
            ledger.failed_reads.append(f"{type(error).__name__}: {error}")
            client.session.close()
            continue
        if answer.status_code == 200:
            ledger.reads.append(time.monotonic())
        else:
            ledger.failed_reads.append(f"{answer.status_code} {answer.text[:200]}")


def report(ledger: Ledger, writes_within: float) -> None:
    writes, reads = f"{ledger.without_writes:.1f} s without writes", f"{ledger.without_reads:.1f} s without reads"
    print(f"{ledger.fault}: {writes} (bound {writes_within:g}), {reads}")
    assert ledger.without_writes <= 2 * writes_within
