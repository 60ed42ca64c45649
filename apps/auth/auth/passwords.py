"""Passwords: hashed with bcrypt, bounded to the cores it may use.

A hash is 0.2 s of CPU, so a flood of logins could take the instance down. Whoever needs one first asks for
admission, before anything else is done for them; as many are admitted as may hash or wait. All others are
refused at once, so their threads stay free for what needs no hash: token validation above all.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files

import bcrypt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from servicekit.tracing import Tracing, sampled_trace_id

MIN_LENGTH = 12  # characters
MAX_BYTES = 72  # bcrypt ignores (and its library refuses) what is longer

_BUCKETS = (0.005, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)


class HashingBusy(Exception):
    """The queue is full, or no slot became free within its patience; answer 503 with Retry-After."""


class PasswordHasher:
    """Hashes and verifies passwords of at most 72 bytes, for callers inside `admitted()`.

    cost: bcrypt's log2 rounds; 12 is about 0.22 s of CPU.
    slots: how many hashes may run at once; bcrypt releases the GIL, so each takes a core of its own.
    queue: how many callers may wait for a slot; one more is refused at once.
    patience: seconds to wait for a slot before `HashingBusy`.
    """

    def __init__(
        self, cost: int, slots: int, queue: int, patience: float, tracing: Tracing, registry: CollectorRegistry
    ) -> None:
        self._cost = cost
        self._slots = threading.BoundedSemaphore(slots)
        self._places = threading.BoundedSemaphore(slots + queue)
        self._patience = patience
        self._tracing = tracing
        self._waiting = 0
        self._waiting_lock = threading.Lock()
        duration = Histogram(
            "auth_password_hash_duration_seconds",
            "CPU-bound time of one password hash, without the wait for a slot",
            ("operation",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._duration = {operation: duration.labels(operation) for operation in ("hash", "verify")}
        length = Gauge("auth_password_hash_queue_length", "Callers that wait for a slot to hash in", registry=registry)
        length.set_function(lambda: self._waiting)
        rejected = Counter(
            "auth_password_hash_rejected",
            "Callers refused because the queue was full, or because they had waited long enough",
            ("reason",),
            registry=registry,
        )
        self._rejected = {reason: rejected.labels(reason) for reason in ("queue_full", "patience")}

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place among those who hash or wait. Raises `HashingBusy` at once where all are taken."""
        if not self._places.acquire(blocking=False):
            self._rejected["queue_full"].inc()
            raise HashingBusy
        try:
            yield
        finally:
            self._places.release()

    def upgraded(self, password: str, hashed: str) -> str | None:
        """The hash to store instead of one that was made at another cost; None if there is no need, or no slot now."""
        if _cost_of(hashed) == self._cost:
            return None
        try:
            return self.hash(password)
        except HashingBusy:  # there will be another login
            return None

    def hash(self, password: str) -> str:
        """Raises `HashingBusy`."""
        with self._slot("hash"):
            return bcrypt.hashpw(password.encode(), bcrypt.gensalt(self._cost)).decode()

    def verify(self, password: str, hashed: str | None) -> bool:
        """Whether the password matches; as slow for a wrong one, or for no account (None). Raises `HashingBusy`."""
        stored = hashed or _nobody(self._cost)
        with self._slot("verify"):
            matches = bcrypt.checkpw(password.encode(), stored.encode())
            if not matches:
                # A hash of a lower cost must not tell an account from none: each step costs what all before it do.
                for cost in range(_cost_of(stored), self._cost):
                    bcrypt.checkpw(password.encode(), _nobody(cost).encode())
        return matches and hashed is not None

    @contextmanager
    def _slot(self, operation: str) -> Iterator[None]:
        self._wait_for_slot()
        try:
            with self._tracing.span(f"password.{operation}", {"belvedere.bcrypt.cost": self._cost}):
                begun = time.perf_counter()
                yield
                trace_id = sampled_trace_id()
                self._duration[operation].observe(
                    time.perf_counter() - begun, {"trace_id": trace_id} if trace_id else None
                )
        finally:
            self._slots.release()

    def _wait_for_slot(self) -> None:
        if self._slots.acquire(blocking=False):
            return
        self._count_waiting(1)
        try:
            if not self._slots.acquire(timeout=self._patience):
                self._rejected["patience"].inc()
                raise HashingBusy
        finally:
            self._count_waiting(-1)

    def _count_waiting(self, change: int) -> None:
        with self._waiting_lock:
            self._waiting += change


def is_common(password: str) -> bool:
    """Whether it is among the most common passwords of those that are long enough, whatever its case."""
    return password.lower() in _common_passwords()


@cache
def _common_passwords() -> frozenset[str]:
    lines = files("auth").joinpath("common_passwords.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def _cost_of(hashed: str) -> int:
    return int(hashed.split("$")[2])


def _nobody(cost: int) -> str:
    """A well-formed hash that no password has: costs an unknown account as much time as a known one."""
    return f"$2b${cost:02}$" + "." * 53
