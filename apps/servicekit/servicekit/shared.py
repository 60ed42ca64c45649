"""What a service's instances share for a while, in Valkey, and can do without.

Nobody waits for it: a call takes VALKEY_TIMEOUT_MS at most for each of its few steps (connect, handshake, log in,
answer). One that fails opens the circuit: for PAUSE seconds nobody asks, then one caller tries while others still go
on without. Whoever calls `ask` has something else to do when it raises `StoreUnavailable`.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram
from valkey import Valkey
from valkey.backoff import NoBackoff
from valkey.connection import Connection, ConnectionPool, SSLConnection
from valkey.exceptions import ValkeyError
from valkey.retry import Retry

from servicekit.logging import event
from servicekit.metrics import Metrics
from servicekit.settings import ServiceSettings
from servicekit.tracing import Tracing

PAUSE = 5.0  # seconds after a failure in which nobody asks
BUCKETS = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)

Result = TypeVar("Result")
Script = Callable[..., Any]  # called with `keys` and `args`


class StoreUnavailable(Exception):
    """Valkey did not answer well in time, or did not just now, so it was not asked."""


class Store:
    """A service's part of Valkey: the keys that begin with its name and a colon."""

    def __init__(self, service: str, settings: ServiceSettings, metrics: Metrics, tracing: Tracing) -> None:
        self._tracing = tracing
        self._client = Valkey(connection_pool=_pool(service, settings))
        self._lock = threading.Lock()
        self._retry_at: float | None = None  # None: the circuit is closed
        self._requests = Counter(
            "valkey_requests",
            "Calls of Valkey: answered, failed, or skipped because one failed just now",
            ("outcome",),
            registry=metrics.registry,
        )
        for outcome in ("answered", "failed", "skipped"):
            self._requests.labels(outcome)
        self._seconds = Histogram(
            "valkey_request_duration_seconds",
            "Time of one call of Valkey, a connection included where one was made",
            buckets=BUCKETS,
            registry=metrics.registry,
        )

    def script(self, text: str) -> Script:
        """A Lua script, to be called inside `ask`; Valkey is sent its text once."""
        script: Script = self._client.register_script(text)
        return script

    def delete(self, key: str) -> None:
        """Forget a key; inside `ask`, too."""
        self._client.delete(key)

    def ask(self, operation: str, call: Callable[[], Result], insist: bool = False) -> Result:
        """What the call returns. `insist`: try even while the circuit is open. Raises `StoreUnavailable`."""
        if not self._may_ask() and not insist:
            self._requests.labels("skipped").inc()
            raise StoreUnavailable("it failed just now")
        begun = time.perf_counter()
        attributes = {"db.system.name": "valkey", "db.operation.name": operation}
        try:
            with self._tracing.span(f"{operation} valkey", attributes, SpanKind.CLIENT):
                answer = call()
        except (ValkeyError, OSError) as error:
            self._open(error)
            raise StoreUnavailable(str(error)) from error
        finally:
            self._seconds.observe(time.perf_counter() - begun)
        self._close()
        return answer

    def close(self) -> None:
        self._client.connection_pool.disconnect()

    def _may_ask(self) -> bool:
        if self._retry_at is None:
            return True
        with self._lock:
            now = time.monotonic()
            if self._retry_at is not None and now < self._retry_at:
                return False
            self._retry_at = now + PAUSE  # this caller finds out; others do not wait with it
            return True

    def _open(self, error: Exception) -> None:
        self._requests.labels("failed").inc()
        with self._lock:
            was_closed, self._retry_at = self._retry_at is None, time.monotonic() + PAUSE
        # The other connections are as old as the one that failed.
        self._client.connection_pool.disconnect(inuse_connections=False)
        if was_closed:
            event("valkey_unavailable", "Going on without Valkey", logging.WARNING, detail=str(error))

    def _close(self) -> None:
        self._requests.labels("answered").inc()
        if self._retry_at is not None:
            with self._lock:
                self._retry_at = None
            event("valkey_available", "Valkey answers again")


def _pool(service: str, settings: ServiceSettings) -> ConnectionPool:
    assert settings.valkey_address  # noqa: S101  whoever has none makes no store
    host, port = settings.valkey_address.rsplit(":", 1)
    seconds = settings.valkey_timeout_ms / 1000
    parameters: dict[str, Any] = {
        "host": host,
        "port": int(port),
        "socket_connect_timeout": seconds,
        "socket_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
        "lib_name": None,  # two round trips at each connection
        "lib_version": None,
        "decode_responses": True,
    }
    if settings.valkey_password:
        parameters |= {"username": service, "password": settings.valkey_password.get_secret_value()}
    if settings.tls:
        parameters |= {
            "connection_class": SSLConnection,
            "ssl_ca_certs": str(settings.tls_ca),
            "ssl_certfile": str(settings.tls_cert),
            "ssl_keyfile": str(settings.tls_key),
            "ssl_check_hostname": True,
        }
    else:
        parameters["connection_class"] = Connection
    return ConnectionPool(**parameters)
