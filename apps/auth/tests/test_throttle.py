"""Lockout: when it begins and ends, that nobody can tell it, and that it cannot be turned against an owner."""

from dataclasses import replace

import pytest

from auth.client import Client
from auth.throttle import InstanceFailures, Rule, Throttle

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
HOME, ELSEWHERE, THIRD = "192.0.2.1", "198.51.100.7", "203.0.113.9"
RULE = Rule(allowed=3, window=60, first_lock=30, longest_lock=100, calm=3600)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def failures(clock):
    return InstanceFailures(size=100, clock=clock)


def fail(failures, times, key="key"):
    return [failures.add(key, RULE) for _ in range(times)]


def test_the_last_allowed_failure_begins_a_lock_that_ends(failures, clock):
    assert fail(failures, 3) == [None, None, 30]
    assert failures.locked("key")
    assert not failures.locked("another")
    clock.now += 30
    assert not failures.locked("key")


def test_failures_over_a_long_time_lock_nobody(failures, clock):
    for _ in range(20):
        assert fail(failures, 1) == [None]
        clock.now += 31


def test_each_lock_lasts_twice_as_long_up_to_the_longest(failures, clock):
    locks = []
    for _ in range(4):
        locks.append(fail(failures, 3)[-1])
        clock.now += locks[-1]
    assert locks == [30, 60, 100, 100]


def test_steps_are_forgotten_after_a_calm_time(failures, clock):
    fail(failures, 3)
    clock.now += 30 + 3601
    assert fail(failures, 3) == [None, None, 30]


def test_what_is_tried_during_a_lock_does_not_prolong_it(failures, clock):
    fail(failures, 3)
    assert fail(failures, 50) == [None] * 50
    clock.now += 30
    assert not failures.locked("key")
    assert fail(failures, 2) == [None, None]


def test_memory_is_bounded_and_the_oldest_go_first(failures):
    fail(failures, 3, "oldest")
    for number in range(100):
        fail(failures, 1, str(number))
    assert len(failures._counts) == 100
    assert not failures.locked("oldest")


def test_one_ipv6_network_is_one_address(auth):
    from auth import client

    def network(address):
        with auth.app.test_request_context("/", environ_base={"REMOTE_ADDR": address}):
            return client.current().network

    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") != network("192.0.2.2")
    assert network("") is None


def test_clients_without_an_address_do_not_lock_each_other():
    throttle = Throttle(InstanceFailures(), RULE, RULE, replace(RULE, allowed=100))
    unknown = Client(None, None, None)
    for number in range(10):
        assert throttle.failed(f"{number}@example.org", unknown, at_home=False) == []
    assert not throttle.locked("another@example.org", unknown)


# From outside.


@pytest.fixture
def auth(start_auth):
    return start_auth(THROTTLE_ACCOUNT_FAILURES="3", THROTTLE_ADDRESS_FAILURES="6")


@pytest.fixture
def log_in(auth):
    auth.client.post("/register", json={"email": EMAIL, "password": PASSWORD})

    def log_in(password=PASSWORD, address=HOME, email=EMAIL):
        body = {"email": email, "password": password}
        return auth.client.post("/login", json=body, environ_base={"REMOTE_ADDR": address})

    return log_in


def same(answer, other):
    """Alike in all but the request's id."""

    def seen(one):
        headers = {name: value for name, value in one.headers if name != "X-Request-Id"}
        return one.status_code, headers, {**one.json, "request_id": ""}

    return seen(answer) == seen(other)


def work(auth, answer):
    """The names of the spans of an answer's request: what it took."""
    trace = int(answer.headers["X-Request-Id"], 16)
    return sorted(span.name for span in auth.spans() if span.context.trace_id == trace)


def test_a_locked_account_refuses_the_right_password_as_it_does_a_wrong_one(auth, log_in):
    wrong = [log_in("wrong", ELSEWHERE) for _ in range(4)]
    locked = log_in(PASSWORD, ELSEWHERE)
    assert locked.status_code == 401
    assert same(locked, wrong[0])
    assert work(auth, locked) == work(auth, wrong[3])
    assert work(auth, locked).count("password.verify") == 1


def test_an_unknown_account_is_locked_alike(auth, log_in):
    known = [log_in("wrong", ELSEWHERE) for _ in range(5)]
    unknown = [log_in("wrong", THIRD, "nobody@example.org") for _ in range(5)]
    assert all(same(one, other) for one, other in zip(known, unknown, strict=True))
    assert [work(auth, one) for one in known[:4]] == [work(auth, other) for other in unknown[:4]]


