"""Access tokens: what is accepted, and every attack that is not."""

import base64
import json
import time
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

ISSUER, AUDIENCE = "https://edge.test", "belvedere"


@pytest.fixture
def claims():
    now = int(time.time())
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(uuid4()),
        "email": "ada@example.org",
        "iat": now,
        "exp": now + 60,
        "jti": str(uuid4()),
    }


@pytest.fixture
def ask(auth, signer, signing_key):
    """Ask /validate about claims signed with the right key, id and algorithm unless said otherwise."""

    def ask(claims, key=signing_key, algorithm="RS256", kid=signer.kid):
        return ask_token(auth, jwt.encode(claims, key, algorithm, headers={"kid": kid}))

    return ask


def ask_token(auth, token):
    return auth.client.get("/validate", headers={"Authorization": f"Bearer {token}"})


def test_a_token_of_our_key_is_good(ask, claims):
    assert ask(claims).status_code == 200


@pytest.mark.parametrize("change", [{"aud": "others"}, {"iss": "https://evil.test"}, {"sub": "not-a-uuid"}])
def test_a_token_for_or_from_others_is_refused(ask, claims, change):
    assert ask(claims | change).status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"aud": ["others"]},
        {"aud": {AUDIENCE: 1}},
        {"iat": int(time.time()) + 3600},
        {"nbf": int(time.time()) + 3600},
        {"exp": float("inf")},
        {"exp": True},
        {"jti": 7},
        {"email": None},
        {"sub": 7},
    ],
)
def test_a_signed_token_with_a_claim_that_makes_no_sense_is_refused(auth, signing_key, signer, claims, change):
    token = signed(signing_key, {"alg": "RS256", "kid": signer.kid}, claims | change)
    assert ask_token(auth, token).status_code == 401


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False, "crit": ["b64"]}, {"alg": "RS512"}, {"kid": 7}])
def test_a_signed_token_with_another_header_is_refused(auth, signing_key, signer, claims, header):
    token = signed(signing_key, {"alg": "RS256", "kid": signer.kid} | header, claims)
    assert ask_token(auth, token).status_code == 401


def test_an_audience_among_others_is_enough(ask, claims):
    assert ask(claims | {"aud": ["others", AUDIENCE]}).status_code == 200


def signed(key, header, claims):
    """PyJWT refuses to make such tokens."""
    first, second = (base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{first}.{second}." + base64url(key.sign(f"{first}.{second}".encode(), PKCS1v15(), SHA256()))


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_an_expired_token_is_refused_and_says_so(ask, claims):
    answer = ask(claims | {"iat": 1, "exp": 2})
    assert answer.status_code == 401
    assert answer.json["detail"] == "The token has expired."
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("missing", ["exp", "iat", "iss", "aud", "sub", "jti", "email"])
def test_a_token_without_a_required_claim_is_refused(ask, claims, missing):
    del claims[missing]
    assert ask(claims).status_code == 401


def test_a_token_of_another_key_is_refused_even_under_our_keys_id(ask, claims):
    assert ask(claims, key=rsa.generate_private_key(65537, 2048)).status_code == 401


def test_an_unknown_key_id_is_refused(ask, claims):
    assert ask(claims, kid="unknown").status_code == 401


def test_an_unsigned_token_is_refused(auth, signer, claims):
    token = jwt.encode(claims, None, "none", headers={"kid": signer.kid})
    assert ask_token(auth, token).status_code == 401


def test_a_token_signed_with_the_public_key_as_hmac_secret_is_refused(auth, signer, claims):
    public = signer.public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    token = hmac_token(public, {"alg": "HS256", "typ": "JWT", "kid": signer.kid}, claims)
    assert ask_token(auth, token).status_code == 401


def hmac_token(secret, header, claims):
    """PyJWT refuses to sign with such a secret, an attacker's tool does not."""
    import hashlib
    import hmac

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = encode(json.dumps(header).encode()) + b"." + encode(json.dumps(claims).encode())
    return (signed + b"." + encode(hmac.digest(secret, signed, hashlib.sha256))).decode()


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "..", "\u00e9.\u00e9.\u00e9", "e30.e30.e30", "W10.W10.W10", "A" * 5000]
)
def test_what_is_no_token_is_401(auth, token):
    assert ask_token(auth, token).status_code == 401


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "bearer"])
def test_no_bearer_token_is_401(auth, header):
    headers = {} if header is None else {"Authorization": header}
    answer = auth.client.get("/validate", headers=headers)
    assert answer.status_code == 401
    assert answer.mimetype == "application/problem+json"


def test_the_key_set_has_the_public_half_only_and_may_be_cached(auth, signer):
    answer = auth.client.get("/.well-known/jwks.json")
    (key,) = answer.json["keys"]
    assert set(key) == {"kty", "n", "e", "kid", "use", "alg"}
    assert key["kid"] == signer.kid
    assert answer.headers["Cache-Control"] == "public, max-age=300"
