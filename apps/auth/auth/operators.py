"""Operators: accounts that may see the operations pages, which the edge asks about each request there.

Their login is a session like others, but its token is for the operations pages only (another audience), is kept in a
cookie that no script and no other site can use, and counts for nothing once the session ended or the role was taken.
The routes are reached through the operations site alone; the edge has no public route to them.
"""

import logging
from uuid import UUID

from flask import Blueprint, Response, request

from auth import audit, client, sessions
from auth.logins import Logins
from auth.models import Login
from auth.sessions import Owner, SessionEnded
from auth.tokens import TokenSigner
from servicekit.database import Database, Session
from servicekit.logging import event
from servicekit.openapi import internal
from servicekit.problems import Problem, unauthorized
from servicekit.requests import read_json
from servicekit.tokens import TokenRefused, TokenVerifier, remember_user

AUDIENCE = "operations"
COOKIE = "__Host-operations"  # of this host only, which browsers hold such a name to
LIFETIME = 8 * 3600  # seconds: a working day


def is_operator(session: Session, account_id: UUID) -> bool:
    row = session.one("SELECT 1 FROM auth.operators WHERE account_id = %(account_id)s", {"account_id": str(account_id)})
    return row is not None


def blueprint(database: Database, logins: Logins, signer: TokenSigner, verifier: TokenVerifier) -> Blueprint:
    """The routes; `signer` and `verifier` are those of AUDIENCE."""
    routes = Blueprint("operators", __name__, url_prefix="/operators")

    @routes.post("/session")
    @internal
    def log_in() -> Response:
        body = read_json(Login)  # of the type application/json, which no other site's form can send
        granted = logins.log_in(body.email, body.password, client.current())
        with database.transaction() as session:
            permitted = is_operator(session, granted.account_id)
            if not permitted:
                sessions.revoke(session, granted.account_id, granted.session_id)
            name = "operator_logged_in" if permitted else "operator_refused"
            audit.record(session, name, client.current(), granted.account_id, granted.session_id)
        if not permitted:
            event("operator_refused", "Somebody who is no operator logged in to the operations pages", logging.WARNING)
            raise Problem(403, "This account may not see the operations pages.", "no-operator")
        event("operator_logged_in", "An operator logged in")
        token = signer.sign(granted.account_id, granted.email, granted.session_id)
        return _with_cookie(token, LIFETIME)

    @routes.get("/session")
    @internal
    def validate() -> Response:
        owner, email = _owner()
        with database.primary() as session:  # not a replica: who was locked out must not be let in
            sessions.require(session, owner)
            if not is_operator(session, owner.account_id):
                raise unauthorized("This account may no longer see the operations pages.")
        answer = Response(status=204)
        answer.headers["X-Operator"] = email
        return answer

    @routes.delete("/session")
    @internal
    def log_out() -> Response:
        owner, _ = _owner()
        with database.transaction() as session:
            if sessions.revoke(session, owner.account_id, owner.session_id):
                audit.record(session, "logged_out", client.current(), owner.account_id, owner.session_id)
        return _with_cookie("", 0)

    def _owner() -> tuple[Owner, str]:
        try:
            claims = verifier.verify(request.cookies.get(COOKIE, ""))
            owner = Owner(claims.subject, UUID(claims.values["sid"]))
        except TokenRefused as error:
            raise unauthorized(str(error)) from None
        except (KeyError, ValueError):
            raise SessionEnded from None
        remember_user(owner.account_id)
        return owner, claims.email

    return routes


def _with_cookie(token: str, seconds: int) -> Response:
    answer = Response(status=204)
    answer.set_cookie(COOKIE, token, max_age=seconds, path="/", secure=True, httponly=True, samesite="Strict")
    answer.headers["Cache-Control"] = "no-store"
    return answer
