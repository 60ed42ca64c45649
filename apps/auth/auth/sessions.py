"""Sessions: the tables auth.sessions and auth.refresh_tokens.

A login begins a session. Its refresh token works once and is replaced at each use; one that comes back a second
time was stolen from somebody (or lost on the way), so its whole session ends. Only digests are stored.
"""

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from servicekit.database import Database, Session


class RefreshRefused(Exception):
    """The refresh token is unknown, expired, or of a session that has ended."""


class TokenReused(RefreshRefused):
    """The refresh token had been used before; its session has been ended now."""

    def __init__(self, account_id: UUID) -> None:
        super().__init__()
        self.account_id = account_id


@dataclass(frozen=True)
class Refreshed:
    """A session's account, and the refresh token that replaces the one used."""

    account_id: UUID
    email: str
    refresh_token: str


def begin(session: Session, account_id: UUID, lifetime: int) -> str:
    """Begin a session of `lifetime` seconds; its first refresh token."""
    token = _new_token()
    session.execute(
        """
        WITH begun AS (
            INSERT INTO auth.sessions (account_id, expires_at)
            VALUES (%(account_id)s, now() + make_interval(secs => %(lifetime)s))
            RETURNING id
        )
        INSERT INTO auth.refresh_tokens (digest, session_id)
        SELECT %(digest)s, id FROM begun
        """,
        {"account_id": str(account_id), "lifetime": lifetime, "digest": _digest(token)},
    )
    return token


def refresh(database: Database, token: str) -> Refreshed:
    """Exchange a refresh token for the next one. Raises `RefreshRefused`, `TokenReused`."""
    digest = _digest(token)
    reused_by: UUID | None = None
    with database.transaction() as session:
        # The session's lock puts all uses of its tokens in a row, so none can slip past its end.
        row = session.one(
            """
            SELECT s.id, a.id, a.email
            FROM auth.refresh_tokens t
            JOIN auth.sessions s ON s.id = t.session_id
            JOIN auth.accounts a ON a.id = s.account_id
            WHERE t.digest = %(digest)s AND s.revoked_at IS NULL AND s.expires_at > now()
            FOR UPDATE OF s
            """,
            {"digest": digest},
        )
        if row is None:
            raise RefreshRefused
        session_id, account_id, email = row[0], UUID(row[1]), row[2]
        first_use = session.execute(
            """
            UPDATE auth.refresh_tokens
            SET used_at = now()
            WHERE digest = %(digest)s AND used_at IS NULL
            """,
            {"digest": digest},
        )
        if first_use:
            following = _new_token()
            session.execute(
                """
                INSERT INTO auth.refresh_tokens (digest, session_id)
                VALUES (%(digest)s, %(session_id)s)
                """,
                {"digest": _digest(following), "session_id": session_id},
            )
        else:
            reused_by = account_id
            session.execute(
                """
                UPDATE auth.sessions SET revoked_at = now() WHERE id = %(session_id)s
                """,
                {"session_id": session_id},
            )
    if reused_by:  # after the commit: the end of the session must last
        raise TokenReused(reused_by)
    return Refreshed(account_id, email, following)


def end(session: Session, token: str) -> None:
    """End the token's session; nothing happens if there is none."""
    session.execute(
        """
        UPDATE auth.sessions s
        SET revoked_at = now()
        FROM auth.refresh_tokens t
        WHERE t.session_id = s.id AND t.digest = %(digest)s AND s.revoked_at IS NULL
        """,
        {"digest": _digest(token)},
    )


def _new_token() -> str:
    return secrets.token_urlsafe(32)


def _digest(token: str) -> bytes:
    """SHA-256 suffices: the token is 256 random bits, not a password."""
    return hashlib.sha256(token.encode()).digest()
