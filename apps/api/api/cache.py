"""The read cache: single rows, kept in Valkey for some seconds, in front of the database.

* A reader that misses takes a lease, reads the database and keeps what it found; others that miss meanwhile wait a
  little for it.
* A writer keeps the row that it wrote, after the commit and before it answers, and ends the lease. Of two rows the one
  of the higher version stays, whoever comes last; and without its lease a reader keeps nothing where nothing is. So a
  slow reader cannot put an old row over a newer one, nor in its place. A deleted row leaves a mark newer than all.
* An entry knows up to which position of the database's log it is proven to be new. A client that carries a position
  (see `servicekit.position`) is answered from it only if that is as far.

Nothing here raises: without Valkey the database answers. docs/decisions/read-cache.md has the reasons.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from secrets import token_hex
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter
from pydantic import TypeAdapter

from servicekit import position
from servicekit.database import Session
from servicekit.logging import event
from servicekit.shared import Store, StoreUnavailable

PREFIX = "api:1:"  # another number when what is kept is written in another way
GONE = 2**53 - 1  # the version of a row that was deleted: Lua's numbers are doubles
LEASE = 500  # milliseconds in which one who misses may read, before another does
PATIENCE = 0.05  # seconds that the others wait for it
POLL = 0.005

# The row that is there; 1: the lease is yours, read it; 0: somebody reads it already.
_LOOK = """
local entry = redis.call('GET', KEYS[1])
if entry then
    return entry
end
return redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
"""

# An entry is 'version position row'. Of one version, the position proven furthest stays. A writer brings no lease.
_PUT = """
local version, position, row, lifetime, lease = unpack(ARGV)
local entry = redis.call('GET', KEYS[1])
if entry then
    local known, proven = string.match(entry, '^(%d+) (%d+) ')
    if tonumber(known) > tonumber(version) then
        return 0
    end
    if known == version and tonumber(proven) > tonumber(position) then
        position = proven
    end
elseif lease ~= '' and redis.call('GET', KEYS[2]) ~= lease then
    return 0
end
redis.call('SET', KEYS[1], version .. ' ' .. position .. ' ' .. row, 'PX', lifetime)
redis.call('DEL', KEYS[2])
return 1
"""

Kept = TypeVar("Kept")
Query = Callable[[Session], Kept | None]


@dataclass(frozen=True)
class Kind(Generic[Kept]):
    """What is kept: its name, the dataclass of its rows, and a row's version, which grows with each change."""

    name: str
    row: type[Kept]
    version: Callable[[Kept], int]

    @cached_property
    def _adapter(self) -> TypeAdapter[Kept]:
        return TypeAdapter(self.row)

    def write(self, row: Kept) -> str:
        return self._adapter.dump_json(row).decode()

    def read(self, text: str) -> Kept:
        return self._adapter.validate_json(text)


class ReadCache:
    """Rows in the store, for `seconds`; without a store, or for 0 seconds, there is none."""

    def __init__(self, store: Store | None, seconds: float, registry: CollectorRegistry) -> None:
        self._store = store if seconds else None
        self._lifetime = round(seconds * 1000)
        if self._store:
            self._look, self._put = self._store.script(_LOOK), self._store.script(_PUT)
        self._requests = Counter(
            "api_cache_requests",
            "Reads of one row: a hit saved a query; 'behind' found one not proven as new as the client's last write",
            ("kind", "result"),
            registry=registry,
        )
        self._writes = Counter(
            "api_cache_writes",
            "Rows that were written and should have been kept. After a failure others may read an old one for a while",
            ("kind", "result"),
            registry=registry,
        )

    def find(
        self, kind: Kind[Kept], key: str, query: Query[Kept], ask: Callable[[Query[Kept]], Kept | None]
    ) -> Kept | None:
        """The row, from here or by the query; `ask` runs the query."""
        if self._store is None:
            return self._counted(kind, "off", ask(query))
        names, needed, lease = _names(kind, key), position.needed(), token_hex(8)
        try:
            entry = self._wait_for_entry(self._store, names, lease)
        except StoreUnavailable:
            return self._counted(kind, "error", ask(query))
        if entry:
            _, proven, row = entry.split(" ", 2)
            if needed is None or int(proven) >= position.number(needed):
                return self._counted(kind, "hit", kind.read(row) if row else None)
        proven_now = 0

        def observed(session: Session) -> Kept | None:
            nonlocal proven_now
            row = query(session)
            if needed and session.target == "replica":  # it was asked whether it has come as far
                proven_now = position.number(needed)
            return row

        found = None
        try:
            found = ask(observed)
        finally:
            if found is None:
                self._give_up(self._store, names)
        if found is not None:
            self._keep(kind, key, kind.version(found), kind.write(found), proven_now, lease)
        return self._counted(kind, "behind" if entry else "miss", found)

    def wrote(self, kind: Kind[Kept], key: str, row: Kept) -> None:
        """Keep a row that was just written, and committed."""
        self._keep_written(kind, key, kind.version(row), kind.write(row))

    def deleted(self, kind: Kind[Kept], key: str) -> None:
        """Mark a row that was just deleted for good."""
        self._keep_written(kind, key, GONE, "")

    def _keep_written(self, kind: Kind[Kept], key: str, version: int, row: str) -> None:
        if self._store is None:
            return
        written = position.needed()
        proven = position.number(written) if written and written != position.UNKNOWN else 0
        kept = self._keep(kind, key, version, row, proven)
        self._writes.labels(kind.name, "kept" if kept else "failed").inc()
        if not kept:
            event("cache_not_updated", "Others may read an old row for a while", logging.WARNING, kind=kind.name)

    def _keep(self, kind: Kind[Any], key: str, version: int, row: str, proven: int, lease: str = "") -> bool:
        """A writer, who brings no lease, insists: others may reach Valkey while this instance did not just now."""
        assert self._store  # noqa: S101
        arguments = [version, proven, row, self._lifetime, lease]
        try:
            self._store.ask("PUT", lambda: self._put(keys=_names(kind, key), args=arguments), insist=not lease)
        except StoreUnavailable:
            return False
        return True

    def _wait_for_entry(self, store: Store, names: list[str], lease: str) -> str | None:
        """The entry, or None for whoever should read the row now. Raises `StoreUnavailable`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = store.ask("LOOK", lambda: self._look(keys=names, args=[lease, LEASE]))
            if isinstance(answer, str):
                return answer
            if answer == 1 or time.monotonic() > deadline:
                return None
            time.sleep(POLL)

    def _give_up(self, store: Store, names: list[str]) -> None:
        """Let another read what was not found, at once."""
        try:
            store.ask("GIVE UP", lambda: store.delete(names[1]))
        except StoreUnavailable:
            return

    def _counted(self, kind: Kind[Any], result: str, found: Kept | None) -> Kept | None:
        self._requests.labels(kind.name, result).inc()
        return found


def _names(kind: Kind[Any], key: str) -> list[str]:
    """The entry's key, and that of the lease to read it."""
    return [f"{PREFIX}{kind.name}:{key}", f"{PREFIX}{kind.name}:{key}:lease"]
