"""Tokens that are sent by mail: the table auth.mail_tokens.

Each works once, for one purpose; only digests are stored.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from servicekit.database import Session

Purpose = Literal["verification", "reset"]


@dataclass(frozen=True)
class Found:
    """Whose token it is, and why it is not good any more (None: it is)."""

    account_id: UUID
    refused: Literal["used", "expired"] | None


def make(session: Session, account_id: UUID, purpose: Purpose, lifetime: int) -> str:
    """A new token, good for `lifetime` seconds; those of the account that have expired are forgotten."""
    token = secrets.token_urlsafe(32)
    session.execute(
        """
        WITH expired AS (
            DELETE FROM auth.mail_tokens WHERE account_id = %(account_id)s AND expires_at <= now()
        )
        INSERT INTO auth.mail_tokens (digest, account_id, purpose, expires_at)
        VALUES (%(digest)s, %(account_id)s, %(purpose)s, now() + make_interval(secs => %(lifetime)s))
        """,
        {"digest": _digest(token), "account_id": str(account_id), "purpose": purpose, "lifetime": lifetime},
    )
    return token


def find(session: Session, token: str, purpose: Purpose) -> Found | None:
    row = session.one(
        """
        SELECT account_id, CASE WHEN used_at IS NOT NULL THEN 'used' WHEN expires_at <= now() THEN 'expired' END
        FROM auth.mail_tokens
        WHERE digest = %(digest)s AND purpose = %(purpose)s
        """,
        {"digest": _digest(token), "purpose": purpose},
    )
    return Found(UUID(row[0]), row[1]) if row else None


def use(session: Session, token: str, purpose: Purpose) -> bool:
    """Use the token up; False if it is not good any more. Of two at once, one waits for the other, and is too late."""
    return bool(
        session.execute(
            """
            UPDATE auth.mail_tokens
            SET used_at = now()
            WHERE digest = %(digest)s AND purpose = %(purpose)s AND used_at IS NULL AND expires_at > now()
            """,
            {"digest": _digest(token), "purpose": purpose},
        )
    )


def void(session: Session, account_id: UUID, purpose: Purpose) -> None:
    """Use up all the account's tokens of this purpose."""
    session.execute(
        """
        UPDATE auth.mail_tokens
        SET used_at = now()
        WHERE account_id = %(account_id)s AND purpose = %(purpose)s AND used_at IS NULL
        """,
        {"account_id": str(account_id), "purpose": purpose},
    )


def _digest(token: str) -> bytes:
    """SHA-256 suffices: the token is 256 random bits, not a password."""
    return hashlib.sha256(token.encode()).digest()
