"""auth's routes: parse, call, answer."""

import logging
from dataclasses import dataclass, field
from uuid import UUID

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, Counter

from auth import audit, client, sessions
from auth.logins import Logins
from auth.mail_tokens import Purpose
from auth.models import (
    Account,
    Jwks,
    Login,
    MailRequest,
    PasswordChange,
    PasswordReset,
    RefreshToken,
    Registration,
    Sessions,
    ShownSession,
    TokenClaims,
    Tokens,
    Verification,
)
from auth.proofs import Proofs
from auth.sessions import Granted, Owner, RefreshRefused, SessionEnded, TokenReused
from auth.tokens import TokenSigner
from servicekit.database import Database
from servicekit.logging import event
from servicekit.openapi import operation
from servicekit.requests import read_json
from servicekit.tokens import TokenVerifier, authenticate, remember_user

BY_MAIL = {403: "The token was never sent, has expired, or was used before.", 404: "This platform sends no mail."}
NOT_VERIFIED = "Nobody has confirmed the address yet, and this platform asks for that."

JWKS_MAX_AGE = 300  # seconds others may keep the keys


class NoSuchSession(Exception):
    """The account has no session of this id that goes on."""


class NoMail(Exception):
    """This platform sends no mails, so none can be asked for."""


@dataclass
class Auth:
    """What the routes work with."""

    database: Database
    logins: Logins
    signer: TokenSigner
    verifier: TokenVerifier
    registry: CollectorRegistry
    proofs: Proofs | None  # None where no mail is sent
    refreshes: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.refreshes = Counter(
            "auth_token_refreshes", "Refresh tokens by what became of them", ("outcome",), registry=self.registry
        )
        for outcome in ("succeeded", "refused", "reused"):
            self.refreshes.labels(outcome)

    def owner(self) -> Owner:
        """Whose access token the current request carries. Raises `Problem` 401, `SessionEnded`."""
        claims = authenticate(self.verifier)
        try:
            return Owner(claims.subject, UUID(claims.values.get("sid")))
        except (AttributeError, TypeError, ValueError):
            raise SessionEnded from None

    def by_mail(self) -> Proofs:
        """Raises `NoMail`."""
        if self.proofs is None:
            raise NoMail
        return self.proofs

    def grant(self, granted: Granted) -> Response:
        """The answer that carries tokens."""
        answer = Tokens(
            access_token=self.signer.sign(granted.account_id, granted.email, granted.session_id),
            token_type="Bearer",  # noqa: S106  not a password
            expires_in=self.signer.lifetime,
            refresh_token=granted.refresh_token,
        ).response()
        answer.headers["Cache-Control"] = "no-store"
        return answer


