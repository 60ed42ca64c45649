"""Idempotency keys: a request sent again under its key is answered as the first time, and carried out once."""

import threading
import time
from uuid import uuid4

import pytest

from api import items

ITEM = {"title": "A title", "body": "A body"}


@pytest.fixture
def as_user(signer):
    def make():
        return {"Authorization": f"Bearer {signer.sign(uuid4(), 'ada@example.org')}"}

    return make


@pytest.fixture
def me(as_user):
    return as_user()


def post(api, user, key, body=ITEM):
    # A client of its own, without the cookies of another thread's.
    return api.app.test_client().post("/api/v1/items", json=body, headers=user | {"Idempotency-Key": key})


def count(postgresql):
    return postgresql.execute("SELECT count(*) FROM api.items").fetchone()[0]


def count_keys(postgresql):
    return postgresql.execute("SELECT count(*) FROM api.idempotency_keys").fetchone()[0]


def grow_old(postgresql, hours):
    postgresql.execute("UPDATE api.idempotency_keys SET created_at = created_at - make_interval(hours => %s)", (hours,))


def test_a_repeated_request_is_answered_as_the_first_time_and_makes_one_item(api, me, postgresql):
    first, second = post(api, me, "k"), post(api, me, "k")
    assert first.status_code == second.status_code == 201
    assert first.data == second.data
    for name in ("Location", "ETag", "Content-Type"):
        assert first.headers[name] == second.headers[name]
    assert count(postgresql) == 1


def test_the_answer_stays_that_of_the_first_time_though_the_item_has_changed(api, me):
    first = post(api, me, "k")
    api.client.patch(first.headers["Location"], json={"title": "Another"}, headers=me)
    second = post(api, me, "k")
    assert second.json == first.json
    api.client.delete(first.headers["Location"], headers=me)
    assert post(api, me, "k").json == first.json


def test_the_repeated_answer_carries_a_position_too(api, me):
    """The first one may never have reached the client."""
    post(api, me, "k")
    assert "X-Write-Position" in post(api, me, "k").headers


def test_the_same_json_written_otherwise_is_the_same_request(api, me, postgresql):
    post(api, me, "k")
    headers = me | {"Idempotency-Key": "k", "Content-Type": "application/json"}
    again = api.client.post("/api/v1/items", data='{ "body":"A body", "title":"A title" }', headers=headers)
    assert again.status_code == 201
    assert count(postgresql) == 1


def test_another_body_under_the_same_key_is_422(api, me, postgresql):
    post(api, me, "k")
    answer = post(api, me, "k", ITEM | {"title": "Another"})
    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == "urn:belvedere:problem:idempotency-key-reused"
    assert count(postgresql) == 1


def test_another_key_or_none_makes_another_item(api, me, postgresql):
    post(api, me, "k")
    post(api, me, "K")
    for _ in range(2):
        api.client.post("/api/v1/items", json=ITEM, headers=me)
    assert count(postgresql) == 4


def test_a_key_is_its_user_s_own(api, as_user, postgresql):
    ada, bob = as_user(), as_user()
    other = ITEM | {"title": "Another"}
    for _ in range(2):
        assert post(api, ada, "k").json["title"] == "A title"
        assert post(api, bob, "k", other).json["title"] == "Another"
    assert count(postgresql) == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "with space", "tab\t", "\u00e9"])
def test_a_key_that_cannot_be_kept_is_422(api, me, key, postgresql):
    answer = post(api, me, key)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == "Idempotency-Key"
    assert count(postgresql) == 0


def test_an_invalid_request_does_not_use_its_key_up(api, me):
    assert post(api, me, "k", {"title": ""}).status_code == 422
    assert post(api, me, "k").status_code == 201


def test_a_failed_request_does_not_use_its_key_up(api, me, postgresql, monkeypatch):
    def fail(*_):
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr(items, "create", fail)
        assert post(api, me, "k").status_code == 500
    assert count_keys(postgresql) == 0
    assert post(api, me, "k").status_code == 201


@pytest.mark.parametrize("first_fails", [False, True])
def test_of_two_at_once_the_second_waits_and_one_item_is_made(api, me, postgresql, monkeypatch, first_fails):
    claimed, go_on = threading.Event(), threading.Event()
    create, calls, answers = items.create, [], {}

    def slow_create(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            claimed.set()
            assert go_on.wait(10)
            if first_fails:
                raise RuntimeError
        return create(*arguments)

    monkeypatch.setattr(items, "create", slow_create)
    threads = [
        threading.Thread(target=lambda name=name: answers.update({name: post(api, me, "k")}))
        for name in ("first", "second")
    ]
    threads[0].start()
    assert claimed.wait(10)
    threads[1].start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'api' AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 10
    while postgresql.execute(waiting).fetchone() != (1,):
        assert time.monotonic() < deadline, "the second request never waited"
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert answers["second"].status_code == 201
    if first_fails:
        assert answers["first"].status_code == 500
    else:
        assert answers["first"].data == answers["second"].data
    assert count(postgresql) == 1


def test_many_at_once_make_one_item(api, me, postgresql):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(api, me, "k"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.data for answer in answers}) == 1
    assert count(postgresql) == 1


def test_a_key_lasts_a_day(api, me, postgresql):
    first = post(api, me, "k")
    grow_old(postgresql, 23)
    assert post(api, me, "k").json == first.json
    grow_old(postgresql, 2)
    other = ITEM | {"title": "Another"}
    assert post(api, me, "k", other).json["title"] == "Another"
    assert post(api, me, "k", other).status_code == 201
    assert count(postgresql) == 2


def test_expired_keys_are_removed_some_at_a_time_and_others_stay(api, as_user, postgresql):
    me = as_user()
    for number in range(12):
        post(api, me, f"old-{number}")
    grow_old(postgresql, 25)
    post(api, me, "young")
    assert count_keys(postgresql) == 3
    post(api, me, "younger")
    assert count_keys(postgresql) == 2


def test_keys_go_with_their_user(api, me, postgresql):
    post(api, me, "k")
    postgresql.execute("DELETE FROM api.users")
    assert count_keys(postgresql) == 0
