"""The read cache: what it saves, and that nobody reads an old row after a write was acknowledged."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from api import cache, items, users
from servicekit import position, shared

ITEM = {"title": "First", "body": "A body"}


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    monkeypatch.setattr(shared, "PAUSE", 0.3)


@pytest.fixture
def start(start_api, valkey_server):
    busy = {"VALKEY_ADDRESS": valkey_server.address, "VALKEY_TIMEOUT_MS": "1000"}  # the machine may be
    return lambda **overrides: start_api(**busy | overrides)


@pytest.fixture
def api(start):
    return start()


@pytest.fixture
def as_user(signer):
    def make(email="ada@example.org"):
        return {"Authorization": f"Bearer {signer.sign(uuid4(), email)}"}

    return make


@pytest.fixture
def me(as_user):
    return as_user()


def post(api, user, **item):
    return api.client.post("/api/v1/items", json=ITEM | item, headers=user).headers["Location"]


def get(api, path, user, carries_position=False, **headers):
    """The answer; a client has the position of its last write only where the test says so."""
    if not carries_position:
        api.client.delete_cookie(position.COOKIE)
    return api.client.get(path, headers=user | headers)


def statements(api, of):
    """The database's statements during a call, and what the call returned."""
    before = len(api.spans())
    answer = of()
    names = [span.name for span in api.spans()[before:] if span.attributes.get("db.system.name") == "postgresql"]
    return names, answer


def counted(api, kind, result):
    name = f'api_cache_requests_total{{kind="{kind}",result="{result}"}} '
    metrics = api.metrics()
    return float(metrics.split(name)[1].split()[0]) if name in metrics else 0


def forget_all(valkey_server):
    valkey_server.client().flushall()


def test_a_second_read_asks_the_database_nothing(api, me, valkey_server):
    location = post(api, me)
    forget_all(valkey_server)
    first, answer = statements(api, lambda: get(api, location, me))
    second, again = statements(api, lambda: get(api, location, me))
    assert (first, second) == (["SELECT replica"], [])
    assert again.json == answer.json
    assert again.headers["ETag"] == answer.headers["ETag"]
    assert (counted(api, "item", "miss"), counted(api, "item", "hit")) == (1, 1)


def test_instances_share_what_one_has_read(start, me):
    one, other = start(), start()
    location = post(one, me)
    assert statements(other, lambda: get(other, location, me))[0] == []


def test_one_who_writes_reads_it_back_from_the_cache_under_their_position(api, me):
    location = post(api, me)
    names, answer = statements(api, lambda: get(api, location, me, carries_position=True))
    assert (names, answer.json["title"]) == ([], "First")
    api.client.patch(location, json={"title": "Second"}, headers=me)
    names, answer = statements(api, lambda: get(api, location, me, carries_position=True))
    assert (names, answer.json["title"]) == ([], "Second")


def test_users_are_kept_too(api, me, as_user):
    mine = api.client.get("/api/v1/users/me", headers=me).json
    other = as_user("bob@example.org")
    names, seen = statements(api, lambda: get(api, f"/api/v1/users/{mine['id']}", other))
    assert (names, seen.json) == ([], {name: mine[name] for name in ("id", "display_name", "created_at")})
    api.client.patch("/api/v1/users/me", json={"display_name": "Ada L."}, headers=me)
    assert get(api, f"/api/v1/users/{mine['id']}", other).json["display_name"] == "Ada L."
    assert get(api, "/api/v1/users/me", me).json["display_name"] == "Ada L."


def test_each_change_of_a_user_is_a_later_version(api, postgresql, me):
    api.client.get("/api/v1/users/me", headers=me)
    seen = []
    for name in ("a", "b"):
        api.client.patch("/api/v1/users/me", json={"display_name": name}, headers=me)
        seen += postgresql.execute("SELECT updated_at FROM api.users").fetchall()
        postgresql.execute("UPDATE api.users SET updated_at = updated_at + interval '1 hour'")  # a clock set back
    assert seen[1][0] > seen[0][0] + timedelta(hours=1)


def test_another_user_s_item_is_404_though_it_is_kept(api, me, as_user):
    location = post(api, me)
    get(api, location, me)
    stranger = as_user("bob@example.org")
    assert get(api, location, stranger).status_code == 404
    assert get(api, location, stranger).status_code == 404
    assert get(api, location, me).status_code == 200


def test_what_is_not_there_is_not_kept(api, me, valkey_server):
    assert get(api, f"/api/v1/items/{uuid4()}", me).status_code == 404
    assert valkey_server.client().keys("api:*") == []


