"""Values that the documents name but no schema can define; schemathesis loads this."""

import base64
import re
from typing import Any
from uuid import UUID, uuid4

import schemathesis
from hypothesis import strategies
from schemathesis.openapi import format as register

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

register(
    "email",
    strategies.builds(
        "{}@{}.example".format,
        strategies.text(f"{_LETTERS}._+-", min_size=1, max_size=40),
        strategies.text(_LETTERS, min_size=1, max_size=20),
    ),
)
register("password", strategies.text(strategies.characters(min_codepoint=32, max_codepoint=126), min_size=1))
register(
    "cursor",
    strategies.builds(
        lambda moment, item: base64.urlsafe_b64encode(f"{moment.isoformat()}+00:00 {item}".encode()).decode(),
        strategies.datetimes(),
        strategies.builds(UUID, int=strategies.integers(0, 2**128 - 1)),
    ),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give each request a key of its own: the same one for another request is refused, and rightly."""
    if re.fullmatch("[!-~]{1,200}", (case.headers or {}).get("Idempotency-Key", "")):
        case.headers["Idempotency-Key"] = uuid4().hex
