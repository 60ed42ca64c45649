"""The bound on hashing: as many at once as there are slots, a short queue, and 503 beyond."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import bcrypt
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from auth.passwords import HashingBusy, PasswordHasher
from auth.settings import AuthSettings
from servicekit.settings import SettingsError, load

WRONG = {"email": "nobody@example.org", "password": "wrong"}


@pytest.fixture
def make_hasher(auth):
    def make(slots=1, queue=1, patience=1, cost=4, registry=None):
        return PasswordHasher(cost, slots, queue, patience, auth.service.tracing, registry or CollectorRegistry())

    return make


@pytest.fixture
def stuck(monkeypatch):
    """Password checks that take until `end` is set; `begun` can be taken once for each that has begun."""
    begun, end = threading.Semaphore(0), threading.Event()

    def check(password, hashed):
        begun.release()
        end.wait(30)
        return False

    monkeypatch.setattr(bcrypt, "checkpw", check)
    yield SimpleNamespace(begun=begun, end=end)
    end.set()


def wait_until(condition, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def test_a_hash_verifies_its_password_and_no_other(make_hasher):
    hasher = make_hasher()
    hashed = hasher.hash("p\u00e4ssword of mine")
    assert hasher.verify("p\u00e4ssword of mine", hashed)
    assert not hasher.verify("password of mine", hashed)
    assert not hasher.verify("p\u00e4ssword of mine", None)


def test_a_full_queue_refuses_at_once(make_hasher):
    registry = CollectorRegistry()
    hasher = make_hasher(slots=1, queue=1, patience=60, registry=registry)
    with hasher.admitted(), hasher.admitted(), pytest.raises(HashingBusy), hasher.admitted():
        pass
    assert 'auth_password_hash_rejected_total{reason="queue_full"} 1.0' in generate_latest(registry).decode()


def test_waiting_for_a_slot_ends_after_the_patience(make_hasher):
    registry = CollectorRegistry()
    hasher = make_hasher(patience=0.05, registry=registry)
    with hasher._slot("hash"), pytest.raises(HashingBusy):
        hasher.hash("waits in vain")
    assert 'auth_password_hash_rejected_total{reason="patience"} 1.0' in generate_latest(registry).decode()


def test_a_slot_that_becomes_free_is_used_by_who_waits_and_is_counted_while_it_does(make_hasher):
    registry = CollectorRegistry()
    hasher = make_hasher(patience=10, registry=registry)
    hashed = []
    with hasher._slot("hash"):
        waiting = threading.Thread(target=lambda: hashed.append(hasher.hash("waits with success")))
        waiting.start()
        wait_until(
            lambda: "auth_password_hash_queue_length 1.0" in generate_latest(registry).decode(), "one that waits"
        )
    waiting.join(10)
    assert hashed
    assert "auth_password_hash_queue_length 0.0" in generate_latest(registry).decode()


def test_slots_and_places_are_given_back_after_an_error(make_hasher):
    hasher = make_hasher(slots=1, queue=0, patience=0.05)
    with pytest.raises(ValueError), hasher.admitted():
        hasher.hash("x" * 73)
    with hasher.admitted():
        assert hasher.hash("after the error")


def test_too_many_logins_are_503_at_once_with_retry_after_and_ask_no_database(start_auth, stuck):
    auth = start_auth(THREADS="4", HASH_QUEUE="0")
    first = threading.Thread(target=auth.app.test_client().post, args=("/login",), kwargs={"json": WRONG})
    first.start()
    assert stuck.begun.acquire(timeout=10)
    before = auth.span_names().count("SELECT primary")
    answer = auth.client.post("/login", json=WRONG)
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert int(answer.headers["Retry-After"]) > 0
    assert auth.span_names().count("SELECT primary") == before


def test_a_flood_of_logins_leaves_threads_for_tokens(start_auth, stuck):
    auth = start_auth(THREADS="6", HASH_PATIENCE="10")
    with ThreadPoolExecutor(6) as threads:  # as many as gunicorn has, with its queue before them
        logins = [threads.submit(auth.app.test_client().post, "/login", json=WRONG) for _ in range(30)]
        validation = threads.submit(auth.app.test_client().get, "/validate")
        try:
            assert validation.result(timeout=5).status_code == 401
            wait_until(lambda: sum(login.done() for login in logins) == 26, "26 refused; one hashes, three wait")
            assert "auth_password_hash_queue_length 3.0" in auth.metrics()
        finally:
            stuck.end.set()


@pytest.mark.parametrize("wrong", [{"HASH_QUEUE": "6"}, {"HASH_SLOTS": "7"}, {"HASH_SLOTS": "4", "HASH_QUEUE": "3"}])
def test_a_queue_that_could_take_all_threads_is_refused(environment, wrong):
    with pytest.raises(SettingsError, match="HASH_SLOTS"):
        load(AuthSettings, environment("auth") | {"THREADS": "8"} | wrong)


def test_one_hash_at_a_time_is_the_default(environment):
    settings = load(AuthSettings, environment("auth"))
    assert (settings.hash_slots, settings.hash_queue_length) == (1, 5)
