"""auth's routes: parse, call, answer."""

import logging
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify
from prometheus_client import CollectorRegistry, Counter

from auth import accounts, sessions
from auth.models import Login, RefreshToken, Registration
from auth.passwords import PasswordHasher
from auth.sessions import TokenReused
from auth.tokens import TokenSigner
from servicekit.database import Database
from servicekit.logging import event
from servicekit.requests import read_json
from servicekit.tokens import TokenVerifier, authenticate, remember_user

JWKS_MAX_AGE = 300  # seconds others may keep the keys


class BadCredentials(Exception):
    """No account has this e-mail with this password; the answer never says which of them is wrong."""


@dataclass
class Auth:
    """What the routes work with."""

    database: Database
    hasher: PasswordHasher
    signer: TokenSigner
    verifier: TokenVerifier
    session_lifetime: int
    registry: CollectorRegistry
    logins: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.logins = Counter("auth_logins", "Logins by their outcome", ("outcome",), registry=self.registry)

    def grant(self, account_id: UUID, email: str, refresh_token: str) -> Response:
        """The answer that carries tokens."""
        answer = jsonify(
            access_token=self.signer.sign(account_id, email),
            token_type="Bearer",  # noqa: S106  not a password
            expires_in=self.signer.lifetime,
            refresh_token=refresh_token,
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer


def blueprint(auth: Auth) -> Blueprint:
    """The routes, over what they work with."""
    routes = Blueprint("auth", __name__)

    @routes.post("/register")
    def register() -> tuple[dict[str, str], int]:
        body = read_json(Registration)
        with auth.hasher.admitted():
            password_hash = auth.hasher.hash(body.password)  # before a connection is taken: it is slow
            with auth.database.primary() as session:
                account_id = accounts.create(session, body.email, password_hash)
        remember_user(account_id)
        event("account_registered", "An account was registered")
        return {"id": str(account_id), "email": body.email}, 201

    @routes.post("/login")
    def login() -> Response:
        body = read_json(Login)
        with auth.hasher.admitted():
            with auth.database.primary() as session:  # not a replica: it may not know a fresh account yet
                account = accounts.find(session, body.email)
            if account:
                remember_user(account.id)
            matches = auth.hasher.verify(body.password, account.password_hash if account else None)
        if account is None or not matches:
            auth.logins.labels("failed").inc()
            event("login_failed", "A login failed", logging.WARNING, known_account=account is not None)
            raise BadCredentials
        with auth.database.primary() as session:
            refresh_token = sessions.begin(session, account.id, auth.session_lifetime)
        auth.logins.labels("succeeded").inc()
        event("login_succeeded", "A login succeeded")
        return auth.grant(account.id, account.email, refresh_token)

    @routes.post("/refresh")
    def refresh() -> Response:
        body = read_json(RefreshToken)
        try:
            refreshed = sessions.refresh(auth.database, body.refresh_token)
        except TokenReused as error:
            remember_user(error.account_id)
            event("token_reuse", "A used refresh token came back; its session was ended", logging.WARNING)
            raise
        remember_user(refreshed.account_id)
        return auth.grant(refreshed.account_id, refreshed.email, refreshed.refresh_token)

    @routes.post("/logout")
    def logout() -> tuple[str, int]:
        body = read_json(RefreshToken)
        with auth.database.primary() as session:
            sessions.end(session, body.refresh_token)
        return "", 204

    @routes.get("/validate")
    def validate() -> dict[str, Any]:
        return authenticate(auth.verifier).values

    @routes.get("/.well-known/jwks.json")
    def jwks() -> Response:
        answer = jsonify(auth.signer.jwks())
        answer.headers["Cache-Control"] = f"public, max-age={JWKS_MAX_AGE}"
        return answer

    return routes
