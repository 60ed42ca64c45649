"""Requests: body, query and headers read into typed models, with the right 4xx for each way of being wrong."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from flask import request
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from servicekit.problems import Problem

JSON = "application/json"
MAX_BODY = 64 * 1024  # bytes
# Werkzeug refuses a longer Content-Length, but cuts a longer chunked body off here without a word.
READ_LIMIT = MAX_BODY + 1

Model = TypeVar("Model", bound=BaseModel)


def _without_nul(text: str) -> str:
    if "\x00" in text:  # PostgreSQL has no such character
        raise ValueError("must not contain the NUL character")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]


class Body(BaseModel):
    """A request's JSON object: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


def read_json(model: type[Model], *others: str) -> Model:
    """The request's body as `model`, sent as JSON or one of the other types; raises `Problem` 400, 413, 415 or 422."""
    accepted = (JSON, *others)
    if request.mimetype not in accepted:
        raise Problem(415, f"Send the body as {' or '.join(accepted)}.", headers={"Accept": ", ".join(accepted)})
    body = request.get_data()
    if len(body) > MAX_BODY:
        raise RequestEntityTooLarge
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def read_query(model: type[Model]) -> Model:
    """The request's query as `model`; raises `Problem` 422."""
    return _read(model, request.args.to_dict())


def read_headers(model: type[Model]) -> Model:
    """The headers that `model` names, by its fields' aliases; raises `Problem` 422."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    return _read(model, {name: request.headers[name] for name in names if name in request.headers})


def _read(model: type[Model], values: Mapping[str, str]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> Problem:
    """What a validation found, without repeating the input: it may be a password."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    if details[0]["type"] == "json_invalid":
        return Problem(400, "The body is not well-formed JSON.", "malformed-json")
    errors = [
        {
            "field": ".".join(str(part) for part in detail["loc"]),
            "message": detail["msg"].removeprefix("Value error, "),
        }
        for detail in details
    ]
    return _invalid(errors)


def invalid_field(field: str, message: str) -> Problem:
    """What is wrong with one field, found otherwise than by a model."""
    return _invalid([{"field": field, "message": message}])


def _invalid(errors: list[dict[str, str]]) -> Problem:
    return Problem(422, "The request's fields are not valid; see errors.", "validation-failed", errors=errors)
