"""Items: the table api.items. Every statement names the owner, so nobody reaches another's."""

import base64
import binascii
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from api.cache import Kind
from servicekit.database import Row, Session

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class BadCursor(Exception):
    """The cursor was not made by `cursor_after`."""


@dataclass(frozen=True)
class Item:
    """A note that a user keeps."""

    id: UUID
    title: str
    body: str
    created_at: datetime
    updated_at: datetime  # another one after every change: it is the item's version


KEPT = Kind("item", Item, lambda item: microseconds(item.updated_at))


def kept_as(owner: UUID, item_id: UUID) -> str:
    """The item's key in the cache; the owner is part of it, so nobody reaches another's there either."""
    return f"{owner}:{item_id}"


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


def newest(session: Session, owner: UUID, limit: int, after: str | None, part_of_title: str | None) -> list[Item]:
    """The owner's items, newest first, from behind the cursor, with that part in the title. Raises `BadCursor`.

    The search goes through the owner's items alone, so it has no index of its own.
    """
    created_at, item_id = _position(after) if after else (None, None)
    rows = session.all(
        """
        SELECT id, title, body, created_at, updated_at
        FROM api.items
        WHERE owner_id = %(owner)s
            AND (%(created_at)s IS NULL OR (created_at, id) < (%(created_at)s, %(id)s))
            AND (%(part)s IS NULL OR strpos(lower(title), lower(%(part)s)) > 0)
        ORDER BY created_at DESC, id DESC
        LIMIT %(limit)s
        """,
        {
            "owner": str(owner),
            "limit": limit,
            "created_at": created_at,
            "id": str(item_id) if item_id else None,
            "part": part_of_title,
        },
    )
    return [_item(row) for row in rows]


def change(
    session: Session, owner: UUID, item_id: UUID, title: str | None, body: str | None, versions: list[datetime] | None
) -> Item | None:
    """Change what is not None; the item as it is now, or None if there is none (of one of the versions, if given)."""
    row = session.one(
        """
        UPDATE api.items
        SET title = coalesce(%(title)s, title),
            body = coalesce(%(body)s, body),
            -- Always another one, even if the clock was set back.
            updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
        WHERE id = %(id)s
            AND owner_id = %(owner)s
            AND (%(versions)s::timestamptz[] IS NULL OR updated_at = ANY (%(versions)s::timestamptz[]))
        RETURNING id, title, body, created_at, updated_at
        """,
        {"id": str(item_id), "owner": str(owner), "title": title, "body": body, "versions": versions},
    )
    return _item(row) if row else None


def delete(session: Session, owner: UUID, item_id: UUID, versions: list[datetime] | None) -> bool:
    """Whether there was such an item (of one of the versions, if given)."""
    return bool(
        session.execute(
            """
            DELETE FROM api.items
            WHERE id = %(id)s
                AND owner_id = %(owner)s
                AND (%(versions)s::timestamptz[] IS NULL OR updated_at = ANY (%(versions)s::timestamptz[]))
            """,
            {"id": str(item_id), "owner": str(owner), "versions": versions},
        )
    )


def tag_of(updated_at: datetime) -> str:
    """A version as the text inside an entity tag.

    The tag is strong: an item's answer says nothing that is not in its row, and each change of the row gives it
    another `updated_at`. If-Match needs a strong one.
    """
    return f"{microseconds(updated_at):x}"


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - EPOCH) // MICROSECOND


def versions_of(tags: Iterable[str]) -> list[datetime]:
    """The versions that these tags stand for; a text that `tag_of` never made stands for none."""
    versions = []
    for tag in tags:
        with suppress(ValueError, OverflowError):
            version = EPOCH + int(tag, 16) * MICROSECOND
            if tag_of(version) == tag:  # not another way to write the number
                versions.append(version)
    return versions


def cursor_after(item: Item) -> str:
    """An opaque text for the place behind this item in the list."""
    return base64.urlsafe_b64encode(f"{item.created_at.isoformat()} {item.id}".encode()).decode()


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, item_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        moment, item = datetime.fromisoformat(created_at), UUID(item_id)
        if moment.tzinfo is None:
            raise BadCursor
        return moment.astimezone(UTC), item  # PostgreSQL takes fewer offsets than Python
    except (ValueError, OverflowError, binascii.Error):
        raise BadCursor from None


def _item(row: Row) -> Item:
    return Item(UUID(row[0]), row[1], row[2], row[3], row[4])
