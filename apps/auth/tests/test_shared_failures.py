"""Failures that all instances count together: that they do, and what happens while Valkey is away or slow."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from auth.shared_failures import PREFIX, SharedFailures
from auth.throttle import InstanceFailures, Rule
from servicekit import shared

EMAIL, PASSWORD, WRONG = "ada@example.org", "correct horse battery", "wrong"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"
RULE = Rule(allowed=3, window=60, first_lock=30, longest_lock=100)
QUICK = 0.35  # seconds: more than a login with one time-out of Valkey takes, and less than one with several


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    monkeypatch.setattr(shared, "PAUSE", 0.3)


@pytest.fixture
def start(start_auth, valkey_server):
    def start(**overrides):
        settings = {"VALKEY_ADDRESS": valkey_server.address, "THROTTLE_ACCOUNT_FAILURES": "4"}
        return start_auth(**settings | overrides)

    return start


@pytest.fixture
def make(start):
    """Counts as one more instance has them."""

    def make():
        return SharedFailures(start().service.store, InstanceFailures(), CollectorRegistry())

    return make


def fail(failures, times, rule=RULE, key="key"):
    return [failures.add(key, rule) for _ in range(times)]


def wait_until(condition, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.02)


def test_instances_count_together(make):
    one, other = make(), make()
    assert fail(one, 2) == [None, None]
    assert fail(other, 1) == [30]
    assert one.locked("key")
    assert other.locked("key")
    assert not one.locked("another")


def test_what_is_tried_during_a_lock_does_not_prolong_it_or_begin_another(make, valkey_server):
    one, other = make(), make()
    fail(one, 3)
    before = valkey_server.client().hget(PREFIX + "key", "locked_until")
    assert fail(one, 5) + fail(other, 5) == [None] * 10
    assert valkey_server.client().hget(PREFIX + "key", "locked_until") == before


def test_each_lock_ends_and_lasts_twice_as_long_up_to_the_longest(make):
    failures = make()
    rule = Rule(allowed=1, window=60, first_lock=0.05, longest_lock=0.15)
    locks = []
    for _ in range(4):
        locks += fail(failures, 1, rule)
        assert failures.locked("key")
        wait_until(lambda: not failures.locked("key"), "the lock has ended", seconds=1)
    assert locks == [0.05, 0.1, 0.15, 0.15]


def test_failures_over_a_long_time_lock_nobody(make):
    failures = make()
    rule = Rule(allowed=2, window=0.05, first_lock=30, longest_lock=100)
    for _ in range(3):
        assert fail(failures, 1, rule) == [None]
        time.sleep(0.06)


def test_after_a_calm_time_all_is_forgotten(make, valkey_server):
    failures = make()
    fail(failures, 3)
    expires_in = valkey_server.client().pttl(PREFIX + "key")
    assert (RULE.calm + 29) * 1000 < expires_in <= (RULE.calm + 30) * 1000
    fail(failures, 1, key="once")
    assert (RULE.calm - 1) * 1000 < valkey_server.client().pttl(PREFIX + "once") <= RULE.calm * 1000


def test_what_is_forgotten_is_forgotten_for_all(make):
    one, other = make(), make()
    fail(one, 2)
    other.forget("key")
    assert fail(one, 2) == [None, None]


def test_failures_at_the_same_moment_are_all_counted(make):
    instances = [make(), make()]
    rule = Rule(allowed=200, window=60, first_lock=30, longest_lock=100)
    with ThreadPoolExecutor(8) as pool:
        locks = list(pool.map(lambda number: instances[number % 2].add("key", rule), range(200)))
    assert sorted(locks, key=str) == [30] + [None] * 199


def test_a_key_tells_no_account_s_address(start, valkey_server):
    start().client.post("/login", json={"email": EMAIL, "password": "wrong"})
    keys = valkey_server.client().keys("*")
    assert keys
    assert all(key.startswith(PREFIX) and "ada" not in key for key in keys)


# From outside.


def counts(auth, whose):
    name = f'auth_throttle_store_requests_total{{counts="{whose}"}} '
    return float(auth.metrics().split(name)[1].split()[0])


def log_in(auth, password=WRONG, address=ELSEWHERE, email=EMAIL):
    """The answer's status, and how long it took."""
    begun = time.monotonic()
    body = {"email": email, "password": password}
    answer = auth.client.post("/login", json=body, environ_base={"REMOTE_ADDR": address})
    return answer.status_code, time.monotonic() - begun


def statuses(auths, **login):
    return [log_in(auth, **login)[0] for auth in auths]


# All instances of a test write one log: that of the one which was started last.


