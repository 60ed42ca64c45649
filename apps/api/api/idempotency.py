"""Idempotency keys: the table api.idempotency_keys. A request sent twice under one key is carried out once.

All of it happens in the request's own transaction. The table's primary key makes a duplicate wait there for the
first to end: it then finds the first one's answer, or its key free if that one failed.
"""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from servicekit.database import Session

LIFETIME = timedelta(hours=24)
BATCH = 10  # expired keys that a request removes: more than it adds, and too few to be noticed

Answer = dict[str, Any]


class KeyReused(Exception):
    """The key was used before, for another request."""


def fingerprint(method: str, path: str, body: str) -> bytes:
    """What tells a repeated request from another one; `body` is the body as it was understood."""
    return hashlib.sha256(f"{method} {path}\n{body}".encode()).digest()


def claim(session: Session, owner: UUID, key: str, request: bytes) -> Answer | None:
    """Take the key for this request; if it was taken before, the answer recorded then. Raises `KeyReused`."""
    taken = session.one(
        """
        INSERT INTO api.idempotency_keys AS known (owner_id, key, fingerprint)
        VALUES (%(owner)s, %(key)s, %(request)s)
        ON CONFLICT (owner_id, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, response = NULL, created_at = excluded.created_at
        WHERE known.created_at < now() - %(lifetime)s
        RETURNING true
        """,
        {"owner": str(owner), "key": key, "request": request, "lifetime": LIFETIME},
    )
    if taken:
        return None
    known, response = session.returning(
        """
        SELECT fingerprint, response
        FROM api.idempotency_keys
        WHERE owner_id = %(owner)s AND key = %(key)s
        """,
        {"owner": str(owner), "key": key},
    )
    if bytes(known) != request:
        raise KeyReused
    answer: Answer = response
    return answer


def record(session: Session, owner: UUID, key: str, answer: Answer) -> None:
    """Keep the answer under the key that was claimed."""
    session.execute(
        """
        UPDATE api.idempotency_keys
        SET response = %(answer)s
        WHERE owner_id = %(owner)s AND key = %(key)s
        """,
        {"owner": str(owner), "key": key, "answer": json.dumps(answer)},
    )


def forget_expired(session: Session) -> None:
    """Remove some keys that have expired, other than those that another request holds."""
    session.execute(
        """
        DELETE FROM api.idempotency_keys
        WHERE (owner_id, key) IN (
            SELECT owner_id, key
            FROM api.idempotency_keys
            WHERE created_at < now() - %(lifetime)s
            ORDER BY created_at
            LIMIT %(batch)s
            FOR UPDATE SKIP LOCKED
        )
        """,
        {"lifetime": LIFETIME, "batch": BATCH},
    )
