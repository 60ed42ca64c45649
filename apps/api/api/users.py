"""Users: the table api.users. A row is made from a token's claims when its owner first writes or asks for it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from api.cache import Kind
from api.items import microseconds
from servicekit.database import Row, Session


@dataclass(frozen=True)
class User:
    """One who has used the API."""

    id: UUID
    email: str
    display_name: str
    created_at: datetime
    updated_at: datetime  # another, later one after every change: it is the row's version


KEPT = Kind("user", User, lambda user: microseconds(user.updated_at))


def find(session: Session, user_id: UUID) -> User | None:
    row = session.one(
        """
        SELECT id, email, display_name, created_at, updated_at
        FROM api.users
        WHERE id = %(id)s
        """,
        {"id": str(user_id)},
    )
    return _user(row) if row else None


def ensure(session: Session, user_id: UUID, email: str) -> User:
    """The user's row, made if there is none yet."""
    return _user(
        session.returning(
            """
            INSERT INTO api.users AS known (id, email, display_name)
            VALUES (%(id)s, %(email)s, split_part(%(email)s, '@', 1))
            ON CONFLICT (id) DO UPDATE
            SET email = excluded.email,
                updated_at = greatest(clock_timestamp(), known.updated_at + interval '1 microsecond')
            RETURNING id, email, display_name, created_at, updated_at
            """,
            {"id": str(user_id), "email": email},
        )
    )


def rename(session: Session, user_id: UUID, email: str, display_name: str) -> User:
    """Give the user, made if there is none yet, another name to show."""
    return _user(
        session.returning(
            """
            INSERT INTO api.users AS known (id, email, display_name)
            VALUES (%(id)s, %(email)s, %(display_name)s)
            ON CONFLICT (id) DO UPDATE
            SET display_name = excluded.display_name,
                updated_at = greatest(clock_timestamp(), known.updated_at + interval '1 microsecond')
            RETURNING id, email, display_name, created_at, updated_at
            """,
            {"id": str(user_id), "email": email, "display_name": display_name},
        )
    )


def _user(row: Row) -> User:
    return User(UUID(row[0]), row[1], row[2], row[3], row[4])
