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


@pytest.fixture
def start(start_auth, valkey_server):
    def start(**overrides):
        settings = {
            "VALKEY_ADDRESS": valkey_server.address,
            "VALKEY_TIMEOUT_MS": "1000",  # the machine may be busy
            "THROTTLE_ACCOUNT_FAILURES": "4",
        }
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


def wait_until(condition, what, seconds=30):
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


def test_a_lock_ends(make):
    failures = make()
    assert fail(failures, 1, Rule(allowed=1, window=60, first_lock=0.3, longest_lock=1)) == [0.3]
    wait_until(lambda: not failures.locked("key"), "the lock has ended")


def test_each_lock_lasts_twice_as_long_up_to_the_longest(make, valkey_server):
    failures = make()
    locks = []
    for _ in range(4):
        locks.append(fail(failures, 3)[-1])
        valkey_server.client().hset(PREFIX + "key", "locked_until", 0)  # it has ended
    assert locks == [30, 60, 100, 100]


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
    assert (RULE.calm + 20) * 1000 < expires_in <= (RULE.calm + 30) * 1000
    fail(failures, 1, key="once")
    assert (RULE.calm - 10) * 1000 < valkey_server.client().pttl(PREFIX + "once") <= RULE.calm * 1000


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


def calls(auth, outcome):
    """How often Valkey was called, by what came of it."""
    return float(auth.metrics().split(f'valkey_requests_total{{outcome="{outcome}"}} ')[1].split()[0])


def log_in(auth, password=WRONG, address=ELSEWHERE, email=EMAIL):
    body = {"email": email, "password": password}
    answer = auth.client.post("/login", json=body, environ_base={"REMOTE_ADDR": address})
    return answer.status_code


def statuses(auths, **login):
    return [log_in(auth, **login) for auth in auths]


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
    assert statuses([one] * 4) == [401] * 4
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


def test_a_valkey_that_accepts_and_never_answers_costs_one_time_out(start, account, valkey_server, monkeypatch):
    monkeypatch.setattr(shared, "PAUSE", 60)
    auth = start(VALKEY_TIMEOUT_MS="100")
    valkey_server.suspend()
    try:
        begun = time.monotonic()
        assert statuses([auth] * 3, password=PASSWORD) == [200] * 3
        assert time.monotonic() - begun >= 0.1
    finally:
        valkey_server.resume()
    assert (calls(auth, "failed"), calls(auth, "answered")) == (1, 0)
    assert counts(auth, "own") == calls(auth, "skipped") + 1 > 3


def test_while_one_caller_finds_out_the_others_do_not_wait(start, valkey_server, monkeypatch):
    auth = start(VALKEY_TIMEOUT_MS="100")
    store = auth.service.store

    def ask(_):
        with pytest.raises(shared.StoreUnavailable):
            store.ask("PING", store._client.ping)

    valkey_server.suspend()
    try:
        monkeypatch.setattr(shared, "PAUSE", 0)
        ask(0)
        monkeypatch.setattr(shared, "PAUSE", 60)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
    finally:
        valkey_server.resume()
    assert (calls(auth, "failed"), calls(auth, "skipped")) == (2, 7)


def test_when_valkey_is_back_limits_are_shared_again(start, account, valkey_server, monkeypatch):
    monkeypatch.setattr(shared, "PAUSE", 0.3)
    one, other = start(), start()
    valkey_server.stop()
    log_in(one)
    valkey_server.start()
    wait_until(
        lambda: log_in(one, PASSWORD) == 200 and counts(one, "shared"),
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
