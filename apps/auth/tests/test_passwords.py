"""The bound on hashing: as many at once as there are slots, a short queue, and 503 beyond."""

import threading

import pytest
from prometheus_client import CollectorRegistry

from auth.passwords import HashingBusy, PasswordHasher


@pytest.fixture
def make_hasher(auth):
    def make(slots, queue, patience):
        return PasswordHasher(4, slots, queue, patience, auth.service.tracing, CollectorRegistry())

    return make


def test_a_hash_verifies_its_password_and_no_other(make_hasher):
    hasher = make_hasher(slots=1, queue=1, patience=1)
    hashed = hasher.hash("p\u00e4ssword of mine")
    assert hasher.verify("p\u00e4ssword of mine", hashed)
    assert not hasher.verify("password of mine", hashed)
    assert not hasher.verify("p\u00e4ssword of mine", None)


def test_a_full_queue_refuses_at_once(make_hasher):
    hasher = make_hasher(slots=1, queue=0, patience=60)
    with hasher._slot("hash"), pytest.raises(HashingBusy):
        hasher.hash("no place left")


def test_waiting_for_a_slot_ends_after_the_patience(make_hasher):
    hasher = make_hasher(slots=1, queue=1, patience=0.05)
    with hasher._slot("hash"), pytest.raises(HashingBusy):
        hasher.hash("waits in vain")


def test_a_slot_that_becomes_free_is_used_by_who_waits(make_hasher):
    hasher = make_hasher(slots=1, queue=1, patience=10)
    hashed = []
    with hasher._slot("hash"):
        waiting = threading.Thread(target=lambda: hashed.append(hasher.hash("waits with success")))
        waiting.start()
    waiting.join(10)
    assert hashed


def test_slots_are_given_back_after_an_error(make_hasher):
    hasher = make_hasher(slots=1, queue=0, patience=0.05)
    with pytest.raises(ValueError):
        hasher.hash("x" * 73)
    assert hasher.hash("after the error")


def test_too_many_logins_are_503_with_retry_after(start_auth):
    auth = start_auth(BCRYPT_COST="10", THREADS="4", HASH_PATIENCE="0")
    statuses = []

    def login():
        body = {"email": "nobody@example.org", "password": "wrong"}
        answer = auth.app.test_client().post("/login", json=body)
        statuses.append((answer.status_code, answer.headers.get("Retry-After")))

    threads = [threading.Thread(target=login) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in statuses} == {401, 503}
    assert all(after for status, after in statuses if status == 503)
