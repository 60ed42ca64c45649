"""What is taken for a password, how it is kept, and the bound on hashing: slots, a short queue, 503 beyond."""

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

GOOD = {"email": "ada@example.org", "password": "correct horse battery"}
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
            wait_until(lambda: "auth_password_hash_queue_length 3.0" in auth.metrics(), "three counted")
        finally:
            stuck.end.set()


def checked_costs(monkeypatch, hasher, hashed):
    """The work (in rounds) of refusing a wrong password."""
    rounds = []
    check = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda p, h: rounds.append(2 ** int(h.split(b"$")[2])) or check(p, h))
    assert not hasher.verify("wrong", hashed)
    return sum(rounds)


def test_a_wrong_password_costs_the_same_for_an_old_hash_a_new_one_and_no_account(make_hasher, monkeypatch):
    hasher, old = make_hasher(cost=7), make_hasher(cost=4).hash("a password of old")
    hashes = [old, hasher.hash("a password of today"), None]
    assert [checked_costs(monkeypatch, hasher, hashed) for hashed in hashes] == [2**7] * 3


@pytest.mark.parametrize("before", ["4", "6"])
def test_a_login_renews_a_hash_of_another_cost(start_auth, postgresql, before):
    start_auth(BCRYPT_COST=before).client.post("/register", json=GOOD)
    auth = start_auth(BCRYPT_COST="5")
    stored = "SELECT password_hash FROM auth.accounts"
    auth.client.post("/login", json=GOOD | {"password": "wrong"})
    assert postgresql.execute(stored).fetchone()[0].startswith(f"$2b$0{before}$")
    assert auth.client.post("/login", json=GOOD).status_code == 200
    (renewed,) = postgresql.execute(stored).fetchone()
    assert renewed.startswith("$2b$05$")
    assert auth.client.post("/login", json=GOOD).status_code == 200
    assert postgresql.execute(stored).fetchone() == (renewed,)


def test_a_login_succeeds_without_renewal_where_no_slot_is_free(make_hasher):
    hasher = make_hasher(patience=0)
    with hasher._slot("hash"):
        assert hasher.upgraded("password", make_hasher(cost=5).hash("password")) is None


@pytest.mark.parametrize("common", ["qwerty123456", "1QAZ2wsx3edc", "password1234", "123456789987654321"])
def test_a_common_password_is_422_and_not_repeated(auth, common):
    answer = auth.client.post("/register", json=GOOD | {"password": common})
    assert answer.status_code == 422
    assert answer.json["errors"] == [
        {"field": "password", "message": "must not be one of the most common passwords"},
    ]
    assert common not in answer.get_data(as_text=True)


def test_a_common_password_that_was_set_before_still_logs_in(auth, postgresql):
    auth.client.post("/register", json=GOOD)
    common = bcrypt.hashpw(b"qwerty123456", bcrypt.gensalt(4)).decode()
    postgresql.execute("UPDATE auth.accounts SET password_hash = %s", [common])
    assert auth.client.post("/login", json=GOOD | {"password": "qwerty123456"}).status_code == 200


@pytest.mark.parametrize(
    ("password", "status"),
    [
        ("x" * 11, 422),
        ("xyz" * 4, 201),
        ("\u20ac" * 11, 422),  # 33 bytes, and still eleven characters
        ("\u20ac" * 24, 201),
        ("\u20ac" * 24 + "x", 422),
        ("x" * 72, 201),
        ("x" * 73, 422),
    ],
)
def test_a_password_has_12_characters_at_least_and_72_bytes_at_most(auth, password, status):
    assert auth.client.post("/register", json=GOOD | {"password": password}).status_code == status


@pytest.mark.parametrize("wrong", [{"HASH_QUEUE": "6"}, {"HASH_SLOTS": "7"}, {"HASH_SLOTS": "4", "HASH_QUEUE": "3"}])
def test_a_queue_that_could_take_all_threads_is_refused(environment, wrong):
    with pytest.raises(SettingsError, match="HASH_SLOTS"):
        load(AuthSettings, environment("auth") | {"THREADS": "8"} | wrong)


def test_one_hash_at_a_time_is_the_default(environment):
    settings = load(AuthSettings, environment("auth"))
    assert (settings.hash_slots, settings.hash_queue_length) == (1, 5)
