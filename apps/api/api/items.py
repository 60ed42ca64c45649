"""Items: the table api.items. Every statement names the owner, so nobody reaches another's."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from servicekit.database import Row, Session


class BadCursor(Exception):
    """The cursor was not made by `cursor_after`."""


@dataclass(frozen=True)
class Item:
    """A note that a user keeps."""

    id: UUID
    title: str
    body: str
    created_at: datetime
    updated_at: datetime


def create(session: Session, owner: UUID, email: str, title: str, body: str) -> Item:
    """Store an item, and its owner's row if this is the first contact: one statement, one round trip."""
    return _item(
        session.returning(
            """
            WITH owner AS (
                INSERT INTO api.users (id, email, display_name)
                VALUES (%(owner)s, %(email)s, split_part(%(email)s, '@', 1))
                ON CONFLICT (id) DO NOTHING
            )
            INSERT INTO api.items (owner_id, title, body)
            VALUES (%(owner)s, %(title)s, %(body)s)
            RETURNING id, title, body, created_at, updated_at
            """,
            {"owner": str(owner), "email": email, "title": title, "body": body},
        )
    )


def find(session: Session, owner: UUID, item_id: UUID) -> Item | None:
    row = session.one(
        """
        SELECT id, title, body, created_at, updated_at
        FROM api.items
        WHERE id = %(id)s AND owner_id = %(owner)s
        """,
        {"id": str(item_id), "owner": str(owner)},
    )
    return _item(row) if row else None


def newest(session: Session, owner: UUID, limit: int, after: str | None) -> list[Item]:
    """The owner's items, newest first, from behind the cursor. Raises `BadCursor`."""
    if after is None:
        rows = session.all(
            """
            SELECT id, title, body, created_at, updated_at
            FROM api.items
            WHERE owner_id = %(owner)s
            ORDER BY created_at DESC, id DESC
            LIMIT %(limit)s
            """,
            {"owner": str(owner), "limit": limit},
        )
    else:
        created_at, item_id = _position(after)
        rows = session.all(
            """
            SELECT id, title, body, created_at, updated_at
            FROM api.items
            WHERE owner_id = %(owner)s AND (created_at, id) < (%(created_at)s, %(id)s)
            ORDER BY created_at DESC, id DESC
            LIMIT %(limit)s
            """,
            {"owner": str(owner), "limit": limit, "created_at": created_at, "id": str(item_id)},
        )
    return [_item(row) for row in rows]


def change(session: Session, owner: UUID, item_id: UUID, title: str | None, body: str | None) -> Item | None:
    """Change what is not None; the item as it is now, or None if there is none."""
    row = session.one(
        """
        UPDATE api.items
        SET title = coalesce(%(title)s, title), body = coalesce(%(body)s, body), updated_at = now()
        WHERE id = %(id)s AND owner_id = %(owner)s
        RETURNING id, title, body, created_at, updated_at
        """,
        {"id": str(item_id), "owner": str(owner), "title": title, "body": body},
    )
    return _item(row) if row else None


def delete(session: Session, owner: UUID, item_id: UUID) -> bool:
    """Whether there was such an item."""
    return bool(
        session.execute(
            """
            DELETE FROM api.items
            WHERE id = %(id)s AND owner_id = %(owner)s
            """,
            {"id": str(item_id), "owner": str(owner)},
        )
    )


def cursor_after(item: Item) -> str:
    """An opaque text for the place behind this item in the list."""
    return base64.urlsafe_b64encode(f"{item.created_at.isoformat()} {item.id}".encode()).decode()


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, item_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        position = datetime.fromisoformat(created_at), UUID(item_id)
    except (ValueError, binascii.Error):
        raise BadCursor from None
    if position[0].tzinfo is None:
        raise BadCursor
    return position


def _item(row: Row) -> Item:
    return Item(UUID(row[0]), row[1], row[2], row[3], row[4])
