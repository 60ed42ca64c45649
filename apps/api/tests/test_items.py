"""Items: create, read, page, change, delete, and nobody else's."""

import base64
from uuid import UUID, uuid4

import pytest


@pytest.fixture
def as_user(api, signer):
    """A client's headers for a new user."""

    def make(email="ada@example.org"):
        return {"Authorization": f"Bearer {signer.sign(uuid4(), email)}"}

    return make


@pytest.fixture
def me(as_user):
    return as_user()


def post(api, user, title="A title", body="A body"):
    return api.client.post("/api/v1/items", json={"title": title, "body": body}, headers=user)


def test_a_new_item_is_201_and_found_at_its_location(api, me):
    answer = post(api, me)
    assert answer.status_code == 201
    found = api.client.get(answer.headers["Location"], headers=me)
    assert found.json == answer.json
    assert set(found.json) == {"id", "title", "body", "created_at", "updated_at"}


def test_an_item_is_read_from_a_replica(api, me):
    location = post(api, me).headers["Location"]
    written = len(api.spans())
    api.client.get(location, headers=me)
    operations = [span.name for span in api.spans()[written:] if "db.operation.name" in span.attributes]
    assert operations == ["SELECT replica"]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("milk", ["Milk and eggs", "milk"]),
        ("MILK AND", ["Milk and eggs"]),
        ("%", ["100 %"]),
        ("_", []),
        ("\\", []),
        ("body", []),
    ],
)
def test_a_list_can_be_of_titles_that_have_a_part(api, me, part, found):
    for title in ("milk", "100 %", "Milk and eggs"):
        post(api, me, title=title)
    answer = api.client.get("/api/v1/items", query_string={"q": part}, headers=me)
    assert [item["title"] for item in answer.json["items"]] == found


def test_pages_of_a_filtered_list_lead_through_what_was_asked_for(api, me):
    for number in range(3):
        post(api, me, title=f"Mine {number}")
        post(api, me, title=f"Other {number}")
    first = api.client.get("/api/v1/items", query_string={"q": "mine", "limit": 2}, headers=me).json
    query = {"q": "mine", "limit": 2, "after": first["next"]}
    second = api.client.get("/api/v1/items", query_string=query, headers=me).json
    assert [item["title"] for item in first["items"] + second["items"]] == ["Mine 2", "Mine 1", "Mine 0"]
    assert second["next"] is None


def test_pages_are_newest_first_and_lead_through_all(api, me):
    for number in range(5):
        post(api, me, title=f"Item {number}")
    seen, after = [], None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = api.client.get("/api/v1/items", query_string=query, headers=me).json
        seen += [item["title"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [f"Item {number}" for number in (4, 3, 2, 1, 0)]


def test_a_list_holds_only_ones_own(api, as_user):
    post(api, as_user())
    assert api.client.get("/api/v1/items", headers=as_user("bob@example.org")).json == {"items": [], "next": None}


def after(moment):
    """A cursor, as somebody may make one up."""
    return base64.urlsafe_b64encode(f"{moment} {UUID(int=0)}".encode()).decode()


def test_a_moment_may_have_an_offset_that_postgresql_does_not_know(api, me):
    query = {"after": after("2020-01-01T00:00:00+23:59")}
    assert api.client.get("/api/v1/items", query_string=query, headers=me).json == {"items": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "many"},
        {"after": "x"},
        {"after": "\u00e9"},
        {"after": "nul\x00"},
        {"q": ""},
        {"q": "x" * 201},
        {"q": "nul\x00"},
        {"after": "MjAyNi0wMS0wMVQwMDowMDowMCB4"},
        {"after": after("0001-01-01T00:00:00+23:59")},
    ],
)
def test_a_wrong_query_is_422(api, me, query):
    answer = api.client.get("/api/v1/items", query_string=query, headers=me)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] in query


def test_a_change_keeps_what_it_does_not_name(api, me):
    created = post(api, me)
    answer = api.client.patch(created.headers["Location"], json={"title": "Another"}, headers=me)
    assert answer.status_code == 200
    assert (answer.json["title"], answer.json["body"]) == ("Another", "A body")
    assert answer.json["updated_at"] > created.json["updated_at"]


def test_a_merge_patch_may_be_called_by_its_name(api, me):
    location = post(api, me).headers["Location"]
    answer = api.client.patch(
        location, data='{"body": "Another"}', content_type="application/merge-patch+json", headers=me
    )
    assert answer.status_code == 200
    assert (answer.json["title"], answer.json["body"]) == ("A title", "Another")


def test_a_patch_of_another_kind_is_415_and_hears_which_will_do(api, me):
    location = post(api, me).headers["Location"]
    answer = api.client.patch(location, data="[]", content_type="application/json-patch+json", headers=me)
    assert answer.status_code == 415
    assert answer.headers["Accept"] == "application/json, application/merge-patch+json"


def test_a_new_item_is_no_merge_patch(api, me):
    answer = api.client.post("/api/v1/items", data="{}", content_type="application/merge-patch+json", headers=me)
    assert answer.status_code == 415


@pytest.mark.parametrize("patch", [{"title": None}, {"body": None}, {"title": ""}, {"id": "x"}, [], "text"])
def test_a_patch_that_would_leave_no_item_is_422_and_changes_nothing(api, me, patch):
    created = post(api, me)
    answer = api.client.patch(created.headers["Location"], json=patch, headers=me)
    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    assert api.client.get(created.headers["Location"], headers=me).json == created.json


def test_a_deleted_item_is_gone(api, me):
    location = post(api, me).headers["Location"]
    assert api.client.delete(location, headers=me).status_code == 204
    assert api.client.get(location, headers=me).status_code == 404
    assert api.client.delete(location, headers=me).status_code == 404


def test_another_users_item_is_404_however_it_is_asked_for(api, me, as_user):
    location = post(api, me).headers["Location"]
    stranger = as_user("bob@example.org")
    answers = [
        api.client.get(location, headers=stranger),
        api.client.patch(location, json={"title": "Mine"}, headers=stranger),
        api.client.delete(location, headers=stranger),
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert api.client.get(location, headers=me).json["title"] == "A title"


@pytest.mark.parametrize(
    "body",
    [{"title": ""}, {"title": "x" * 201}, {"title": "nul\x00"}, {"title": 7}, {"body": "x" * 20_001}, {"owner": "me"}],
)
def test_an_invalid_item_is_422(api, me, body):
    answer = api.client.post("/api/v1/items", json={"title": "t", "body": "b"} | body, headers=me)
    assert answer.status_code == 422


def test_an_id_that_is_none_is_404(api, me):
    assert api.client.get("/api/v1/items/1", headers=me).status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_token_it_is_401(api, method):
    assert api.client.open("/api/v1/items", method=method, json={}).status_code == 401
