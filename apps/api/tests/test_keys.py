"""Token keys: fetched once, kept while auth is away, asked for again when a token names another."""

from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from servicekit import tokens


@pytest.fixture
def ask(api):
    def ask(signer):
        headers = {"Authorization": f"Bearer {signer.sign(uuid4(), 'ada@example.org')}"}
        return api.client.get("/api/v1/items", headers=headers)

    return ask


def test_keys_are_fetched_once(ask, signer, key_server):
    assert [ask(signer).status_code for _ in range(3)] == [200, 200, 200]
    assert key_server.asked == 1


def test_tokens_stay_good_while_auth_is_away(ask, signer, key_server, monkeypatch):
    assert ask(signer).status_code == 200
    key_server.stop()
    monkeypatch.setattr(tokens, "REFRESH_EVERY", 0)
    monkeypatch.setattr(tokens, "REFRESH_PAUSE", 0)
    assert [ask(signer).status_code for _ in range(3)] == [200, 200, 200]


def test_a_new_key_is_found_by_the_first_token_that_names_it(ask, signer, make_signer, key_server, monkeypatch):
    assert ask(signer).status_code == 200
    key_server.signer = make_signer(rsa.generate_private_key(65537, 2048))
    monkeypatch.setattr(tokens, "REFRESH_PAUSE", 0)
    assert ask(key_server.signer).status_code == 200


def test_tokens_of_unknown_keys_cannot_make_it_ask_all_the_time(ask, make_signer, key_server):
    stranger = make_signer(rsa.generate_private_key(65537, 2048))
    assert [ask(stranger).status_code for _ in range(5)] == [401] * 5
    assert key_server.asked == 1


def test_without_any_key_it_is_503_and_not_401(start_api, signer):
    api = start_api(JWKS_URL="http://127.0.0.1:1/jwks.json")
    headers = {"Authorization": f"Bearer {signer.sign(uuid4(), 'ada@example.org')}"}
    answer = api.client.get("/api/v1/items", headers=headers)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