def test_a_kept_item_has_the_tag_for_conditions(api, me):
    location = post(api, me)
    tag = get(api, location, me).headers["ETag"]
    assert get(api, location, me, **{"If-None-Match": tag}).status_code == 304
    changed = api.client.patch(location, json={"title": "Second"}, headers=me | {"If-Match": tag})
    assert changed.status_code == 200
    assert get(api, location, me, **{"If-None-Match": tag}).status_code == 200
    assert api.client.patch(location, json={}, headers=me | {"If-Match": tag}).status_code == 412


def test_a_change_is_never_made_by_what_is_kept(api, me, valkey_server, postgresql):
    """The cache has an item that the database has not, or has otherwise: the database decides."""
    location = post(api, me)
    tag = get(api, location, me).headers["ETag"]
    postgresql.execute("UPDATE api.items SET updated_at = updated_at + interval '1 second', title = 'Elsewhere'")
    assert api.client.patch(location, json={}, headers=me | {"If-Match": tag}).status_code == 412
    postgresql.execute("DELETE FROM api.items")
    assert api.client.patch(location, json={}, headers=me).status_code == 404
    assert api.client.delete(location, headers=me).status_code == 404


def test_a_deleted_item_is_404_and_saves_the_query(api, me):
    location = post(api, me)
    api.client.delete(location, headers=me)
    names, answer = statements(api, lambda: get(api, location, me))
    assert (names, answer.status_code) == ([], 404)


def test_every_key_expires(api, me, valkey_server):
    location = post(api, me)
    get(api, location, me)
    get(api, "/api/v1/users/me", me)
    api.client.delete(post(api, me), headers=me)
    client = valkey_server.client()
    assert len(client.keys("*")) >= 3
    assert all(0 < client.ttl(key) <= 60 for key in client.keys("*"))


# Races.


class Held:
    """A query that has its row already, and does not return with it before it is let go."""

    def __init__(self, monkeypatch, module):
        self.has_read, self._go_on = threading.Event(), threading.Event()
        find = module.find

        def slow(*arguments):
            found = find(*arguments)
            if not self.has_read.is_set():  # the first one only
                self.has_read.set()
                assert self._go_on.wait(10)
            return found

        monkeypatch.setattr(module, "find", slow)

    def let_go(self):
        self._go_on.set()


def in_thread(pool, api, path, user):
    """A read by a client of its own: test clients are not for two threads."""
    return pool.submit(lambda: api.app.test_client().get(path, headers=user))


def test_a_reader_who_is_slow_cannot_put_an_old_row_over_a_new_one(api, me, valkey_server, monkeypatch):
    location = post(api, me)
    forget_all(valkey_server)
    held = Held(monkeypatch, items)
    with ThreadPoolExecutor() as pool:
        slow = in_thread(pool, api, location, me)
        assert held.has_read.wait(10)
        assert api.client.patch(location, json={"title": "Second"}, headers=me).status_code == 200
        held.let_go()
        assert slow.result().json["title"] == "First", "it began before the change was acknowledged"
    names, answer = statements(api, lambda: get(api, location, me))
    assert (names, answer.json["title"]) == ([], "Second")


def test_a_reader_who_is_slow_keeps_nothing_where_the_new_row_was_evicted(api, me, valkey_server, monkeypatch):
    location = post(api, me)
    forget_all(valkey_server)
    held = Held(monkeypatch, items)
    with ThreadPoolExecutor() as pool:
        slow = in_thread(pool, api, location, me)
        assert held.has_read.wait(10)
        api.client.patch(location, json={"title": "Second"}, headers=me)
        forget_all(valkey_server)
        held.let_go()
        slow.result()
    assert get(api, location, me).json["title"] == "Second"


def test_a_reader_who_is_slow_does_not_bring_a_deleted_row_back(api, me, valkey_server, monkeypatch):
    location = post(api, me)
    forget_all(valkey_server)
    held = Held(monkeypatch, items)
    with ThreadPoolExecutor() as pool:
        slow = in_thread(pool, api, location, me)
        assert held.has_read.wait(10)
        assert api.client.delete(location, headers=me).status_code == 204
        held.let_go()
        assert slow.result().status_code == 200
    assert get(api, location, me).status_code == 404


