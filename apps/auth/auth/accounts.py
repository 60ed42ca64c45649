"""Accounts: the table auth.accounts."""

from dataclasses import dataclass
from uuid import UUID

from psycopg2.errors import UniqueViolation

from servicekit.database import Session


class EmailTaken(Exception):
    """Another account has this e-mail address."""


@dataclass(frozen=True)
class Account:
    """One who can log in."""

    id: UUID
    email: str
    password_hash: str


def create(session: Session, email: str, password_hash: str) -> UUID:
    """Store a new account; its id. Raises `EmailTaken`."""
    try:
        row = session.returning(
            """
            INSERT INTO auth.accounts (email, password_hash)
            VALUES (%(email)s, %(password_hash)s)
            RETURNING id
            """,
            {"email": email, "password_hash": password_hash},
        )
    except UniqueViolation:
        raise EmailTaken from None
    return UUID(row[0])


def find(session: Session, email: str) -> Account | None:
    row = session.one(
        """
        SELECT id, email, password_hash
        FROM auth.accounts
        WHERE email = %(email)s
        """,
        {"email": email},
    )
    return Account(UUID(row[0]), row[1], row[2]) if row else None
