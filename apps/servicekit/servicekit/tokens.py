"""Access tokens: RS256 JWTs, verified locally against keys that are known or fetched (JWKS)."""

import json
import logging
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from flask import g, request
from opentelemetry import trace

from servicekit.logging import event
from servicekit.problems import unauthorized
from servicekit.tracing import Tracing

ALGORITHM = "RS256"
REQUIRED_CLAIMS = ["exp", "iat", "iss", "aud", "sub", "jti", "email"]

REMEMBERED = 10_000  # good tokens, the latest that came: 2.5 kB each, so 25 MB

REFRESH_EVERY = 300.0  # seconds after which keys are asked for again, in the background
REFRESH_PAUSE = 5.0  # seconds at least between two requests for keys, whatever tokens ask for
FETCH_TIMEOUT = 2.0  # seconds


class TokenRefused(Exception):
    """The token is not one of ours, or no longer good; the text says why and is safe to show."""


class KeysUnavailable(Exception):
    """No key has been fetched yet, and auth cannot be reached: nothing can be said about the token."""


class Keys(Protocol):
    """Where public keys come from."""

    def get(self, kid: str) -> jwt.PyJWK | None:
        """The key of this id, the same object for as long as it is the same key; None if there is none."""


@dataclass(frozen=True)
class Claims:
    """What a good token says. Requests with the same token share it."""

    subject: UUID
    email: str
    values: Mapping[str, Any]


class TokenVerifier:
    """Tells good tokens from others: signature, issuer, audience and times.

    The algorithm is never the token's choice. A token that was found good with a key stays good as long as the key is
    known and the token has not expired, so the rest is not judged again. Refusals are not remembered.
    """

    def __init__(self, keys: Keys, issuer: str, audience: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._judged = lru_cache(maxsize=REMEMBERED)(self._judge)

    def verify(self, token: str) -> Claims:
        """Raises `TokenRefused`, `KeysUnavailable`."""
        try:
            key = self._keys.get(_key_id(token.partition(".")[0]))
            if key is None:
                raise TokenRefused("The token was signed with a key that is not known here.")
            claims = self._judged(token, key)
            if claims.values["exp"] <= time.time():
                raise jwt.ExpiredSignatureError
            return claims
        except jwt.ExpiredSignatureError:
            raise TokenRefused("The token has expired.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise TokenRefused("The token is not valid.") from None

    def _judge(self, token: str, key: jwt.PyJWK) -> Claims:
        values = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            issuer=self._issuer,
            audience=self._audience,
            options={"require": REQUIRED_CLAIMS},
        )
        return Claims(UUID(values["sub"]), str(values["email"]), MappingProxyType(values))


@lru_cache(maxsize=64)
def _key_id(header: str) -> str:
    """The id of the key in a token's first part, which is the same in all tokens of a key: reading it takes 37 us.

    Raises what `jwt.get_unverified_header` does, `TokenRefused`.
    """
    kid = jwt.get_unverified_header(f"{header}.e30.").get("kid")
    if not isinstance(kid, str):
        raise TokenRefused("The token was signed with a key that is not known here.")
    return kid


def authenticate(verifier: TokenVerifier) -> Claims:
    """The current request's claims; remembers who asks, for logs and the trace. Raises `Problem` 401."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("Send an access token as 'Authorization: Bearer ...'.")
    try:
        claims = verifier.verify(token.strip())
    except TokenRefused as error:
        raise unauthorized(str(error)) from None
    remember_user(claims.subject)
    return claims


def remember_user(user_id: UUID) -> None:
    """Let the request's log lines and its span say whom it is about."""
    g.user_id = str(user_id)
    trace.get_current_span().set_attribute("user.id", str(user_id))


class JwksCache:
    """The auth service's public keys, fetched over TLS and kept: tokens stay verifiable while auth is away."""

    def __init__(self, url: str, ca: Path | None, tracing: Tracing) -> None:
        self._url = url
        self._tracing = tracing
        self._context = ssl.create_default_context(cafile=str(ca)) if ca else None
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching = threading.Lock()

    def get(self, kid: str) -> jwt.PyJWK | None:
        """Raises `KeysUnavailable` as long as no keys have ever been fetched."""
        key = self._keys.get(kid)
        now = time.monotonic()
        if key is not None:
            if now - self._fetched > REFRESH_EVERY and now - self._tried > REFRESH_PAUSE:
                threading.Thread(target=self._refresh, daemon=True).start()
            return key
        with self._tracing.span("token_keys.fetch"):
            self._refresh()
        if not self._keys:
            raise KeysUnavailable("The keys that tokens are signed with could not be fetched.")
        return self._keys.get(kid)

    def _refresh(self) -> None:
        """Fetch the keys, unless that was tried just now; a failure leaves what is known."""
        with self._fetching:
            if time.monotonic() - self._tried < REFRESH_PAUSE:
                return
            try:
                self._keys = self._fetch()
                self._fetched = time.monotonic()
            except (OSError, ValueError, KeyError, jwt.PyJWTError) as error:
                event("jwks_unavailable", "Could not fetch the token keys", logging.WARNING, detail=str(error))
            finally:
                self._tried = time.monotonic()

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        with urllib.request.urlopen(self._url, timeout=FETCH_TIMEOUT, context=self._context) as answer:  # noqa: S310
            document = json.load(answer)
        keys = {entry["kid"]: jwt.PyJWK(entry, ALGORITHM) for entry in document["keys"]}
        return {kid: key for kid, key in keys.items() if isinstance(key.key, RSAPublicKey)}
