"""The database as a service sees it: two pools of connections (primary, replica) that wait, and what to retry.

Behind both is PgBouncer in transaction mode, so no session state is kept: single statements run in autocommit
(which saves a fifth of their time), several run in an explicit `transaction()`.

* A connection that broke is discarded. A SELECT outside a transaction is retried once on a fresh connection;
  anything else fails, for it may have been carried out.
* `replica()` falls back to the primary when no replica can be reached, and when the one it got has not replayed
  this client's last write yet: after a write the session asks for the log's position, which the client carries.
* Errors: `DatabaseUnavailable` (away, or failing over) and `PoolExhausted` (busy); both mean 503 with Retry-After.
"""

import logging
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from opentelemetry.trace import SpanKind

from servicekit import position
from servicekit.logging import event
from servicekit.metrics import Metrics
from servicekit.settings import DatabaseSettings, ServiceSettings
from servicekit.tracing import Tracing, traceparent

CONNECT_TIMEOUT = 2  # seconds
IDLE_TIMEOUT = 30.0  # seconds after which an unused connection is closed

# Asked of the primary after a write. Neither this nor the next is observed, like BEGIN and COMMIT.
WRITTEN_UP_TO = "SELECT pg_current_wal_insert_lsn()"
# Asked of a replica before a read; it may have become the primary, or be one that stands in while there is no replica.
HAS_REACHED = """
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
        >= %(position)s::pg_lsn
"""

Parameters = Mapping[str, Any]
Row = tuple[Any, ...]
Result = TypeVar("Result")
Connect = Callable[[], psycopg2.extensions.connection]


class DatabaseUnavailable(Exception):
    """The database cannot be reached or cannot serve now; try again in some seconds."""


class PoolExhausted(DatabaseUnavailable):
    """All of this instance's connections stayed busy for POOL_WAIT seconds."""


def connect(settings: DatabaseSettings, dbname: str, application_name: str) -> psycopg2.extensions.connection:
    """Connect to any pooler, in random order, so that one may be lost.

    While the password is being changed there are two, one a line, the newer first; whichever is taken will do.
    """
    hosts, ports = zip(*(entry.rsplit(":", 1) for entry in settings.database_hosts.split(",")), strict=True)
    parameters: dict[str, Any] = {
        "host": ",".join(hosts),
        "port": ",".join(ports),
        "load_balance_hosts": "random",
        "dbname": dbname,
        "user": settings.database_user,
        "sslmode": settings.database_sslmode,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT,
    }
    if settings.tls_ca:
        parameters["sslrootcert"] = str(settings.tls_ca)
    passwords = settings.database_password.get_secret_value().splitlines()
    for password in passwords[:-1]:
        try:
            return _connect(parameters, password)
        except psycopg2.OperationalError as error:
            if "authentication failed" not in str(error):
                raise
    return _connect(parameters, passwords[-1])


def _connect(parameters: Parameters, password: str) -> psycopg2.extensions.connection:
    connection: psycopg2.extensions.connection = psycopg2.connect(**parameters, password=password)
    return connection


@dataclass
class _Idle:
    connection: psycopg2.extensions.connection
    since: float