@pytest.fixture
def account(start):
    start().client.post("/register", json={"email": EMAIL, "password": PASSWORD})


def test_failures_spread_over_instances_lock_the_account_for_all(start, account):
    one, other = start(), start()
    assert statuses((one, other, one)) == [401] * 3
    assert statuses((other,), password=PASSWORD) == [200], "three are not too many"
    assert statuses((one, other, one, other)) == [401] * 4
    assert statuses((one, other), password=PASSWORD, address="203.0.113.1") == [401, 401]
    assert len(other.log("account_locked")) == 1
    assert counts(one, "own") == counts(other, "own") == 0


def test_failures_from_one_address_at_many_accounts_lock_it_for_all(start, account):
    one, other = (start(THROTTLE_ADDRESS_FAILURES="4") for _ in range(2))
    for number, auth in enumerate((one, other, one, other)):
        log_in(auth, email=f"{number}@example.org")
    assert statuses((one, other), password=PASSWORD) == [401, 401]
    assert statuses((one,), password=PASSWORD, address=HOME) == [200]


def test_failures_in_all_lock_for_all_instances(start, account):
    one, other = (start(THROTTLE_OVERALL_FAILURES="4") for _ in range(2))
    for number, auth in enumerate((one, other, one, other)):
        log_in(auth, address=f"203.0.113.{number}", email=f"{number}@example.org")
    assert statuses((one, other), password=PASSWORD) == [401, 401]


def test_without_valkey_each_instance_has_its_own_limits(start, account, valkey_server):
    one, other = start(), start()
    valkey_server.stop()
    answers = [log_in(one) for _ in range(4)]
    assert [status for status, _ in answers] == [401] * 4
    assert max(seconds for _, seconds in answers) < QUICK
    assert statuses((one,), password=PASSWORD) == [401], "its own count has locked the account"
    assert len(other.log("valkey_unavailable")) == 1, "a line for the change, not for each call"
    assert statuses((other,), password=PASSWORD) == [200]
    assert counts(one, "own") > counts(one, "shared") == 0


def test_what_an_instance_counted_itself_still_counts_when_valkey_is_lost(start, account, valkey_server):
    one = start()
    assert statuses([one] * 3) == [401] * 3
    valkey_server.stop()
    assert statuses([one]) == [401]
    assert statuses([one], password=PASSWORD) == [401]
    assert [line["scope"] for line in one.log("account_locked")] == ["account"]


def test_a_valkey_that_accepts_and_never_answers_costs_one_time_out(start, account, valkey_server):
    auth = start()
    valkey_server.suspend()
    try:
        first, *others = [log_in(auth, PASSWORD) for _ in range(3)]
    finally:
        valkey_server.resume()
    assert [status for status, _ in (first, *others)] == [200] * 3
    assert 0.1 <= first[1] < QUICK
    assert max(seconds for _, seconds in others) < 0.1
    assert counts(auth, "own") > 0


def test_while_one_caller_finds_out_the_others_do_not_wait(start, valkey_server):
    store = start().service.store

    def ask(_):
        begun = time.monotonic()
        with pytest.raises(shared.StoreUnavailable):
            store.ask("PING", store._client.ping)
        return time.monotonic() - begun

    valkey_server.suspend()
    try:
        ask(0)
        time.sleep(0.3)  # the pause
        with ThreadPoolExecutor(8) as pool:
            waited = list(pool.map(ask, range(8)))
    finally:
        valkey_server.resume()
    assert sum(seconds > 0.09 for seconds in waited) == 1, waited


def test_when_valkey_is_back_limits_are_shared_again(start, account, valkey_server):
    one, other = start(), start()
    valkey_server.stop()
    log_in(one)
    valkey_server.start()
    wait_until(
        lambda: log_in(one, PASSWORD)[0] == 200 and counts(one, "shared"),
        "one instance counts together with others again",
    )
    assert len(other.log("valkey_available")) == 1
    login = {"address": "203.0.113.9", "email": "bob@example.org"}
    assert statuses((one, other, one, other), **login) == [401] * 4
    assert [line["scope"] for line in other.log("account_locked")] == ["account"]


def test_a_restarted_valkey_is_taken_up_without_an_error(start, account, valkey_server):
    """It closed the connections that were kept; the next call makes another."""
    auth = start()
    log_in(auth)
    valkey_server.stop()
    valkey_server.start()
    log_in(auth)
    assert counts(auth, "own") == 0


def test_a_valkey_that_refuses_is_as_good_as_none(start, account, valkey_server):
    auth = start()
    valkey_server.client().config_set("requirepass", "another")
    assert statuses([auth], password=PASSWORD) == [200]
    assert counts(auth, "own") > 0
