"""Entity tags: what has not changed is not sent again, and nobody overwrites what they have not seen."""

from uuid import uuid4

import pytest


@pytest.fixture
def me(signer):
    return {"Authorization": f"Bearer {signer.sign(uuid4(), 'ada@example.org')}"}


@pytest.fixture
def item(api, me):
    """The answer to a POST: it has the item's location and its tag."""
    return api.client.post("/api/v1/items", json={"title": "A title", "body": "A body"}, headers=me)


@pytest.fixture
def ask(api, me, item):
    """Send a request to the item's location."""

    def ask(method, json=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api.client.open(item.headers["Location"], method=method, json=json, headers=me | named)

    return ask


def test_an_item_has_one_strong_tag_until_it_changes(ask, item):
    tag = item.headers["ETag"]
    assert tag.startswith('"')
    assert ask("GET").headers["ETag"] == tag
    changed = ask("PATCH", {"title": "Another"}).headers["ETag"]
    assert changed != tag
    assert ask("GET").headers["ETag"] == changed


def test_no_version_comes_again_though_the_clock_was_set_back(ask, item, postgresql):
    postgresql.execute("UPDATE api.items SET updated_at = now() + interval '1 hour'")
    seen = [ask("GET").json["updated_at"]] + [ask("PATCH", {}).json["updated_at"] for _ in range(3)]
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("sent", ["{tag}", "W/{tag}", '"x", {tag}', "*"])
def test_what_the_client_has_is_304_without_a_body(ask, item, sent):
    tag = item.headers["ETag"]
    answer = ask("GET", If_None_Match=sent.format(tag=tag))
    assert answer.status_code == 304
    assert answer.data == b""
    assert answer.headers["ETag"] == tag
    assert answer.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("sent", ['"x"', 'W/"x"', '""', "", "x"])
def test_what_the_client_has_not_is_200(ask, item, sent):
    assert ask("GET", If_None_Match=sent).json == item.json


def test_a_changed_item_is_sent_again(ask, item):
    ask("PATCH", {"title": "Another"})
    assert ask("GET", If_None_Match=item.headers["ETag"]).json["title"] == "Another"


@pytest.mark.parametrize("sent", ["{tag}", '"x", {tag}', "*"])
@pytest.mark.parametrize(("method", "status"), [("PATCH", 200), ("DELETE", 204)])
def test_who_has_seen_the_item_may_change_it(ask, item, method, status, sent):
    assert ask(method, {}, If_Match=sent.format(tag=item.headers["ETag"])).status_code == status


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_an_update_that_would_be_lost_is_412(ask, item, method):
    ask("PATCH", {"title": "First"})
    answer = ask(method, {"title": "Second"}, If_Match=item.headers["ETag"])
    assert answer.status_code == 412
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == "urn:belvedere:problem:precondition-failed"
    assert ask("GET").json["title"] == "First"


@pytest.mark.parametrize(
    "sent", ["W/{tag}", "", "x", '""', '"x"', '"-1"', '"' + "f" * 500 + '"', '"0{bare}"', '"0x{bare}"']
)
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_tag_that_is_not_the_item_s_is_412(ask, item, method, sent):
    tag = item.headers["ETag"]
    assert ask(method, {}, If_Match=sent.format(tag=tag, bare=tag.strip('"'))).status_code == 412
    assert ask("GET").status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_an_item_that_is_gone_is_404_whatever_the_tag(ask, item, method):
    ask("DELETE")
    assert ask(method, {}, If_Match=item.headers["ETag"]).status_code == 404
    assert ask(method, {}, If_Match="*").status_code == 404


def test_another_user_s_item_is_404_whatever_the_tag(api, item, signer):
    stranger = {"Authorization": f"Bearer {signer.sign(uuid4(), 'bob@example.org')}"}
    for name in ("If-Match", "If-None-Match"):
        for method in ("GET", "PATCH", "DELETE"):
            headers = stranger | {name: item.headers["ETag"]}
            answer = api.client.open(item.headers["Location"], method=method, json={}, headers=headers)
            assert answer.status_code == 404
