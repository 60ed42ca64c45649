"""Users: made on first contact, renamed by themselves, seen by others without their address."""

from uuid import uuid4

import pytest


@pytest.fixture
def ada(signer):
    user_id = uuid4()
    return user_id, {"Authorization": f"Bearer {signer.sign(user_id, 'ada@example.org')}"}


@pytest.fixture
def bob(signer):
    return {"Authorization": f"Bearer {signer.sign(uuid4(), 'bob@example.org')}"}


def test_a_user_exists_from_the_first_contact(api, ada):
    user_id, headers = ada
    answer = api.client.get("/api/v1/users/me", headers=headers)
    assert answer.status_code == 200
    assert answer.json["id"] == str(user_id)
    assert (answer.json["email"], answer.json["display_name"]) == ("ada@example.org", "ada")


def test_a_user_who_first_stores_an_item_exists_too(api, ada, bob):
    user_id, headers = ada
    assert api.client.post("/api/v1/items", json={"title": "t", "body": "b"}, headers=headers).status_code == 201
    assert api.client.get(f"/api/v1/users/{user_id}", headers=bob).status_code == 200


def test_a_new_name_stays(api, ada):
    _, headers = ada
    answer = api.client.patch("/api/v1/users/me", json={"display_name": "Ada L."}, headers=headers)
    assert answer.json["display_name"] == "Ada L."
    assert api.client.get("/api/v1/users/me", headers=headers).json["display_name"] == "Ada L."


@pytest.mark.parametrize("body", [{}, {"display_name": ""}, {"display_name": "nul\x00"}, {"email": "x@example.org"}])
def test_an_invalid_change_is_422(api, ada, body):
    assert api.client.patch("/api/v1/users/me", json=body, headers=ada[1]).status_code == 422


def test_others_do_not_see_the_address(api, ada, bob):
    user_id, headers = ada
    api.client.get("/api/v1/users/me", headers=headers)
    answer = api.client.get(f"/api/v1/users/{user_id}", headers=bob)
    assert answer.status_code == 200
    assert set(answer.json) == {"id", "display_name", "created_at"}


def test_an_unknown_user_is_404(api, bob):
    assert api.client.get(f"/api/v1/users/{uuid4()}", headers=bob).status_code == 404


def test_a_log_line_names_the_user(start_api, ada):
    api = start_api(SLOW_REQUEST_MS="0")
    user_id, headers = ada
    api.client.get("/api/v1/users/me", headers=headers)
    assert api.log("request")[0]["user_id"] == str(user_id)
