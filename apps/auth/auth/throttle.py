"""Throttling: who fails too often is locked out for a while, in steps, without being told.

Failures are counted by account (whether it exists or not) and by address. A lock on either refuses even the
right password, except from where the account's owner has logged in before; failures from there are then counted
by account and address together. So a stranger can neither guess on nor lock the owner out of their own places.
All failures together are counted too: who guesses from many addresses at many accounts meets that lock.
What is refused by a lock does not prolong it.

`Failures` is where the counts are kept: in this instance's memory (with n instances, n times as many failures may
pass), or shared by all instances (`shared_failures`).
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from auth.client import Client

MAX_KEYS = 20_000  # of some 300 bytes each; beyond, those that failed longest ago are forgotten

SCOPES = ("account", "address", "account_at_address", "overall")  # what can be locked

OVERALL_KEY = "overall"


@dataclass(frozen=True)
class Rule:
    """`allowed` failures within `window` seconds begin a lock: `first_lock` seconds, each time twice as long.

    It never lasts longer than `longest_lock`; after `calm` seconds without a failure all is forgotten.
    """

    allowed: int
    window: float
    first_lock: float
    longest_lock: float
    calm: float = 3600

    def lock(self, step: int) -> float:
        """The lock of this step, counted from 0."""
        return float(min(self.first_lock * 2 ** min(step, 32), self.longest_lock))


class Failures(Protocol):
    """Counts failures by key."""

    def locked(self, key: str) -> bool: ...

    def add(self, key: str, rule: Rule) -> float | None:
        """Count one, unless the key is locked; the seconds of the lock that this one began, if it did."""

    def forget(self, key: str) -> None: ...


@dataclass
class _Count:
    since: float
    count: int = 0
    last: float = 0
    step: int = 0
    locked_until: float = float("-inf")


class InstanceFailures:
    """`Failures` in this process's memory, of at most `size` keys."""

    def __init__(self, size: int = MAX_KEYS, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, _Count] = OrderedDict()  # the last to fail at the end

    def locked(self, key: str) -> bool:
        with self._lock:
            count = self._counts.get(key)
            return count is not None and self._clock() < count.locked_until

    def add(self, key: str, rule: Rule) -> float | None:
        now = self._clock()
        with self._lock:
            count = self._counts.get(key)
            if count is None or now - max(count.last, count.locked_until) > rule.calm:
                count = self._counts[key] = _Count(since=now)
            if now < count.locked_until:
                return None
            if now - count.since > rule.window:
                count.since, count.count = now, 0
            count.count += 1
            count.last = now
            self._counts.move_to_end(key)
            while len(self._counts) > self._size:
                self._counts.popitem(last=False)
            if count.count < rule.allowed:
                return None
            seconds = rule.lock(count.step)
            count.count, count.step, count.locked_until = 0, count.step + 1, now + seconds
            return seconds

    def forget(self, key: str) -> None:
        with self._lock:
            self._counts.pop(key, None)


@dataclass(frozen=True)
class Lock:
    """A lock that began just now; `scope` is one of SCOPES."""

    scope: str
    seconds: float


class Throttle:
    """Says who is locked out, and counts who fails."""

    def __init__(self, failures: Failures, account: Rule, address: Rule, overall: Rule) -> None:
        self._failures = failures
        self._account = account
        self._address = address
        self._overall = overall

    def locked(self, email: str, client: Client) -> bool:
        """Whether whoever has not logged in from there before is locked out."""
        return any(map(self._failures.locked, (_account_key(email), _address_key(client), OVERALL_KEY)))

    def locked_at_home(self, email: str, client: Client) -> bool:
        """Whether even who has logged in from there before is locked out."""
        return self._failures.locked(_home_key(email, client))

    def failed(self, email: str, client: Client, at_home: bool) -> list[Lock]:
        """Count a failure; the locks that it began. `at_home`: the account has logged in from there before."""
        add = self._failures.add
        if at_home and self._failures.locked(_account_key(email)):
            began = {"account_at_address": add(_home_key(email, client), self._account)}
        else:
            began = {"account": add(_account_key(email), self._account)}
        if client.network:  # without one all clients would share a lock
            began["address"] = add(_address_key(client), self._address)
        began["overall"] = add(OVERALL_KEY, self._overall)
        return [Lock(scope, seconds) for scope, seconds in began.items() if seconds is not None]

    def succeeded(self, email: str, client: Client) -> None:
        """Forget the account's failures, but no lock: the owner's success must not let others guess on."""
        self._failures.forget(_home_key(email, client))
        if not self._failures.locked(_account_key(email)):
            self._failures.forget(_account_key(email))


def _account_key(email: str) -> str:
    return "account:" + sha256(email.encode()).hexdigest()


def _address_key(client: Client) -> str:
    return f"address:{client.network}"


def _home_key(email: str, client: Client) -> str:
    return f"home:{client.network}:" + sha256(email.encode()).hexdigest()
