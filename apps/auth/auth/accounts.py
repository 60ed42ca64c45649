"""Accounts: the table auth.accounts."""

from dataclasses import dataclass
from uuid import UUID

from servicekit.database import Session


class EmailTaken(Exception):
    """Another account has this e-mail address."""


@dataclass(frozen=True)
class Account:
    """One who can log in."""

    id: UUID
    email: str
    password_hash: str
    verified: bool  # whether somebody who reads its mail has said so


def create(session: Session, email: str, password_hash: str) -> UUID:
    """Store a new account; its id. Raises `EmailTaken`."""
    # Not an error in PostgreSQL's eyes, which it would log with the whole statement: the address, and the hash.
    row = session.one(
        """
        INSERT INTO auth.accounts (email, password_hash)
        VALUES (%(email)s, %(password_hash)s)
        ON CONFLICT DO NOTHING
        RETURNING id
        """,
        {"email": email, "password_hash": password_hash},
    )
    if row is None:
        raise EmailTaken
    return UUID(row[0])


def find(session: Session, email: str) -> Account | None:
    row = session.one(
        """
        SELECT id, email, password_hash, email_verified_at IS NOT NULL
        FROM auth.accounts
        WHERE email = %(email)s
        """,
        {"email": email},
    )
    return Account(UUID(row[0]), *row[1:]) if row else None


def get(session: Session, account_id: UUID) -> Account | None:
    row = session.one(
        """
        SELECT id, email, password_hash, email_verified_at IS NOT NULL
        FROM auth.accounts
        WHERE id = %(account_id)s
        """,
        {"account_id": str(account_id)},
    )
    return Account(UUID(row[0]), *row[1:]) if row else None


def replace_hash(session: Session, account: Account, password_hash: str) -> bool:
    """Store a new hash; False if it is no longer the one that `account` was read with."""
    return bool(
        session.execute(
            """
            UPDATE auth.accounts
            SET password_hash = %(password_hash)s
            WHERE id = %(id)s AND password_hash = %(old)s
            """,
            {"id": str(account.id), "old": account.password_hash, "password_hash": password_hash},
        )
    )


def verify(session: Session, account_id: UUID) -> None:
    """Remember that the account's mail is read by its owner, and since when."""
    session.execute(
        """
        UPDATE auth.accounts
        SET email_verified_at = now()
        WHERE id = %(id)s AND email_verified_at IS NULL
        """,
        {"id": str(account_id)},
    )


def set_hash(session: Session, account_id: UUID, password_hash: str) -> None:
    """Store a new hash, whatever the former one was."""
    session.execute(
        """
        UPDATE auth.accounts
        SET password_hash = %(password_hash)s
        WHERE id = %(id)s
        """,
        {"id": str(account_id), "password_hash": password_hash},
    )
