"""Rotation of the signing key: no good token is refused at any step of it."""

import re
import time
from functools import cache

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from auth.settings import AuthSettings
from servicekit.settings import SettingsError, load

CREDENTIALS = {"email": "ada@example.org", "password": "correct horse battery"}


def private_pem(key, how=serialization.PrivateFormat.PKCS8, encryption=None):
    encryption = encryption or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, how, encryption).decode()


def public_pem(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.fixture(scope="module")
def old():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def new():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def key_file(tmp_path):
    def key_file(text):
        path = tmp_path / "signing_key"
        path.write_text(text)
        return {"SIGNING_KEY_FILE": str(path)}

    return key_file


@pytest.fixture
def start_with(start_auth, key_file):
    """Start auth with these keys."""
    return lambda *pems: start_auth(**key_file("\n".join(pems)))


def token_of(auth):
    auth.client.post("/register", json=CREDENTIALS)
    return auth.client.post("/login", json=CREDENTIALS).json["access_token"]


def status(auth, token):
    return auth.client.get("/validate", headers={"Authorization": f"Bearer {token}"}).status_code


def kid(token):
    return jwt.get_unverified_header(token)["kid"]


def kids(auth):
    answer = auth.client.get("/.well-known/jwks.json")
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert all(set(key) == {"kty", "n", "e", "kid", "use", "alg"} for key in answer.json["keys"])
    return [key["kid"] for key in answer.json["keys"]]


def test_a_token_stays_good_through_every_step_of_a_rotation(start_with, old, new):
    before = start_with(private_pem(old))
    announced = start_with(private_pem(old), public_pem(new))
    switched = start_with(private_pem(new), private_pem(old))
    after = start_with(private_pem(new))
    early, late = token_of(announced), token_of(switched)
    assert kid(early) != kid(late)
    assert [status(auth, early) for auth in (before, announced, switched, after)] == [200, 200, 200, 401]
    assert [status(auth, late) for auth in (before, announced, switched, after)] == [401, 200, 200, 200]


def test_the_key_set_lists_all_keys_the_active_one_first(start_with, old, new):
    announced, switched = start_with(private_pem(old), public_pem(new)), start_with(private_pem(new), private_pem(old))
    assert kids(announced) == kids(switched)[::-1]
    assert kids(announced)[0] == kid(token_of(announced))
    assert kids(start_with(private_pem(old), private_pem(old))) == kids(announced)[:1]


def test_a_key_has_the_same_id_in_every_form(start_with, old):
    pkcs1 = private_pem(old, serialization.PrivateFormat.TraditionalOpenSSL)
    assert kids(start_with(pkcs1)) == kids(start_with(private_pem(old)))


def test_a_retired_key_no_longer_listed_is_refused_under_the_active_ones_id(start_with, old, new):
    after = start_with(private_pem(new))
    claims = jwt.decode(token_of(after), options={"verify_signature": False})
    forged = jwt.encode(claims, old, "RS256", headers={"kid": kids(after)[0]})
    assert status(after, forged) == 401


@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
def test_another_algorithm_with_our_own_key_is_refused(start_with, old, algorithm):
    auth = start_with(private_pem(old))
    claims = jwt.decode(token_of(auth), options={"verify_signature": False})
    assert status(auth, jwt.encode(claims, old, algorithm, headers={"kid": kids(auth)[0]})) == 401


def test_the_active_key_tells_its_age_where_it_is_known(start_with, old, new):
    began = f"Active-Since: {int(time.time()) - 100}\n"
    age = re.search(
        r"^auth_signing_key_age_seconds (\S+)$", start_with(began + private_pem(old)).metrics(), re.MULTILINE
    )
    assert 100 <= float(age[1]) < 130
    assert "auth_signing_key_age_seconds" not in start_with(private_pem(old), private_pem(new)).metrics()


@cache
def wrong_keys():
    good = rsa.generate_private_key(65537, 2048)
    weak = private_pem(rsa.generate_private_key(65537, 1024))  # noqa: S505  it is to be refused
    broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    return {
        "a public key first": public_pem(good) + private_pem(good),
        "encrypted": private_pem(good, encryption=serialization.BestAvailableEncryption(b"secret")),
        "a curve": private_pem(ec.generate_private_key(ec.SECP256R1())),
        "weak": weak,
        "broken": broken,
        "weak second": private_pem(good) + weak,
        "broken second": private_pem(good) + broken,
        "cut off second": private_pem(good) + public_pem(good)[:-20],
    }


@pytest.mark.parametrize("name", wrong_keys())
def test_a_key_that_cannot_sign_or_verify_ends_the_start(environment, key_file, name):
    with pytest.raises(SettingsError, match="SIGNING_KEY"):
        load(AuthSettings, environment("auth") | key_file(wrong_keys()[name]))
