"""Signing: access tokens as RS256 JWTs, and the public keys that others verify them with (JWKS)."""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from prometheus_client import CollectorRegistry, Gauge

from servicekit.tokens import ALGORITHM
from servicekit.tracing import Tracing

MIN_KEY_BITS = 2048

_SINCE = re.compile(r"^Active-Since: (\d+)$", re.MULTILINE)
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class SigningKeys:
    """The key that signs, and the public halves of others that tokens may be signed with: next and retired ones.

    A rotation has three steps, each on all instances before the next one begins: add the next key behind the
    active one, and wait for as long as others keep the key set; put it first; drop the retired one once the
    last token that it signed has expired. `since` is when the active one began to sign, in seconds since 1970.
    """

    active: RSAPrivateKey
    others: tuple[RSAPublicKey, ...] = ()
    since: int | None = None


def load_signing_keys(text: str) -> SigningKeys:
    """The RSA keys in a PEM text, the active one first; of the others the public half will do. Raises `ValueError`.

    A line 'Active-Since: <seconds>' before them is what PEM calls explanatory text (RFC 7468).
    """
    pems = [match.group() for match in _PEM.finditer(text)]
    if not pems or len(pems) != text.count("-----BEGIN"):  # a key that was cut off must not be passed over
        raise ValueError("needs whole keys in PEM form")
    active, *others = map(_load_key, pems)
    if not isinstance(active, RSAPrivateKey):
        raise ValueError("must begin with a private key")
    since = _SINCE.search(text)
    public = tuple(key.public_key() if isinstance(key, RSAPrivateKey) else key for key in others)
    return SigningKeys(active, public, int(since[1]) if since else None)


def _load_key(pem: str) -> RSAPrivateKey | RSAPublicKey:
    try:
        if "PUBLIC KEY" in pem:
            key: object = serialization.load_pem_public_key(pem.encode())
        else:
            key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("holds something that is no unencrypted key in PEM form") from None
    if not isinstance(key, RSAPrivateKey | RSAPublicKey) or key.key_size < MIN_KEY_BITS:
        raise ValueError(f"needs RSA keys of at least {MIN_KEY_BITS} bits")
    return key


def watch_age(keys: SigningKeys, registry: CollectorRegistry) -> None:
    """Tell at each scrape how long the active key has signed, where that is known."""
    since = keys.since
    if since is not None:
        age = Gauge("auth_signing_key_age_seconds", "How long the active key has signed tokens", registry=registry)
        age.set_function(lambda: time.time() - since)


class TokenSigner:
    """Signs access tokens with `key`, and knows the public keys of all tokens that are good: its own and `others`."""

    def __init__(
        self,
        key: RSAPrivateKey,
        issuer: str,
        audience: str,
        lifetime: int,
        tracing: Tracing,
        others: Iterable[RSAPublicKey] = (),
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._tracing = tracing
        self.lifetime = lifetime
        self.public_key = key.public_key()
        self.kid = _thumbprint(self.public_key)
        self._public_keys = {
            _thumbprint(one): jwt.PyJWK(_public_jwk(one), ALGORITHM) for one in (self.public_key, *others)
        }

    def sign(self, account_id: UUID, email: str, session_id: UUID | None = None) -> str:
        """A token that says who the account is, for `lifetime` seconds; `session_id` is where its owner is logged in.

        Only auth looks at `sid`: other services need no session, so a token outlives its session until it expires.
        """
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(account_id),
            "email": email,
            "iat": now,
            "exp": now + self.lifetime,
            "jti": str(uuid4()),
        }
        if session_id:
            claims["sid"] = str(session_id)
        with self._tracing.span("token.sign"):
            return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self.kid})

    def get(self, kid: str) -> jwt.PyJWK | None:
        """The public key of this id, for a `TokenVerifier`."""
        return self._public_keys.get(kid)

    def derived_key(self, purpose: bytes) -> bytes:
        """A key for something else, the same on all instances; it tells nothing of the one that signs."""
        der = self._key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return hmac.digest(der, purpose, "sha256")

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set."""
        return {
            "keys": [
                {**_public_jwk(key.key), "kid": kid, "use": "sig", "alg": ALGORITHM}
                for kid, key in self._public_keys.items()
            ]
        }


def _public_jwk(key: RSAPublicKey) -> dict[str, str]:
    entry = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
    return {name: entry[name] for name in ("e", "kty", "n")}


def _thumbprint(key: RSAPublicKey) -> str:
    """The key's RFC 7638 thumbprint: the same key always has the same id, on every instance."""
    canonical = json.dumps(_public_jwk(key), sort_keys=True, separators=(",", ":"))
    return jwt.utils.base64url_encode(hashlib.sha256(canonical.encode()).digest()).decode()
