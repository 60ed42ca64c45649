"""Tokens that were found good are remembered, and for no longer than they are good."""

import time
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from servicekit import tokens
from servicekit.tokens import ALGORITHM, TokenRefused, TokenVerifier

ISSUER, AUDIENCE = "https://edge.test", "belvedere"


class KeySet:
    def __init__(self, key):
        self.jwk = jwt.PyJWK(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), ALGORITHM)
        self.known = {"ours": self.jwk}

    def get(self, kid):
        return self.known.get(kid)


@pytest.fixture
def keys(signing_key):
    return KeySet(signing_key)


@pytest.fixture
def judged(monkeypatch):
    """The tokens that PyJWT was asked about."""
    asked, decode = [], jwt.decode

    def asking(token, *arguments, **others):
        asked.append(token)
        return decode(token, *arguments, **others)

    monkeypatch.setattr(jwt, "decode", asking)
    return asked


@pytest.fixture
def verifier(keys, judged):
    return TokenVerifier(keys, ISSUER, AUDIENCE)


@pytest.fixture
def token(signing_key):
    return make(signing_key)


def make(key, **changes):
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(uuid4()), "email": "ada@example.org", "jti": str(uuid4())}
    return jwt.encode(claims | {"iat": now, "exp": now + 60} | changes, key, ALGORITHM, headers={"kid": "ours"})


def test_a_good_token_is_judged_once(verifier, judged, token):
    assert verifier.verify(token) == verifier.verify(token)
    assert judged == [token]


def test_what_a_remembered_token_says_cannot_be_changed(verifier, token):
    with pytest.raises(TypeError):
        verifier.verify(token).values["sub"] = "another"


def test_a_remembered_token_expires_in_its_second(verifier, token, monkeypatch):
    expires = verifier.verify(token).values["exp"]
    monkeypatch.setattr(tokens.time, "time", lambda: expires - 0.001)
    verifier.verify(token)
    monkeypatch.setattr(tokens.time, "time", lambda: expires)
    with pytest.raises(TokenRefused, match="has expired"):
        verifier.verify(token)


def test_a_remembered_token_is_refused_once_its_key_is_not_known_any_more(verifier, keys, token):
    verifier.verify(token)
    keys.known.clear()
    with pytest.raises(TokenRefused, match="not known here"):
        verifier.verify(token)


def test_a_remembered_token_is_judged_anew_when_its_keys_id_means_another_key(verifier, keys, token):
    verifier.verify(token)
    keys.known["ours"] = KeySet(rsa.generate_private_key(65537, 2048)).jwk
    with pytest.raises(TokenRefused, match="not valid"):
        verifier.verify(token)


def test_a_token_is_told_from_a_remembered_one_by_its_last_character(verifier, token):
    verifier.verify(token)
    another = "B" if token.endswith("A") else "A"
    for wrong in (token[:-1], token + another, token[:-1] + another):
        with pytest.raises(TokenRefused):
            verifier.verify(wrong)


def test_a_refusal_is_not_remembered(verifier, judged, signing_key):
    early = make(signing_key, nbf=int(time.time()) + 30)
    for _ in range(2):
        with pytest.raises(TokenRefused):
            verifier.verify(early)
    assert judged == [early, early]


def test_the_oldest_are_forgotten(keys, judged, signing_key, monkeypatch):
    monkeypatch.setattr(tokens, "REMEMBERED", 2)
    verifier = TokenVerifier(keys, ISSUER, AUDIENCE)
    first, second, third = (make(signing_key) for _ in range(3))
    for one in (first, second, third, second, first):
        verifier.verify(one)
    assert judged == [first, second, third, first]
