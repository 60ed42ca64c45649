"""auth's routes: parse, call, answer."""

import logging
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify
from prometheus_client import CollectorRegistry, Counter

from auth import accounts, client, sessions
from auth.models import Login, PasswordChange, RefreshToken, Registration
from auth.passwords import PasswordHasher
from auth.sessions import Granted, SessionEnded, TokenReused
from auth.tokens import TokenSigner
from servicekit.database import Database
from servicekit.logging import event
from servicekit.requests import read_json
from servicekit.tokens import TokenVerifier, authenticate, remember_user

JWKS_MAX_AGE = 300  # seconds others may keep the keys


class BadCredentials(Exception):
    """No account has this e-mail with this password; the answer never says which of them is wrong."""


class WrongPassword(Exception):
    """The current password, asked for again before it is changed, is wrong."""


class NoSuchSession(Exception):
    """The account has no session of this id that goes on."""


@dataclass(frozen=True)
class Owner:
    """Who asks about their own account, and the session they are logged in with."""

    account_id: UUID
    session_id: UUID


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

    def owner(self) -> Owner:
        """Whose access token the current request carries. Raises `Problem` 401, `SessionEnded`."""
        claims = authenticate(self.verifier)
        try:
            return Owner(claims.subject, UUID(claims.values.get("sid")))
        except (TypeError, ValueError):
            raise SessionEnded from None

    def grant(self, granted: Granted) -> Response:
        """The answer that carries tokens."""
        answer = jsonify(
            access_token=self.signer.sign(granted.account_id, granted.email, granted.session_id),
            token_type="Bearer",  # noqa: S106  not a password
            expires_in=self.signer.lifetime,
            refresh_token=granted.refresh_token,
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
            upgraded = auth.hasher.upgraded(body.password, account.password_hash) if account and matches else None
        if account is None or not matches:
            auth.logins.labels("failed").inc()
            event("login_failed", "A login failed", logging.WARNING, known_account=account is not None)
            raise BadCredentials
        with auth.database.transaction() as session:
            if upgraded:
                accounts.replace_hash(session, account, upgraded)
            granted = sessions.begin(session, account.id, account.email, auth.session_lifetime, client.current())
        auth.logins.labels("succeeded").inc()
        event("login_succeeded", "A login succeeded")
        return auth.grant(granted)

    @routes.post("/refresh")
    def refresh() -> Response:
        body = read_json(RefreshToken)
        try:
            granted = sessions.refresh(auth.database, body.refresh_token, client.current())
        except TokenReused as error:
            remember_user(error.account_id)
            event("token_reuse", "A used refresh token came back; its session was ended", logging.WARNING)
            raise
        remember_user(granted.account_id)
        return auth.grant(granted)

    @routes.post("/logout")
    def logout() -> tuple[str, int]:
        body = read_json(RefreshToken)
        with auth.database.primary() as session:
            account_id = sessions.end(session, body.refresh_token)
        if account_id:
            remember_user(account_id)
            event("logged_out", "A session was ended by its refresh token")
        return "", 204

    @routes.get("/sessions")
    def list_sessions() -> Response:
        owner = auth.owner()
        with auth.database.primary() as session:  # not a replica: an ended session must not be seen to go on
            sessions.require(session, owner.account_id, owner.session_id)
            listed = sessions.of_account(session, owner.account_id)
        answer = jsonify(
            sessions=[
                {
                    "id": str(one.id),
                    "created_at": one.created_at.isoformat(),
                    "last_used_at": one.last_used_at.isoformat(),
                    "address": one.address,
                    "user_agent": one.user_agent,
                    "current": one.id == owner.session_id,
                }
                for one in listed
            ]
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @routes.delete("/sessions/<uuid:session_id>")
    def revoke_session(session_id: UUID) -> tuple[str, int]:
        owner = auth.owner()
        with auth.database.primary() as session:
            sessions.require(session, owner.account_id, owner.session_id)
            revoked = sessions.revoke(session, owner.account_id, session_id)
        if not revoked:
            raise NoSuchSession
        event("session_revoked", "A session was ended by its owner")
        return "", 204

    @routes.post("/password")
    def change_password() -> tuple[str, int]:
        owner = auth.owner()
        body = read_json(PasswordChange)
        with auth.hasher.admitted():
            with auth.database.primary() as session:
                sessions.require(session, owner.account_id, owner.session_id)
                account = accounts.get(session, owner.account_id)
            if account is None or not auth.hasher.verify(body.current, account.password_hash):
                event("password_change_failed", "The current password was wrong", logging.WARNING)
                raise WrongPassword
            password_hash = auth.hasher.hash(body.new)
            with auth.database.transaction() as session:
                if not accounts.replace_hash(session, account, password_hash):
                    raise WrongPassword  # another change came first
                revoked = sessions.revoke_others(session, account.id, kept=owner.session_id)
        event("password_changed", "A password was changed; the other sessions were ended", sessions=revoked)
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
