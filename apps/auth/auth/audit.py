"""Audit events: the table auth.audit_events, which can be added to and read, and nothing else.

What is decided about an account is recorded in the transaction that decides it. No passwords, tokens or
e-mail addresses; of the client its address and the beginning of its user agent. A token that no account is
known for leaves a log line and a count only: anyone can send any number of those.
"""

from uuid import UUID

from auth.client import Client
from servicekit.database import Session
from servicekit.tracing import request_id


def record(
    session: Session,
    event: str,
    client: Client,
    account_id: UUID | None = None,
    session_id: UUID | None = None,
    reason: str | None = None,
) -> None:
    """Add an event; it is named as its log line is, and shares the request id with it."""
    session.execute(
        """
        INSERT INTO auth.audit_events (event, reason, account_id, session_id, request_id, address, user_agent)
        VALUES (%(event)s, %(reason)s, %(account_id)s, %(session_id)s, %(request_id)s, %(address)s, %(user_agent)s)
        """,
        {
            "event": event,
            "reason": reason,
            "account_id": str(account_id) if account_id else None,
            "session_id": str(session_id) if session_id else None,
            "request_id": request_id(),
            "address": client.address,
            "user_agent": client.user_agent,
        },
    )