def test_a_reader_who_is_slow_does_not_bring_an_old_name_back(api, me, valkey_server, monkeypatch):
    api.client.get("/api/v1/users/me", headers=me)
    forget_all(valkey_server)
    held = Held(monkeypatch, users)
    with ThreadPoolExecutor() as pool:
        slow = in_thread(pool, api, "/api/v1/users/me", me)
        assert held.has_read.wait(10)
        api.client.patch("/api/v1/users/me", json={"display_name": "Second"}, headers=me)
        held.let_go()
        slow.result()
    assert get(api, "/api/v1/users/me", me).json["display_name"] == "Second"


def test_of_two_writers_the_later_version_stays_whoever_keeps_last(api, me, monkeypatch):
    location = post(api, me)
    first_has_committed, go_on = threading.Event(), threading.Event()
    wrote = cache.ReadCache.wrote

    def slow(self, kind, key, row):
        if row.title == "Second":
            first_has_committed.set()
            assert go_on.wait(10)
        wrote(self, kind, key, row)

    monkeypatch.setattr(cache.ReadCache, "wrote", slow)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(lambda: api.app.test_client().patch(location, json={"title": "Second"}, headers=me))
        assert first_has_committed.wait(10)
        api.client.patch(location, json={"title": "Third"}, headers=me)
        go_on.set()
        assert first.result().status_code == 200
    assert get(api, location, me).json["title"] == "Third"


def test_no_read_is_older_than_the_last_write_that_was_acknowledged_before_it(start, me, valkey_server):
    """Two instances, readers and a writer at once, and a cache that forgets everything again and again."""
    one, other = start(), start()
    location = post(one, me)
    acknowledged, stale, reads, stop = 0, [], [0], threading.Event()

    def read(api):
        client = api.app.test_client()
        while not stop.is_set():
            at_least = acknowledged
            title = client.get(location, headers=me).json["title"]
            reads[0] += 1
            if title != "First" and int(title) < at_least:
                stale.append((title, at_least))

    def forget():
        while not stop.wait(0.02):
            valkey_server.client().delete(*valkey_server.client().keys("api:*") or ["api:none"])

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(read, api) for api in (one, other, one, other)] + [pool.submit(forget)]
        writer = other.app.test_client()
        deadline = time.monotonic() + 30
        try:
            while acknowledged < 100 or reads[0] < 200:
                assert time.monotonic() < deadline, (acknowledged, reads)
                title = str(acknowledged + 1)
                assert writer.patch(location, json={"title": title}, headers=me).status_code == 200
                acknowledged += 1
        finally:
            stop.set()
        for each in running:
            each.result()
    assert stale == []


def keep(valkey_server, location, me, title, age):
    """Put an older row into the cache, as a writer leaves it whose instance does not reach Valkey."""
    client = valkey_server.client()
    (key,) = (key for key in client.keys("api:1:item:*") if location.rsplit("/", 1)[1] in key)
    version, proven, row = client.get(key).split(" ", 2)
    old = json.loads(row) | {"title": title}
    client.set(key, f"{int(version) - age} {proven} {json.dumps(old)}", ex=60)


def test_one_who_wrote_reads_it_back_though_the_cache_was_not_told(api, me, valkey_server):
    location = post(api, me)
    valkey_server.stop()
    assert api.client.patch(location, json={"title": "Second"}, headers=me).status_code == 200
    valkey_server.start()
    time.sleep(0.35)  # the circuit's pause
    other = api.app.test_client()
    other.get(location, headers=me)
    keep(valkey_server, location, me, "First", age=1)
    names, answer = statements(api, lambda: get(api, location, me, carries_position=True))
    assert (names, answer.json["title"]) == (["SELECT replica"], "Second")
    assert counted(api, "item", "behind") == 1
    names, answer = statements(api, lambda: get(api, location, me, carries_position=True))
    assert (names, answer.json["title"]) == ([], "Second"), "now it is kept as new as that"


def test_a_position_that_nobody_has_reached_proves_nothing(api, me, valkey_server):
    location = post(api, me)
    get(api, location, me, **{position.HEADER: "FFFFFFF0/0"})
    (key,) = valkey_server.client().keys("api:1:item:*")
    assert int(valkey_server.client().get(key).split(" ")[1]) < position.number("FFFFFFF0/0")


# Stampedes.


