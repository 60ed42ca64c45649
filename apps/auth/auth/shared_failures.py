"""Failures counted by all instances together, in Valkey; while it is away, by each for itself.

The steps are those of `InstanceFailures`, taken inside Valkey and by its clock, so that two instances that count at
once both count. Each instance counts for itself too, all the time, and goes on from there when Valkey is lost.
"""

from prometheus_client import CollectorRegistry, Counter

from auth.throttle import InstanceFailures, Rule
from servicekit.shared import Store, StoreUnavailable

PREFIX = "auth:failures:"

_NOW = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
"""

# Times are milliseconds. The key expires when it has been calm for long enough, or long enough after the lock.
_ADD = (
    _NOW
    + """
local allowed, window, first, longest, calm = unpack(ARGV)
local known = redis.call('HMGET', KEYS[1], 'since', 'count', 'step', 'locked_until')
local since, count = tonumber(known[1]) or now, tonumber(known[2]) or 0
local step, locked_until = tonumber(known[3]) or 0, tonumber(known[4]) or 0
if now < locked_until then
    return 0
end
if now - since > tonumber(window) then
    since, count = now, 0
end
count = count + 1
local lock = 0
if count >= tonumber(allowed) then
    lock = math.min(first * 2 ^ math.min(step, 32), tonumber(longest))
    count, step, locked_until = 0, step + 1, now + lock
end
redis.call('HSET', KEYS[1], 'since', since, 'count', count, 'step', step, 'locked_until', locked_until)
redis.call('PEXPIRE', KEYS[1], math.max(locked_until - now, 0) + calm)
return lock
"""
)

_LOCKED = (
    _NOW
    + """
local locked_until = tonumber(redis.call('HGET', KEYS[1], 'locked_until')) or 0
return now < locked_until and 1 or 0
"""
)


class SharedFailures:
    """`Failures` in the store, and in this process's memory while the store is away."""

    def __init__(self, store: Store, own: InstanceFailures, registry: CollectorRegistry) -> None:
        self._store = store
        self._own = own
        self._add = store.script(_ADD)
        self._locked = store.script(_LOCKED)
        self._requests = Counter(
            "auth_throttle_store_requests",
            "Questions to the counts of failures, by whose counts answered: all instances', or this one's own",
            ("counts",),
            registry=registry,
        )
        for counts in ("shared", "own"):
            self._requests.labels(counts)

    def locked(self, key: str) -> bool:
        try:
            locked = self._store.ask("LOCKED", lambda: self._locked(keys=[PREFIX + key]))
        except StoreUnavailable:
            self._requests.labels("own").inc()
            return self._own.locked(key)
        self._requests.labels("shared").inc()
        return bool(locked)

    def add(self, key: str, rule: Rule) -> float | None:
        began_here = self._own.add(key, rule)
        milliseconds = [
            round(seconds * 1000) for seconds in (rule.window, rule.first_lock, rule.longest_lock, rule.calm)
        ]
        try:
            lock = self._store.ask("FAILED", lambda: self._add(keys=[PREFIX + key], args=[rule.allowed, *milliseconds]))
        except StoreUnavailable:
            self._requests.labels("own").inc()
            return began_here
        self._requests.labels("shared").inc()
        return lock / 1000 if lock else None

    def forget(self, key: str) -> None:
        self._own.forget(key)
        try:
            self._store.ask("FORGET", lambda: self._store.delete(PREFIX + key))
        except StoreUnavailable:
            self._requests.labels("own").inc()
        else:
            self._requests.labels("shared").inc()