def test_a_lock_is_logged_counted_and_recorded(auth, log_in, postgresql):
    last = [log_in("wrong", ELSEWHERE) for _ in range(3)][-1]
    log_in(PASSWORD, ELSEWHERE)
    (line,) = auth.log("account_locked")
    assert (line["scope"], line["seconds"], line["level"]) == ("account", 30, "warning")
    assert line["user_id"]
    assert [line["reason"] for line in auth.log("login_failed")] == ["wrong_password"] * 3 + ["locked"]
    assert 'auth_lockouts_total{scope="account"} 1.0' in auth.metrics()
    assert 'auth_logins_total{outcome="locked"} 1.0' in auth.metrics()
    events = "SELECT event, reason FROM auth.audit_events WHERE request_id = %s ORDER BY id"
    recorded = postgresql.execute(events, [last.headers["X-Request-Id"]]).fetchall()
    assert recorded == [("login_failed", "wrong_password"), ("account_locked", "account")]


def test_a_stranger_cannot_lock_the_owner_out_of_where_they_have_logged_in(auth, log_in):
    log_in()
    for _ in range(5):
        log_in("wrong", ELSEWHERE)
    assert log_in(PASSWORD, ELSEWHERE).status_code == 401
    assert log_in(PASSWORD, THIRD).status_code == 401
    assert log_in(PASSWORD, HOME).status_code == 200
    assert log_in(PASSWORD, THIRD).status_code == 401, "the owner's success must not unlock it for others"


def test_nobody_guesses_on_at_the_owners_own_address(auth, log_in):
    log_in()
    for _ in range(6):
        log_in("wrong", HOME)
    assert log_in(PASSWORD, HOME).status_code == 401
    assert [line["scope"] for line in auth.log("account_locked")] == ["account", "account_at_address"]


def test_a_success_forgets_the_failures_before_it(log_in):
    for _ in range(4):
        log_in("wrong")
        log_in("wrong")
        assert log_in().status_code == 200


def test_an_address_that_fails_for_many_accounts_is_locked_and_others_are_not(auth, log_in):
    for number in range(6):
        log_in("wrong", ELSEWHERE, f"{number}@example.org")
    assert log_in(PASSWORD, ELSEWHERE).status_code == 401
    assert log_in(PASSWORD, HOME).status_code == 200
    assert [line["scope"] for line in auth.log("address_locked")] == ["address"]


def test_guessing_from_many_addresses_at_many_accounts_locks_all_but_the_owners_places(start_auth):
    auth = start_auth(THROTTLE_OVERALL_FAILURES="5")
    body = {"email": EMAIL, "password": PASSWORD}

    def log_in(address, body=body):
        return auth.client.post("/login", json=body, environ_base={"REMOTE_ADDR": address})

    auth.client.post("/register", json=body)
    log_in(HOME)
    for number in range(5):
        log_in(f"203.0.113.{number}", {"email": f"{number}@example.org", "password": "wrong"})
    assert log_in(ELSEWHERE).status_code == 401
    assert log_in(HOME).status_code == 200
    assert [line["scope"] for line in auth.log("logins_locked")] == ["overall"]
    assert 'auth_lockouts_total{scope="overall"} 1.0' in auth.metrics()


def test_only_failures_count(log_in):
    assert {log_in().status_code for _ in range(20)} == {200}


def test_guessing_the_current_password_with_a_stolen_token_is_locked_too(auth, log_in):
    headers = {"Authorization": f"Bearer {log_in().json['access_token']}"}

    def change(current):
        body = {"current": current, "new": "staple battery horse"}
        return auth.client.post("/password", json=body, headers=headers, environ_base={"REMOTE_ADDR": ELSEWHERE})

    wrong = [change("wrong") for _ in range(6)]
    locked = change(PASSWORD)
    assert locked.status_code == 403
    assert same(locked, wrong[0])


def test_the_defaults_let_a_load_of_users_of_one_address_pass(start_auth):
    settings_auth = start_auth()
    for number in range(60):
        body = {"email": f"{number}@example.org", "password": "wrong"}
        settings_auth.client.post("/login", json=body)
    assert not settings_auth.log("address_locked")
    assert not settings_auth.log("account_locked")