class Pool:
    """At most `size` connections; a caller waits up to `patience` seconds for one."""

    def __init__(self, connect: Connect, size: int, patience: float, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self._connect = connect
        self._size = size
        self._patience = patience
        self._idle_timeout = idle_timeout
        self._changed = threading.Condition()
        self._idle: deque[_Idle] = deque()  # the most recently used on the right
        self._total = 0
        self.waiting = 0

    @property
    def in_use(self) -> int:
        return self._total - len(self._idle)

    @property
    def idle(self) -> int:
        """Connections kept for the next caller. Reading it (each scrape does) closes those unused for too long."""
        with self._changed:
            self._close_stale()
            return len(self._idle)

    def acquire(self, fresh: bool = False) -> psycopg2.extensions.connection:
        """Lend a connection; `fresh` drops the idle ones first, which are suspect once one of them broke."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            if fresh:
                self._close_all_idle()
            while True:
                self._close_stale()
                while self._idle:
                    connection = self._idle.pop().connection
                    if not _went_away(connection):
                        return connection
                    self._discard(connection)
                if self._total < self._size:
                    self._total += 1  # the place is taken while connecting, outside the lock
                    break
                self._wait(deadline)
        try:
            connection = self._connect()
            connection.autocommit = True
            return connection
        except psycopg2.Error as error:
            self._give_place_back()
            raise DatabaseUnavailable(_first_line(error)) from error
        except BaseException:
            self._give_place_back()
            raise

    def release(self, connection: psycopg2.extensions.connection, broken: bool) -> None:
        with self._changed:
            if broken or connection.closed:
                self._discard(connection)
            else:
                self._idle.append(_Idle(connection, time.monotonic()))
            self._close_stale()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._close_all_idle()

    def _wait(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise PoolExhausted(f"all {self._size} connections stayed busy for {self._patience:g} s")
        self.waiting += 1
        try:
            self._changed.wait(remaining)
        finally:
            self.waiting -= 1

    def _give_place_back(self) -> None:
        with self._changed:
            self._total -= 1
            self._changed.notify()

    def _discard(self, connection: psycopg2.extensions.connection) -> None:
        self._total -= 1
        with suppress(psycopg2.Error):
            connection.close()

    def _close_stale(self) -> None:
        limit = time.monotonic() - self._idle_timeout
        while self._idle and self._idle[0].since < limit:
            self._discard(self._idle.popleft().connection)

    def _close_all_idle(self) -> None:
        while self._idle:
            self._discard(self._idle.popleft().connection)


class Session:
    """Runs statements on one target, inside `with`. A connection is taken at the first one and kept until the end."""

    def __init__(self, database: "Database", target: str, in_transaction: bool = False) -> None:
        self.target = target  # after the first statement: who answered
        self._database = database
        self._in_transaction = in_transaction
        self._connection: psycopg2.extensions.connection | None = None
        self._broken = False
        self._wrote = False

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def one(self, sql: str, parameters: Parameters) -> Row | None:
        """The first row, or None."""
        return self._run(sql, parameters, lambda cursor: cursor.fetchone())

    def returning(self, sql: str, parameters: Parameters) -> Row:
        """The row that a write always returns."""
        row = self.one(sql, parameters)
        if row is None:
            raise LookupError("the statement returned no row")
        return row

    def all(self, sql: str, parameters: Parameters) -> list[Row]:
        return self._run(sql, parameters, lambda cursor: cursor.fetchall())

    def execute(self, sql: str, parameters: Parameters) -> int:
        """Run a statement that returns no rows; the number of rows it touched."""
        return self._run(sql, parameters, lambda cursor: cursor.rowcount)

    def _run(self, sql: str, parameters: Parameters, fetch: Callable[[psycopg2.extensions.cursor], Result]) -> Result:
        operation = _operation(sql)
        try:
            return self._attempt(operation, sql, parameters, fetch, fresh=False)
        except PoolExhausted:
            raise
        except DatabaseUnavailable:
            if operation != "SELECT" or self._in_transaction:
                raise
            self._end()
            return self._attempt(operation, sql, parameters, fetch, fresh=True)

    def _attempt(
        self,
        operation: str,
        sql: str,
        parameters: Parameters,
        fetch: Callable[[psycopg2.extensions.cursor], Result],
        fresh: bool,
    ) -> Result:
        connection = self._connected(fresh)
        with self._database.observed(operation, self.target, sql), self._translated(), connection.cursor() as cursor:
            self._wrote = self._wrote or operation != "SELECT"
            cursor.execute(_traced(sql), parameters)
            return fetch(cursor)

    def _connected(self, fresh: bool) -> psycopg2.extensions.connection:
        if self._connection is None:
            self._connection = self._connect(fresh)
            needed = position.needed() if self.target == "replica" else None
            if needed and not self._has_reached(needed, self._connection):
                self._end()
                self._database.replica_was_behind()
                self.target = "primary"
                self._connection = self._connect(fresh)
        return self._connection

    def _connect(self, fresh: bool) -> psycopg2.extensions.connection:
        self.target, connection = self._database.connect(self.target, fresh)
        if self._in_transaction:
            connection.autocommit = False
        return connection

    def _has_reached(self, needed: str, connection: psycopg2.extensions.connection) -> bool:
        """Whether the server has come as far. It stays the same one until the transaction that this begins ends."""
        connection.autocommit = False
        with self._translated(), connection.cursor() as cursor:
            cursor.execute(HAS_REACHED, {"position": needed})
            (reached,) = cursor.fetchone() or (False,)
        return bool(reached)

    def _remember_position(self, connection: psycopg2.extensions.connection) -> None:
        """Let the client carry how far the log has come with what it wrote, or may have written."""
        position.remember(position.UNKNOWN)
        if self._broken:
            return
        # The write has happened, and must not fail for this.
        with suppress(DatabaseUnavailable), self._translated(), connection.cursor() as cursor:
            cursor.execute(WRITTEN_UP_TO)
            (written,) = cursor.fetchone() or (position.UNKNOWN,)
            position.remember(written)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's ways of saying 'away' into `DatabaseUnavailable`; other errors pass."""
        try:
            yield
        except (
            psycopg2.OperationalError,
            psycopg2.InterfaceError,
            # A primary that was demoted while we were connected to it.
            psycopg2.errors.ReadOnlySqlTransaction,
        ) as error:
            self._broken = True
            raise DatabaseUnavailable(_first_line(error)) from error

    def _commit(self) -> None:
        if self._connection:
            with self._translated():
                self._connection.commit()
                self._connection.autocommit = True

    def _rollback(self) -> None:
        if self._connection and not self._broken:
            try:
                self._connection.rollback()
                self._connection.autocommit = True
            except psycopg2.Error:
                self._broken = True

    def _end(self) -> None:
        if self._connection is None:
            return
        if not self._connection.autocommit:  # reads of a replica that was asked for its position
            self._rollback()
        if self._wrote and position.is_carried():
            self._remember_position(self._connection)
        self._database.give_back(self.target, self._connection, self._broken)
        self._connection, self._broken, self._wrote = None, False, False


class Database:
    """The service's database: `primary()`, `replica()`, `transaction()` and `find()`."""

    def __init__(self, service: str, settings: ServiceSettings, metrics: Metrics, tracing: Tracing) -> None:
        self._slow = settings.slow_query_ms / 1000
        self._metrics = metrics
        self._tracing = tracing
        application_name = f"{service}@{settings.instance}"

        def pool(target: str, dbname: str, size: int) -> Pool:
            made = Pool(lambda: connect(settings, dbname, application_name), size, settings.pool_wait)
            metrics.watch_pool(target, "in_use", lambda: made.in_use)
            metrics.watch_pool(target, "idle", lambda: made.idle)
            metrics.watch_pool(target, "waiting", lambda: made.waiting)
            return made

        self._pools = {
            "primary": pool("primary", settings.database_name, settings.pool_primary),
            "replica": pool("replica", settings.database_ro_name, settings.pool_replica),
        }

    def primary(self) -> Session:
        """Single statements in autocommit, on the primary."""
        return Session(self, "primary")

    def replica(self) -> Session:
        """Reads that may be some milliseconds old, but never older than what this client wrote."""
        return Session(self, "replica")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Several statements on the primary, all or none."""
        session = Session(self, "primary", in_transaction=True)
        try:
            yield session
            session._commit()
        except BaseException:
            session._rollback()
            raise
        finally:
            session._end()

    def find(self, query: Callable[[Session], Result | None]) -> Result | None:
        """Ask a replica, and the primary if it is not there: the row may be too young to have been replicated."""
        with self.replica() as session:
            found = query(session)
        if found is None and session.target == "replica":
            with self.primary() as session:
                found = query(session)
        return found

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def connect(self, target: str, fresh: bool) -> tuple[str, psycopg2.extensions.connection]:
        """Lend a connection to the target, or to the primary where no replica can be reached."""
        try:
            return target, self._pools[target].acquire(fresh)
        except PoolExhausted:
            raise
        except DatabaseUnavailable as error:
            if target == "primary":
                raise
            event("replica_unavailable", "Reading from the primary instead", logging.WARNING, detail=str(error))
            return "primary", self._pools["primary"].acquire(fresh)

    def replica_was_behind(self) -> None:
        """Count a read that goes to the primary because of it."""
        self._metrics.count_replica_behind()

    def give_back(self, target: str, connection: psycopg2.extensions.connection, broken: bool) -> None:
        self._pools[target].release(connection, broken)

    @contextmanager
    def observed(self, operation: str, target: str, sql: str) -> Iterator[None]:
        """Measure one statement: histogram, child span, and a log line if it was slow. Never its parameters."""
        name, kind = f"{operation} {target}", SpanKind.CLIENT
        with self._tracing.span(name, _attributes(operation, target, sql), kind):
            begun = time.perf_counter()
            try:
                yield
            finally:
                seconds = time.perf_counter() - begun
                self._metrics.observe_query(operation, target, seconds)
                if seconds >= self._slow:
                    statement = " ".join(sql.split())
                    milliseconds = round(seconds * 1000, 1)
                    event(
                        "slow_query",
                        f"{operation} took {milliseconds} ms",
                        logging.WARNING,
                        statement=statement,
                        target=target,
                        duration_ms=milliseconds,
                    )


def _went_away(connection: psycopg2.extensions.connection) -> bool:
    """Whether the server closed an idle connection: then its socket is readable, with nothing asked."""
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _traced(sql: str) -> str:
    """The statement with its span in a comment, so that what PostgreSQL shows of it while it runs leads to its trace.

    In one line, as where it is shown. Values come in later.
    """
    parent = traceparent()
    return f"{_in_one_line(sql)} /*traceparent='{parent}'*/" if parent else sql


@lru_cache
def _in_one_line(sql: str) -> str:
    return " ".join(re.sub(r"--.*", "", sql).split())


@lru_cache
def _attributes(operation: str, target: str, sql: str) -> Mapping[str, str]:
    """What a statement's span says."""
    return {
        "db.system.name": "postgresql",
        "db.operation.name": operation,
        "db.query.text": sql,
        "db.belvedere.target": target,
    }


@lru_cache
def _operation(sql: str) -> str:
    """Return what a statement does (SELECT, INSERT, ...); one with a WITH by the first change in it."""
    first = sql.split(None, 1)[0].upper()
    if first != "WITH":
        return first
    change = re.search(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", sql, re.IGNORECASE)
    return change[1].upper() if change else "SELECT"