def test_of_many_who_miss_at_once_one_asks_the_database(api, me, valkey_server, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE", 5)
    location = post(api, me)
    forget_all(valkey_server)
    held = Held(monkeypatch, items)

    def read_all():
        with ThreadPoolExecutor(8) as pool:
            answers = [in_thread(pool, api, location, me) for _ in range(8)]
            assert held.has_read.wait(10)
            time.sleep(0.1)  # the others have come
            held.let_go()
            return [answer.result().status_code for answer in answers]

    names, codes = statements(api, read_all)
    assert codes == [200] * 8
    assert names == ["SELECT replica"]


def test_those_who_miss_wait_no_longer_than_a_little(api, me, valkey_server, monkeypatch):
    location = post(api, me)
    forget_all(valkey_server)
    held = Held(monkeypatch, items)
    with ThreadPoolExecutor() as pool:
        slow = in_thread(pool, api, location, me)
        assert held.has_read.wait(10)
        begun = time.monotonic()
        assert get(api, location, me).status_code == 200
        assert cache.PATIENCE <= time.monotonic() - begun < 5
        held.let_go()
        slow.result()


def test_after_a_miss_that_found_nothing_the_next_reader_need_not_wait(api, me, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE", 3)
    monkeypatch.setattr(cache, "LEASE", 60_000)
    path = f"/api/v1/items/{uuid4()}"
    get(api, path, me)
    begun = time.monotonic()
    get(api, path, me)
    assert time.monotonic() - begun < cache.PATIENCE


# Away, slow, off.


def test_without_valkey_everything_works(api, me, valkey_server):
    kept = post(api, me)
    valkey_server.stop()
    assert get(api, kept, me).json["title"] == "First"
    location = post(api, me)
    assert api.client.patch(location, json={"title": "Second"}, headers=me).status_code == 200
    assert get(api, location, me).json["title"] == "Second"
    assert api.client.delete(location, headers=me).status_code == 204
    assert get(api, location, me).status_code == 404
    assert get(api, "/api/v1/users/me", me).status_code == 200
    assert counted(api, "item", "error") == 3
    assert 'api_cache_writes_total{kind="item",result="failed"} 3.0' in api.metrics()


def test_a_valkey_that_never_answers_costs_a_read_one_time_out(start, me, valkey_server, monkeypatch):
    monkeypatch.setattr(shared, "PAUSE", 60)
    api = start(VALKEY_TIMEOUT_MS="100")
    location = post(api, me)
    valkey_server.suspend()
    try:
        assert [get(api, location, me).status_code for _ in range(4)] == [200] * 4
    finally:
        valkey_server.resume()
    assert 'valkey_requests_total{outcome="failed"} 1.0' in api.metrics()
    assert counted(api, "item", "error") == 4


def test_a_write_is_kept_though_a_read_has_failed_just_now(api, me, valkey_server):
    """Others may reach Valkey all the time, and would read the old row."""
    location = post(api, me)
    valkey_server.suspend()
    get(api, location, me)
    valkey_server.resume()
    api.client.patch(location, json={"title": "Second"}, headers=me)
    (key,) = valkey_server.client().keys("api:1:item:*")
    assert json.loads(valkey_server.client().get(key).split(" ", 2)[2])["title"] == "Second"


def test_a_write_whose_answer_does_not_come_in_time_is_kept_all_the_same(api, me, valkey_server):
    """It was sent; a server that is merely slow carries it out."""
    location = post(api, me)
    valkey_server.suspend()
    assert api.client.patch(location, json={"title": "Second"}, headers=me).status_code == 200
    valkey_server.resume()
    (key,) = valkey_server.client().keys("api:1:item:*")
    deadline = time.monotonic() + 5
    while json.loads(valkey_server.client().get(key).split(" ", 2)[2])["title"] != "Second":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_setting_turns_it_off(start, me, valkey_server):
    api = start(READ_CACHE_SECONDS="0")
    location = post(api, me)
    names, _ = statements(api, lambda: [get(api, location, me) for _ in range(2)])
    assert names == ["SELECT replica"] * 2
    assert counted(api, "item", "off") == 2
    assert valkey_server.client().keys("*") == []


@pytest.mark.parametrize("kind", [items.KEPT, users.KEPT], ids=["item", "user"])
def test_what_is_kept_comes_back_as_it_was(kind):
    now = datetime.fromisoformat("2026-02-03T04:05:06.000007+00:00")
    texts = ('Grüße \U0001f600 " \\ \n', "b\u2028")
    row = items.Item(uuid4(), *texts, now, now) if kind is items.KEPT else users.User(uuid4(), *texts, now, now)
    assert kind.read(kind.write(row)) == row
    assert kind.version(row) == 1770091506000007 < cache.GONE