def blueprint(auth: Auth) -> Blueprint:
    """The routes, over what they work with."""
    routes = Blueprint("auth", __name__)

    @routes.post("/register")
    @operation(body=Registration, answer=Account, status=201, others={409: "An account with this e-mail exists."})
    def register() -> Response:
        """Register an account."""
        body = read_json(Registration)
        account_id = auth.logins.register(body.email, body.password, client.current())
        if auth.proofs:
            auth.proofs.ask("verification", body.email, client.current())
        return Account(id=account_id, email=body.email).response(201)

    @routes.post("/login")
    @operation(body=Login, answer=Tokens, others={401: "The e-mail or the password is wrong.", 403: NOT_VERIFIED})
    def login() -> Response:
        """Log in: begin a session.

        Who fails too often is refused for a while, with the right password, too, and not told apart.
        """
        body = read_json(Login)
        return auth.grant(auth.logins.log_in(body.email, body.password, client.current()))

    @routes.post("/refresh")
    @operation(body=RefreshToken, answer=Tokens, others={401: "The refresh token is not valid."})
    def refresh() -> Response:
        """Exchange a refresh token for the next tokens.

        It works once: one that comes back was stolen, or lost on the way, so its session ends.
        """
        body = read_json(RefreshToken)
        try:
            granted = sessions.refresh(auth.database, body.refresh_token, client.current())
        except TokenReused as error:
            remember_user(error.account_id)
            auth.refreshes.labels("reused").inc()
            event("token_reuse", "A used refresh token came back; its session was ended", logging.WARNING)
            raise
        except RefreshRefused:
            auth.refreshes.labels("refused").inc()
            event("refresh_refused", "A refresh token was not valid", logging.WARNING)
            raise
        remember_user(granted.account_id)
        auth.refreshes.labels("succeeded").inc()
        return auth.grant(granted)

    @routes.post("/logout")
    @operation(body=RefreshToken)
    def logout() -> tuple[str, int]:
        """End the session of a refresh token, if there is one."""
        body = read_json(RefreshToken)
        with auth.database.transaction() as session:
            owner = sessions.end(session, body.refresh_token)
            if owner:
                audit.record(session, "logged_out", client.current(), owner.account_id, owner.session_id)
        if owner:
            remember_user(owner.account_id)
            event("logged_out", "A session was ended by its refresh token")
        return "", 204

    @routes.get("/sessions")
    @operation(answer=Sessions, secured=True)
    def list_sessions() -> Response:
        """List the caller's sessions that go on."""
        owner = auth.owner()
        with auth.database.primary() as session:  # not a replica: an ended session must not be seen to go on
            sessions.require(session, owner)
            listed = sessions.of_account(session, owner.account_id)
        answer = Sessions(
            sessions=[ShownSession(**vars(one), current=one.id == owner.session_id) for one in listed]
        ).response()
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @routes.delete("/sessions/<uuid:session_id>")
    @operation(secured=True, others={404: "You have no such session."})
    def revoke_session(session_id: UUID) -> tuple[str, int]:
        """End one of the caller's sessions."""
        owner = auth.owner()
        with auth.database.transaction() as session:
            sessions.require(session, owner)
            if not sessions.revoke(session, owner.account_id, session_id):
                raise NoSuchSession
            audit.record(session, "session_revoked", client.current(), owner.account_id, session_id)
        event("session_revoked", "A session was ended by its owner")
        return "", 204

    @routes.post("/password")
    @operation(body=PasswordChange, secured=True, others={403: "The current password is wrong."})
    def change_password() -> tuple[str, int]:
        """Change the caller's password, and end their other sessions."""
        owner = auth.owner()
        body = read_json(PasswordChange)
        auth.logins.change_password(owner, body.current, body.new, client.current())
        return "", 204

    def ask(purpose: Purpose) -> tuple[str, int]:
        proofs = auth.by_mail()
        body = read_json(MailRequest)
        proofs.ask(purpose, body.email, client.current())
        return "", 202

    @routes.post("/verify-email/request")
    @operation(body=MailRequest, status=202, others={404: "This platform sends no mail."})
    def request_verification() -> tuple[str, int]:
        """Send a mail that confirms an address, if there is an account that needs it.

        The answer never tells.
        """
        return ask("verification")

    @routes.post("/verify-email")
    @operation(body=Verification, others=BY_MAIL)
    def verify_email() -> tuple[str, int]:
        """Confirm an address with the token that was sent to it."""
        proofs = auth.by_mail()
        body = read_json(Verification)
        proofs.verify(body.token, client.current())
        return "", 204

    @routes.post("/password-reset/request")
    @operation(body=MailRequest, status=202, others={404: "This platform sends no mail."})
    def request_reset() -> tuple[str, int]:
        """Send a mail that resets a password, if there is such an account.

        The answer never tells.
        """
        return ask("reset")

    @routes.post("/password-reset")
    @operation(body=PasswordReset, others=BY_MAIL)
    def reset_password() -> tuple[str, int]:
        """Set a forgotten password anew with the token that was sent by mail, and end all of the account's sessions."""
        proofs = auth.by_mail()
        body = read_json(PasswordReset)
        proofs.reset(body.token, body.password, client.current())
        return "", 204

    @routes.get("/validate")
    @operation(answer=TokenClaims, secured=True)
    def validate() -> Response:
        """Say what the access token says, if it is good."""
        claims = authenticate(auth.verifier)
        answer = TokenClaims.model_validate(dict(claims.values)).response()
        answer.headers["X-User-Id"] = str(claims.subject)  # for an edge that asks on behalf of a service
        return answer

    @routes.get("/.well-known/jwks.json")
    @operation(answer=Jwks)
    def jwks() -> Response:
        """Publish the keys that access tokens are signed with."""
        answer = Jwks.model_validate(auth.signer.jwks()).response()
        answer.headers["Cache-Control"] = f"public, max-age={JWKS_MAX_AGE}"
        return answer

    return routes
