"""The position: how far the database's log had come with a client's last write, so that its reads can be as new.

It travels with the client: in a cookie, and for those without a cookie jar in a header of the answer, which they
send back as it came. A replica that has not replayed as far is not asked; see `database.Session`.

* It lasts a minute. HAProxy takes a replica away that is far behind; one that is a little behind for longer than
  a minute may then show a client less than it wrote.
* A client can send any position: one too low spoils its own reads, one too high leads them to the primary.
* Where two writes of one client overlap and their answers arrive in the other order, the cookie of the earlier
  one stays.
"""

import re

from flask import Response, g, has_request_context, request

COOKIE = "__Host-position"
HEADER = "X-Write-Position"
_HEADER_IN_ENVIRON = "HTTP_X_WRITE_POSITION"
LIFETIME = 60  # seconds

UNKNOWN = "FFFFFFFF/FFFFFFFF"  # no server ever comes as far, so reads go to the primary

_POSITION = re.compile("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")  # PostgreSQL's pg_lsn


def number(position: str) -> int:
    """A position as a number, to compare it with others."""
    high, low = position.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def is_carried() -> bool:
    """Whether there is a client to carry a position: none outside a request."""
    return has_request_context()


def remember(position: str) -> None:
    """Hold the rest of this request, and the client's next ones, to this position."""
    g.write_position = position


def forget() -> None:
    """Send no position with this request's answer: where the answer must not tell that something was written."""
    g.pop("write_position", None)


def needed() -> str | None:
    """How far a server must have come to answer this request's reads; None if any will do."""
    if not is_carried():
        return None
    if "write_position" in g:
        return str(g.write_position)
    environ = request.environ
    sent = environ.get(_HEADER_IN_ENVIRON)
    if not sent and "HTTP_COOKIE" in environ:  # most clients of an API send none, so nothing is read for them
        sent = request.cookies.get(COOKIE)
    return sent if sent and _POSITION.fullmatch(sent) else None


def send(response: Response) -> Response:
    """Give the client the position of what this request wrote, if it wrote."""
    if "write_position" in g:
        response.headers[HEADER] = g.write_position
        response.set_cookie(
            COOKIE, g.write_position, max_age=LIFETIME, secure=True, httponly=True, samesite="Strict", path="/"
        )
    return response
