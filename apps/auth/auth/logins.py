"""What takes a password: registration, login, and the change of a password.

All of it happens inside the hasher's admission, so that waiting for the database takes no further threads either.
"""

import hmac
import logging
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter

from auth import accounts, audit, mail_tokens, sessions
from auth.accounts import Account
from auth.client import Client
from auth.passwords import PasswordHasher
from auth.sessions import Granted, Owner, SessionEnded
from auth.throttle import SCOPES, Lock, Throttle
from servicekit import position
from servicekit.database import Database, Session
from servicekit.logging import event
from servicekit.tokens import remember_user

LOCK_EVENTS = {
    "account": "account_locked",
    "account_at_address": "account_locked",
    "address": "address_locked",
    "overall": "logins_locked",
}


class BadCredentials(Exception):
    """No account has this e-mail with this password; the answer never says which of them is wrong."""


class WrongPassword(Exception):
    """The current password, asked for again before it is changed, is wrong."""


class NotVerified(Exception):
    """The password is right, but nobody has confirmed the account's address yet."""


class Logins:
    """Registers accounts, logs them in, and changes their passwords.

    throttle: may refuse a right password, and then all is as if it had been a wrong one.
    session_lifetime: seconds after which a login ends for good.
    pseudonym_key: what logs call an e-mail address comes from it and from the address.
    requires_verified: refuse those whose address nobody has confirmed.
    """

    def __init__(
        self,
        database: Database,
        hasher: PasswordHasher,
        throttle: Throttle,
        session_lifetime: int,
        pseudonym_key: bytes,
        registry: CollectorRegistry,
        requires_verified: bool = False,
    ) -> None:
        self._requires_verified = requires_verified
        self._database = database
        self._hasher = hasher
        self._throttle = throttle
        self._session_lifetime = session_lifetime
        self._pseudonym_key = pseudonym_key
        self._logins = Counter("auth_logins", "Logins by their outcome", ("outcome",), registry=registry)
        self._changes = Counter(
            "auth_password_changes", "Changes of a password by their outcome", ("outcome",), registry=registry
        )
        self._locks = Counter(
            "auth_lockouts", "Locks begun after too many failures, by what was locked", ("scope",), registry=registry
        )
        self._new_networks = Counter(
            "auth_logins_from_new_networks",
            "Logins from a network that the account, which has logged in before, was never in",
            registry=registry,
        )
        for outcome in ("succeeded", "failed", "locked", "not_verified"):  # from 0 on, so that rates see the first
            self._logins.labels(outcome)
        for outcome in ("succeeded", "failed"):
            self._changes.labels(outcome)
        for scope in SCOPES:
            self._locks.labels(scope)

    def register(self, email: str, password: str, client: Client) -> UUID:
        """The new account's id. Raises `EmailTaken`, `HashingBusy`."""
        with self._hasher.admitted():
            password_hash = self._hasher.hash(password)  # before a connection is taken: it is slow
            with self._database.transaction() as session:
                account_id = accounts.create(session, email, password_hash)
                audit.record(session, "account_registered", client, account_id)
        remember_user(account_id)
        event("account_registered", "An account was registered")
        return account_id

    def log_in(self, email: str, password: str, client: Client) -> Granted:
        """Begin a session. Raises `BadCredentials`, `NotVerified`, `HashingBusy`."""
        with self._hasher.admitted():
            with self._database.primary() as session:  # not a replica: it may not know a fresh account yet
                account = accounts.find(session, email)
                locked, at_home = self._locked(session, email, account, client)
            if account:
                remember_user(account.id)
            matches = self._hasher.verify(password, account.password_hash if account else None)
            if account is None or not matches or locked:
                self._refuse_login(email, account, client, locked, at_home)
                raise BadCredentials
            self._throttle.succeeded(email, client)
            if self._requires_verified and not account.verified:
                self._refuse_unverified(account, client)
                raise NotVerified
            upgraded = self._hasher.upgraded(password, account.password_hash)
            with self._database.transaction() as session:
                if upgraded:
                    accounts.replace_hash(session, account, upgraded)
                new_network = sessions.first_from(session, account.id, client)
                granted = sessions.begin(session, account.id, account.email, self._session_lifetime, client)
                audit.record(session, "login_succeeded", client, account.id, granted.session_id)
        self._logins.labels("succeeded").inc()
        event("login_succeeded", "A login succeeded", client=client.network)
        if new_network:
            self._new_networks.inc()
            event("login_from_new_network", "The account was never in this network before", client=client.network)
        return granted

    def change_password(self, owner: Owner, current: str, new: str, client: Client) -> None:
        """End the account's other sessions with it. Raises `WrongPassword`, `SessionEnded`, `HashingBusy`."""
        with self._hasher.admitted():
            with self._database.primary() as session:
                sessions.require(session, owner)
                account = accounts.get(session, owner.account_id)
            if account is None:
                raise SessionEnded
            locked = self._throttle.locked_at_home(account.email, client)  # a session makes a home of any address
            if not self._hasher.verify(current, account.password_hash) or locked:
                self._refuse_change(account, owner, client)
                raise WrongPassword
            password_hash = self._hasher.hash(new)
            with self._database.transaction() as session:
                changed = accounts.replace_hash(session, account, password_hash)
                if changed:
                    revoked = sessions.revoke_others(session, owner)
                    mail_tokens.void(session, owner.account_id, "reset")
                    audit.record(session, "password_changed", client, owner.account_id, owner.session_id)
            if not changed:  # another change came first
                self._refuse_change(account, owner, client)
                raise WrongPassword
        self._changes.labels("succeeded").inc()
        event("password_changed", "A password was changed; the other sessions were ended", sessions=revoked)

    def _locked(self, session: Session, email: str, account: Account | None, client: Client) -> tuple[bool, bool]:
        """Whether the account is locked for this client, and whether it has logged in from there before.

        The latter is asked only where it matters, but then for an account that does not exist too.
        """
        if not self._throttle.locked(email, client):
            return self._throttle.locked_at_home(email, client), False
        at_home = sessions.used_from(session, account.id if account else None, client)
        return self._throttle.locked_at_home(email, client) if at_home else True, at_home

    def _refuse_login(self, email: str, account: Account | None, client: Client, locked: bool, at_home: bool) -> None:
        account_id = account.id if account else None
        reason = "locked" if locked else "wrong_password" if account else "unknown_account"
        locks = self._throttle.failed(email, client, at_home)
        with self._database.primary() as session:
            audit.record(session, "login_failed", client, account_id, reason=reason)
            self._record_locks(session, locks, client, account_id)
        self._carry_no_position()
        self._logins.labels("locked" if locked else "failed").inc()
        event(
            "login_failed",
            "A login failed",
            logging.WARNING,
            known_account=account is not None,
            reason=reason,
            client=client.network,
            account=self._pseudonym(email),
        )

    def _refuse_unverified(self, account: Account, client: Client) -> None:
        with self._database.primary() as session:
            audit.record(session, "login_failed", client, account.id, reason="not_verified")
        self._logins.labels("not_verified").inc()
        event("login_failed", "A login failed", logging.WARNING, known_account=True, reason="not_verified")

    def _refuse_change(self, account: Account, owner: Owner, client: Client) -> None:
        locks = self._throttle.failed(account.email, client, at_home=True)
        with self._database.primary() as session:
            audit.record(session, "password_change_failed", client, owner.account_id, owner.session_id)
            self._record_locks(session, locks, client, owner.account_id)
        self._carry_no_position()
        self._changes.labels("failed").inc()
        event("password_change_failed", "The current password was wrong", logging.WARNING)

    def _pseudonym(self, email: str) -> str:
        """What stands for the address in logs, so that attempts at one account can be counted, even at none."""
        return hmac.digest(self._pseudonym_key, email.encode(), "sha256").hex()[:16]

    def _carry_no_position(self) -> None:
        """Keep from the client how far the log has come: by how much, it could tell an account from none."""
        position.forget()  # nothing that this client reads depends on it

    def _record_locks(self, session: Session, locks: list[Lock], client: Client, account_id: UUID | None) -> None:
        for lock in locks:
            name = LOCK_EVENTS[lock.scope]
            audit.record(session, name, client, account_id, reason=lock.scope)
            self._locks.labels(lock.scope).inc()
            message = f"Locked for {lock.seconds:g} s after too many failures"
            event(name, message, logging.WARNING, scope=lock.scope, seconds=lock.seconds)
