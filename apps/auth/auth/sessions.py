"""Sessions: the tables auth.sessions and auth.refresh_tokens.

A login begins a session. Its refresh token works once and is replaced at each use; one that comes back a second
time was stolen from somebody (or lost on the way), so its whole session ends. Only digests are stored.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from auth import audit
from auth.client import Client
from servicekit.database import Database, Session

MAX_LISTED = 100


class SessionEnded(Exception):
    """The session that an access token was issued in has ended, or the token names none."""


class RefreshRefused(Exception):
    """The refresh token is unknown, expired, or of a session that has ended."""


class TokenReused(RefreshRefused):
    """The refresh token had been used before; its session has been ended now."""

    def __init__(self, account_id: UUID) -> None:
        super().__init__()
        self.account_id = account_id


@dataclass(frozen=True)
class Owner:
    """An account, and the session that it is logged in with."""

    account_id: UUID
    session_id: UUID


@dataclass(frozen=True)
class Granted:
    """A session, its account, and the refresh token to use next."""

    session_id: UUID
    account_id: UUID
    email: str
    refresh_token: str


@dataclass(frozen=True)
class Listed:
    """A session as its owner sees it; address and user agent are those of its last use."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    address: str | None
    user_agent: str | None


def begin(session: Session, account_id: UUID, email: str, lifetime: int, client: Client) -> Granted:
    """Begin a session of `lifetime` seconds."""
    token = _new_token()
    row = session.returning(
        """
        WITH begun AS (
            INSERT INTO auth.sessions (account_id, expires_at, address, user_agent)
            VALUES (%(account_id)s, now() + make_interval(secs => %(lifetime)s), %(address)s, %(user_agent)s)
            RETURNING id
        )
        INSERT INTO auth.refresh_tokens (digest, session_id)
        SELECT %(digest)s, id FROM begun
        RETURNING session_id
        """,
        {
            "account_id": str(account_id),
            "lifetime": lifetime,
            "digest": _digest(token),
            "address": client.address,
            "user_agent": client.user_agent,
        },
    )
    return Granted(UUID(row[0]), account_id, email, token)


def refresh(database: Database, token: str, client: Client) -> Granted:
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
        session_id, account_id, email = UUID(row[0]), UUID(row[1]), row[2]
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
                WITH used AS (
                    UPDATE auth.sessions
                    SET last_used_at = now(), address = %(address)s, user_agent = %(user_agent)s
                    WHERE id = %(session_id)s
                )
                INSERT INTO auth.refresh_tokens (digest, session_id)
                VALUES (%(digest)s, %(session_id)s)
                """,
                {
                    "digest": _digest(following),
                    "session_id": str(session_id),
                    "address": client.address,
                    "user_agent": client.user_agent,
                },
            )
            audit.record(session, "token_refreshed", client, account_id, session_id)
        else:
            reused_by = account_id
            session.execute(
                """
                UPDATE auth.sessions SET revoked_at = now() WHERE id = %(session_id)s
                """,
                {"session_id": str(session_id)},
            )
            audit.record(session, "token_reuse", client, account_id, session_id)
    if reused_by:  # after the commit: the end of the session must last
        raise TokenReused(reused_by)
    return Granted(session_id, account_id, email, following)


def end(session: Session, token: str) -> Owner | None:
    """End the token's session; whose it was, or None (and nothing happens) if there is none."""
    row = session.one(
        """
        UPDATE auth.sessions s
        SET revoked_at = now()
        FROM auth.refresh_tokens t
        WHERE t.session_id = s.id AND t.digest = %(digest)s AND s.revoked_at IS NULL
        RETURNING s.account_id, s.id
        """,
        {"digest": _digest(token)},
    )
    return Owner(UUID(row[0]), UUID(row[1])) if row else None


def require(session: Session, owner: Owner) -> None:
    """Raises `SessionEnded` unless the owner's session goes on."""
    row = session.one(
        """
        SELECT 1
        FROM auth.sessions
        WHERE id = %(session_id)s AND account_id = %(account_id)s AND revoked_at IS NULL AND expires_at > now()
        """,
        {"session_id": str(owner.session_id), "account_id": str(owner.account_id)},
    )
    if row is None:
        raise SessionEnded


def used_from(session: Session, account_id: UUID | None, client: Client) -> bool:
    """Whether a session of the account, ended or not, was last used from the client's network. No account has none."""
    row = session.one(
        """
        SELECT 1
        FROM auth.sessions
        WHERE account_id = %(account_id)s AND address <<= %(network)s::inet
        LIMIT 1
        """,
        {"account_id": str(account_id) if account_id else None, "network": client.network},
    )
    return row is not None


def first_from(session: Session, account_id: UUID, client: Client) -> bool:
    """Whether the account has sessions, ended or not, but none was last used from the client's neighbourhood."""
    row = session.one(
        """
        SELECT NOT bool_or(address <<= %(network)s::inet)
        FROM auth.sessions
        WHERE account_id = %(account_id)s AND address IS NOT NULL
        """,
        {"account_id": str(account_id), "network": client.neighbourhood},
    )
    return bool(row and row[0])


def of_account(session: Session, account_id: UUID) -> list[Listed]:
    """The account's sessions that go on, the last used first; at most MAX_LISTED."""
    rows = session.all(
        """
        SELECT id, created_at, last_used_at, host(address), user_agent
        FROM auth.sessions
        WHERE account_id = %(account_id)s AND revoked_at IS NULL AND expires_at > now()
        ORDER BY last_used_at DESC
        LIMIT %(limit)s
        """,
        {"account_id": str(account_id), "limit": MAX_LISTED},
    )
    return [Listed(UUID(row[0]), *row[1:]) for row in rows]


def revoke(session: Session, account_id: UUID, session_id: UUID) -> bool:
    """End one of the account's sessions; False if it has no such session that goes on."""
    return bool(
        session.execute(
            """
            UPDATE auth.sessions
            SET revoked_at = now()
            WHERE id = %(session_id)s AND account_id = %(account_id)s AND revoked_at IS NULL AND expires_at > now()
            """,
            {"session_id": str(session_id), "account_id": str(account_id)},
        )
    )


def revoke_others(session: Session, owner: Owner) -> int:
    """End all of the account's sessions but the owner's; how many."""
    return session.execute(
        """
        UPDATE auth.sessions
        SET revoked_at = now()
        WHERE account_id = %(account_id)s AND id <> %(kept)s AND revoked_at IS NULL
        """,
        {"account_id": str(owner.account_id), "kept": str(owner.session_id)},
    )


def revoke_all(session: Session, account_id: UUID) -> int:
    """End all of the account's sessions; how many."""
    return session.execute(
        """
        UPDATE auth.sessions
        SET revoked_at = now()
        WHERE account_id = %(account_id)s AND revoked_at IS NULL
        """,
        {"account_id": str(account_id)},
    )


def _new_token() -> str:
    return secrets.token_urlsafe(32)


def _digest(token: str) -> bytes:
    """SHA-256 suffices: the token is 256 random bits, not a password."""
    return hashlib.sha256(token.encode()).digest()
