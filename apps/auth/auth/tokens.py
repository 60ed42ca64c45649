"""Signing: access tokens as RS256 JWTs, and the public key that others verify them with (JWKS)."""

import hashlib
import json
import time
from typing import Any
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from servicekit.tokens import ALGORITHM
from servicekit.tracing import Tracing

MIN_KEY_BITS = 2048


def load_signing_key(pem: str) -> RSAPrivateKey:
    """The RSA private key in a PEM text; raises `ValueError`."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("not an unencrypted private key in PEM form") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < MIN_KEY_BITS:
        raise ValueError(f"needs an RSA key of at least {MIN_KEY_BITS} bits")
    return key


class TokenSigner:
    """Signs access tokens, and knows its own public key."""

    def __init__(self, key: RSAPrivateKey, issuer: str, audience: str, lifetime: int, tracing: Tracing) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._tracing = tracing
        self.lifetime = lifetime
        self.public_key = key.public_key()
        self.kid = _thumbprint(self.public_key)

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

    def get(self, kid: str) -> RSAPublicKey | None:
        """The public key of this id, for a `TokenVerifier`."""
        return self.public_key if kid == self.kid else None

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set."""
        return {"keys": [{**_public_jwk(self.public_key), "kid": self.kid, "use": "sig", "alg": ALGORITHM}]}


def _public_jwk(key: RSAPublicKey) -> dict[str, str]:
    entry = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
    return {name: entry[name] for name in ("e", "kty", "n")}


def _thumbprint(key: RSAPublicKey) -> str:
    """The key's RFC 7638 thumbprint: the same key always has the same id, on every instance."""
    canonical = json.dumps(_public_jwk(key), sort_keys=True, separators=(",", ":"))
    return jwt.utils.base64url_encode(hashlib.sha256(canonical.encode()).digest()).decode()
