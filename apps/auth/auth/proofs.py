"""Proofs by mail: that an address is its account's, and that who forgot the password may set another.

Whoever asks for such a mail gets the same answer at once, whether the account exists or not: it is looked for
behind the request, where the mail is sent from. The link holds the token behind a '#', so that no server's log
gets to see it; the page there sends it to `verify` or `reset`.
"""

import logging
from hashlib import sha256
from typing import Literal
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter

from auth import accounts, audit, mail_tokens, sessions
from auth.client import Client
from auth.mail import Mail, Outbox
from auth.mail_tokens import Purpose
from auth.passwords import PasswordHasher
from auth.throttle import Failures, Rule
from servicekit.database import Database, Session
from servicekit.logging import event
from servicekit.tokens import remember_user


class ProofRefused(Exception):
    """The token was never sent, or is not good any more."""


class MailLimits:
    """Says who has asked for enough mails: for one account (whether it exists or not), or from one address."""

    def __init__(self, failures: Failures, account: int, address: int) -> None:
        self._failures = failures
        self._account = Rule(account, 3600, 3600, 3600)
        self._address = Rule(address, 3600, 3600, 3600)

    def allow(self, purpose: Purpose, email: str, client: Client) -> bool:
        keys = {f"mail:{purpose}:{sha256(email.encode()).hexdigest()}": self._account}
        if client.network:  # without one all clients would share a limit
            keys[f"mail:{client.network}"] = self._address
        if any(map(self._failures.locked, keys)):
            return False
        for key, rule in keys.items():
            self._failures.add(key, rule)
        return True


# purpose → what is recorded and logged when a mail is asked for, when its token is taken, when it is refused
EVENTS: dict[Purpose, tuple[str, str, str]] = {
    "verification": ("email_verification_requested", "email_verified", "email_verification_failed"),
    "reset": ("password_reset_requested", "password_reset", "password_reset_failed"),
}


class Proofs:
    """Sends tokens by mail, and takes them back.

    link_base: what links begin with. lifetimes: seconds that each purpose's tokens are good.
    """

    def __init__(
        self,
        database: Database,
        hasher: PasswordHasher,
        outbox: Outbox,
        limits: MailLimits,
        link_base: str,
        lifetimes: dict[Purpose, int],
        registry: CollectorRegistry,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._outbox = outbox
        self._limits = limits
        self._link_base = link_base.rstrip("/")
        self._lifetimes = lifetimes
        self._taken = Counter(
            "auth_mail_tokens",
            "Tokens that came back, by what became of them",
            ("purpose", "outcome"),
            registry=registry,
        )
        for purpose in EVENTS:
            for outcome in ("succeeded", "refused"):
                self._taken.labels(purpose, outcome)

    def ask(self, purpose: Purpose, email: str, client: Client) -> None:
        """Send the account of this address a token, if there is one and it has use for it. Never waits."""
        if self._limits.allow(purpose, email, client):
            self._outbox.put(purpose, lambda: self._prepare(purpose, email, client))
        else:
            self._outbox.limited(purpose)

    def verify(self, token: str, client: Client) -> None:
        """Remember that the token's account has its address. Raises `ProofRefused`."""
        with self._database.transaction() as session:
            account_id, reason = self._use(session, token, "verification", client)
            if account_id and not reason:
                accounts.verify(session, account_id)
        self._tell("verification", account_id, reason)

    def reset(self, token: str, password: str, client: Client) -> None:
        """Set the password of the token's account, and end all its sessions. Raises `ProofRefused`, `HashingBusy`."""
        with self._hasher.admitted():
            with self._database.primary() as session:
                found = mail_tokens.find(session, token, "reset")
            good = found is not None and not found.refused
            password_hash = self._hasher.hash(password) if good else None  # before a connection is taken: it is slow
            with self._database.transaction() as session:
                account_id, reason = self._use(session, token, "reset", client)
                if account_id and not reason and password_hash:
                    accounts.set_hash(session, account_id, password_hash)
                    accounts.verify(session, account_id)  # only who reads its mail has the token
                    mail_tokens.void(session, account_id, "reset")
                    sessions.revoke_all(session, account_id)
        self._tell("reset", account_id, reason)

    def _use(
        self, session: Session, token: str, purpose: Purpose, client: Client
    ) -> tuple[UUID | None, Literal["used", "expired"] | None]:
        """Use a token up and record what became of it: whose it is (None: nobody's), and why it is refused."""
        used = mail_tokens.use(session, token, purpose)
        found = mail_tokens.find(session, token, purpose)
        if found is None:
            return None, None
        reason = None if used else found.refused or "expired"
        _, taken, refused = EVENTS[purpose]
        audit.record(session, refused if reason else taken, client, found.account_id, reason=reason)
        return found.account_id, reason

    def _tell(self, purpose: Purpose, account_id: UUID | None, reason: str | None) -> None:
        _, taken, refused = EVENTS[purpose]
        if account_id:
            remember_user(account_id)
        if account_id and not reason:
            self._taken.labels(purpose, "succeeded").inc()
            event(taken, "A token that was sent by mail was taken")
            return
        self._taken.labels(purpose, "refused").inc()
        event(refused, "A token that is sent by mail was refused", logging.WARNING, reason=reason or "unknown_token")
        raise ProofRefused

    def _prepare(self, purpose: Purpose, email: str, client: Client) -> Mail | None:
        """Make a token for the account of this address; its mail, or None if there is no such account, or no need."""
        token = None
        with self._database.transaction() as session:
            account = accounts.find(session, email)
            if account is None:
                reason = "unknown_account"
            elif purpose == "verification" and account.verified:
                reason = "verified_before"
            else:
                reason = None
                token = mail_tokens.make(session, account.id, purpose, self._lifetimes[purpose])
            requested = EVENTS[purpose][0]
            audit.record(session, requested, client, account.id if account else None, reason=reason)
        event(requested, "A mail was asked for", reason=reason, user_id=str(account.id) if account else None)
        return self._mail(purpose, email, token) if token else None

    def _mail(self, purpose: Purpose, email: str, token: str) -> Mail:
        minutes = self._lifetimes[purpose] // 60
        within = f"{minutes // 60} hours" if minutes >= 120 else f"{minutes} minutes"
        if purpose == "verification":
            return Mail(
                email,
                "Confirm your e-mail address",
                f"An account was opened with this e-mail address. If it is yours, confirm that within {within}:\n\n"
                f"{self._link_base}/verify-email#{token}\n\n"
                "If you know of no such account, do nothing.\n",
            )
        return Mail(
            email,
            "Set a new password",
            f"Somebody asked to set a new password for your account. If it was you, do so within {within}:\n\n"
            f"{self._link_base}/password-reset#{token}\n\n"
            "If it was not, do nothing: your password stays as it is.\n",
        )
