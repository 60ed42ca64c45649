"""Problem details (RFC 9457): every error, whatever raised it, becomes the same kind of answer.

Services map their domain's exceptions with `answer_with`; routes raise, and never build an error themselves.
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Annotated, TypeVar

from flask import Flask, Response
from pydantic import BaseModel, Field
from werkzeug.exceptions import HTTPException

from servicekit.database import DatabaseUnavailable
from servicekit.logging import event
from servicekit.tracing import request_id

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER = "2"  # seconds

Error = TypeVar("Error", bound=Exception)


class FieldError(BaseModel):
    """What is wrong with one field of the request; a field inside another is named `outer.inner`."""

    field: str
    message: str


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(description="`urn:belvedere:problem:<name>`, or `about:blank`")]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    request_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    errors: list[FieldError] = []


class Problem(Exception):
    """An answer to give instead of the one asked for.

    name: ends the problem's type (`urn:belvedere:problem:<name>`); without it the type is `about:blank`.
    errors: what is wrong with the request's fields, as (field, message).
    """

    def __init__(
        self,
        status: int,
        detail: str,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)
        self.detail = detail
        self.type = f"urn:belvedere:problem:{name}" if name else "about:blank"
        self.headers = headers or {}
        self.errors = [FieldError.model_validate(error) for error in errors or ()]


def unauthorized(detail: str) -> Problem:
    """401 for a missing or refused bearer token (RFC 6750)."""
    return Problem(401, detail, "token-refused", {"WWW-Authenticate": 'Bearer error="invalid_token"'})


def unavailable(detail: str, name: str) -> Problem:
    """503: worth another try soon."""
    return Problem(503, detail, name, {"Retry-After": RETRY_AFTER})


def answer_with(app: Flask, error: type[Error], make: Callable[[Error], Problem]) -> None:
    """Answer a domain's exception with the problem that `make` derives from it."""
    app.register_error_handler(error, lambda raised: _response(make(raised)))


def install(app: Flask) -> None:
    """Make every error of the app a problem."""
    app.register_error_handler(Problem, _response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(DatabaseUnavailable, _database_unavailable)
    app.register_error_handler(Exception, _unexpected)


def _response(problem: Problem) -> Response:
    details = ProblemDetails(
        type=problem.type,
        title=problem.status.phrase,
        status=problem.status.value,
        detail=problem.detail,
        request_id=request_id(),
        errors=problem.errors,
    )
    body = details.model_dump_json(exclude_defaults=True)
    response = Response(body, problem.status, problem.headers, content_type=PROBLEM_JSON)
    response.headers["Cache-Control"] = "no-store"
    return response


def _http_error(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:  # a redirect is not an error
        return Response(error.get_body(), error.code, error.get_headers())
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return _response(Problem(error.code, error.description or HTTPStatus(error.code).phrase, headers=headers))


def _database_unavailable(error: DatabaseUnavailable) -> Response:
    event("database_unavailable", "The database cannot serve this request", logging.ERROR, detail=str(error))
    return _response(unavailable("The database is not available at the moment.", "database-unavailable"))


def _unexpected(error: Exception) -> Response:
    event("request_failed", f"Unexpected {type(error).__name__}", logging.ERROR, exc_info=True)
    return _response(Problem(500, "The service failed. The log says why, under this request's id."))
