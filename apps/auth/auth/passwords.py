"""Password hashing: bcrypt, bounded to the cores it may use."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import bcrypt
from prometheus_client import CollectorRegistry, Histogram

from servicekit.tracing import Tracing, sampled_trace_id

MAX_BYTES = 72  # bcrypt ignores (and its library refuses) what is longer

_BUCKETS = (0.005, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)


class HashingBusy(Exception):
    """No slot became free within the queue's patience; the caller should answer 503 with Retry-After."""


class PasswordHasher:
    """Hashes and verifies passwords of at most 72 bytes.

    cost: bcrypt's log2 rounds; 12 is about 0.22 s of CPU.
    slots: how many hashes may run at once, one per core.
    queue: how many callers may wait for a slot; one more is refused at once.
    patience: seconds to wait for a slot before `HashingBusy`.
    """

    def __init__(
        self, cost: int, slots: int, queue: int, patience: float, tracing: Tracing, registry: CollectorRegistry
    ) -> None:
        self._cost = cost
        self._slots = threading.BoundedSemaphore(slots)
        self._admitted = threading.BoundedSemaphore(slots + queue)
        self._patience = patience
        self._tracing = tracing
        duration = Histogram(
            "auth_password_hash_duration_seconds",
            "CPU-bound time of one password hash, without the wait for a slot",
            ("operation",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._duration = {operation: duration.labels(operation) for operation in ("hash", "verify")}
        # A well-formed hash that no password has: costs an unknown account as much time as a known one.
        self._nobody = f"$2b${cost:02}$" + "." * 53

    def hash(self, password: str) -> str:
        """Raises `HashingBusy`."""
        with self._slot("hash"):
            return bcrypt.hashpw(password.encode(), bcrypt.gensalt(self._cost)).decode()

    def verify(self, password: str, hashed: str | None) -> bool:
        """Whether the password matches; as slow for a wrong one, or for no account (None). Raises `HashingBusy`."""
        with self._slot("verify"):
            matches = bcrypt.checkpw(password.encode(), (hashed or self._nobody).encode())
        return matches and hashed is not None

    @contextmanager
    def _slot(self, operation: str) -> Iterator[None]:
        if not self._admitted.acquire(blocking=False):
            raise HashingBusy
        try:
            if not self._slots.acquire(timeout=self._patience):
                raise HashingBusy
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
        finally:
            self._admitted.release()
