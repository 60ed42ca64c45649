"""How quiet the machine is: others' share of its processors, and how fast it runs a fixed piece of Python."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOREIGN = 0.3  # of all processors; a repeat with more is measured anew
SLOW = 0.8  # of the fastest loop seen; a repeat in a slower one is measured anew

_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Noise:
    """foreign: the share of all processors that went to others. speed: the fixed loop's, against the best so far."""

    foreign: float
    speed: float

    @property
    def loud(self) -> bool:
        return self.foreign > FOREIGN or self.speed < SLOW


@dataclass(frozen=True)
class Moment:
    """Seconds: the clock, and what all processes and the bench's own have used of the processors so far."""

    clock: float
    all: float
    own: float


class Listener:
    """Tells how noisy the time since a moment was."""

    def __init__(self, servers: list[int]) -> None:
        """servers: processes that are the bench's own, but not its children."""
        self._servers = servers
        self._best = min(_loop() for _ in range(5))

    def now(self) -> Moment:
        return Moment(time.monotonic(), _busy_seconds(), _own_seconds(self._servers))

    def foreign(self, since: Moment) -> float:
        """Others' share of all processors."""
        now = self.now()
        others = now.all - since.all - (now.own - since.own)
        return min(max(others / (now.clock - since.clock) / (os.cpu_count() or 1), 0.0), 0.95)

    def speed(self) -> float:
        """This moment's, against the best so far."""
        took = min(_loop() for _ in range(3))  # the fastest of some: another process may have had its turn in one
        self._best = min(self._best, took)
        return self._best / took


def _loop() -> float:
    begun = time.perf_counter()
    total = 0
    for number in range(300_000):
        total += number & 7
    return time.perf_counter() - begun


def _busy_seconds() -> float:
    """What all processes used of the processors, and what the machine's own host withheld."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _HZ


def _own_seconds(servers: list[int]) -> float:
    """What this process and the servers, their children, their children's children, ... used."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            parents[int(process.name)] = int(fields[1])
            used[int(process.name)] = sum(map(int, fields[11:15]))  # utime, stime, and those of children waited for
    own = {os.getpid(), *servers}
    while found := {process for process, parent in parents.items() if parent in own} - own:
        own |= found
    return sum(used.get(process, 0) for process in own) / _HZ
