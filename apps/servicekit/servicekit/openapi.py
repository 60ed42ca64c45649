"""The OpenAPI 3.1 document: what a service's routes take and answer, told by the models they work with.

`operation` notes on a route what the code cannot show by itself; all else comes from its rule, its docstring and its
models. `serve` builds the document and a page for people once, at start: a described route costs no request anything.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from inspect import getdoc
from typing import Any, Literal, TypeVar

from flask import Flask, Response, request
from jinja2 import Environment
from markupsafe import Markup, escape
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema
from werkzeug.routing import Rule

from servicekit.answers import Answer
from servicekit.metrics import template_of
from servicekit.problems import PROBLEM_JSON, ProblemDetails
from servicekit.requests import JSON
from servicekit.tracing import OPERATIONS

MAX_AGE = 300  # seconds that caches may keep a document

View = TypeVar("View", bound=Callable[..., Any])
Json = dict[str, Any]

_ATTRIBUTE = "openapi_operation"

_ABOUT = """\
Errors are problem details (RFC 9457), and their `request_id` is the answer's `X-Request-Id`: 32 hex digits that lead
to its trace and its log lines. An answer to a write carries `X-Write-Position`, and a cookie that says the same: reads
that bring either see the write. No text may contain the character U+0000.
"""

# Why a status is answered, where the route does not say.
_PROBLEMS = {
    400: "The request is malformed.",
    401: "No access token, or one that is not or no longer good.",
    404: "There is nothing at this path.",
    413: "The body is larger than 64 KiB.",
    415: "The body is of another type than this route takes.",
    422: "Some fields are not valid; `errors` says which and why.",
    429: "This address has sent too many requests to this route.",
    503: "The service, its database or a place in its queue is not available at the moment.",
}
_EVERYWHERE = (400, 429, 503)  # the edge answers these for any route

_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-Id": ("The request's id, which is its trace's, too.", {"pattern": "^[0-9a-f]{32}$"}),
    "ETag": ("The version, for `If-Match` and `If-None-Match`.", {"pattern": '^(W/)?"[^"]*"$'}),
    "Location": ("The path of what was created.", {"format": "uri-reference"}),
    "Retry-After": ("Seconds after which another try is worth while.", {"pattern": "^[0-9]+$"}),
    "WWW-Authenticate": ("How to authenticate.", {}),
    "Accept": ("The types that this route takes.", {}),
}
_SENT_WITH = {401: ("WWW-Authenticate",), 415: ("Accept",), 429: ("Retry-After",), 503: ("Retry-After",)}

_CONVERTERS: dict[str, Json] = {
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": 0},
    "string": {"type": "string", "minLength": 1},
}


class Undescribed(Exception):
    """A route that nobody has described; the text names it."""


@dataclass(frozen=True)
class Operation:
    """What a route takes and answers.

    body, media: the model of its body, and the types that a body may have.
    query, headers: models of what else it reads, each field a parameter under its alias.
    answer, status, sends: what it answers when all went well, and the headers that this answer always has.
    others: its other answers and why, by status, besides those that follow from what it takes.
    """

    body: type[BaseModel] | None = None
    media: tuple[str, ...] = (JSON,)
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    answer: type[Answer] | None = None
    status: int = 200
    sends: tuple[str, ...] = ()
    secured: bool = False
    others: Mapping[int, str] = field(default_factory=dict)

    def note(self, view: View) -> View:
        setattr(view, _ATTRIBUTE, self)
        return view

    def answers(self, in_path: bool) -> dict[int, str]:
        """All its answers but the good one, with why."""
        statuses = set(_EVERYWHERE)
        if self.body:
            statuses |= {413, 415}
        if self.body or self.query or self.headers:
            statuses.add(422)
        if self.secured:
            statuses.add(401)
        if in_path:
            statuses.add(404)
        return dict(sorted(({status: _PROBLEMS[status] for status in statuses} | dict(self.others)).items()))

    def models(self) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
        if self.body:
            yield self.body, "validation"
        if self.answer:
            yield self.answer, "serialization"


def operation(
    *,
    body: type[BaseModel] | None = None,
    media: tuple[str, ...] = (JSON,),
    query: type[BaseModel] | None = None,
    headers: type[BaseModel] | None = None,
    answer: type[Answer] | None = None,
    status: int | None = None,
    sends: tuple[str, ...] = (),
    secured: bool = False,
    others: Mapping[int, str] | None = None,
) -> Callable[[View], View]:
    """Describe a route, above its function and below its rule; see `Operation`. Its docstring is what people read."""
    status = status or (200 if answer else 204)
    return Operation(body, media, query, headers, answer, status, sends, secured, others or {}).note


def internal(view: View) -> View:
    """Leave a route out of the document: it is the document itself, or the edge has no public route to it."""
    setattr(view, _ATTRIBUTE, None)
    return view


class _Schema(GenerateJsonSchema):
    """pydantic's schemas, without titles that repeat a field's name, and without a null for 'not sent'."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if described.get("default", ...) is None:
            del described["default"]
            sent = [one for one in described.pop("anyOf", ()) if one.get("type") != "null"]
            described |= sent[0] if len(sent) == 1 else {"anyOf": sent} if sent else {}
        return described


def document(app: Flask, title: str, version: str) -> Json:
    """The document of all the app's routes but its operations pages. Raises `Undescribed`."""
    described = list(_described(app))
    used = {pair for _, _, _, described_as in described for pair in described_as.models()}
    used.add((ProblemDetails, "serialization"))
    models, definitions = models_json_schema(
        sorted(used, key=lambda pair: pair[0].__name__),
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schema,
    )
    references = {model: reference for (model, _), reference in models.items()}
    paths: Json = {}
    for path, method, rule, what in described:
        view = app.view_functions[rule.endpoint]
        paths.setdefault(path, {})[method] = _operation(rule, view, what, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": definitions["$defs"],
            "headers": {
                name: {"description": text, "required": True, "schema": {"type": "string", **schema}}
                for name, (text, schema) in _HEADERS.items()
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _described(app: Flask) -> Iterator[tuple[str, str, Rule, Operation]]:
    for rule in app.url_map.iter_rules():
        if rule.rule in OPERATIONS:
            continue
        view = app.view_functions[rule.endpoint]
        if not hasattr(view, _ATTRIBUTE):
            raise Undescribed(f"{rule.rule}: {rule.endpoint} needs @operation(...), or @internal")
        what: Operation | None = getattr(view, _ATTRIBUTE)
        if what is None:
            continue
        if not getdoc(view):
            raise Undescribed(f"{rule.rule}: {rule.endpoint} needs a docstring")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield template_of(rule.rule), method.lower(), rule, what


def _operation(rule: Rule, view: Callable[..., Any], what: Operation, references: Mapping[Any, Json]) -> Json:
    summary, _, description = (getdoc(view) or "").partition("\n")
    in_path = [_path_parameter(name, rule) for name in sorted(rule.arguments)]
    parameters = in_path + _parameters(what.query, "query") + _parameters(what.headers, "header")
    good: Json = {"description": HTTPStatus(what.status).phrase, "headers": _headers(*what.sends)}
    if what.answer:
        good["content"] = {JSON: {"schema": references[what.answer]}}
    responses = {str(what.status): good}
    for status, why in what.answers(bool(in_path)).items():
        responses[str(status)] = {"description": why, "headers": _headers(*_SENT_WITH.get(status, ()))}
        if status >= 400:
            responses[str(status)]["content"] = {PROBLEM_JSON: {"schema": references[ProblemDetails]}}
    described: Json = {"operationId": view.__name__, "summary": summary.rstrip(".")}
    if description.strip():
        described["description"] = description.strip()
    if parameters:
        described["parameters"] = parameters
    if what.body:
        content = {media: {"schema": references[what.body]} for media in what.media}
        described["requestBody"] = {"required": True, "content": content}
    if what.secured:
        described["security"] = [{"bearer": []}]
    return described | {"responses": responses}


def _path_parameter(name: str, rule: Rule) -> Json:
    converter = re.search(rf"<(?:([^<>:(]+)[^<>:]*:)?{name}>", rule.rule)
    schema = _CONVERTERS[(converter and converter[1]) or "string"]
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameters(model: type[BaseModel] | None, place: Literal["query", "header"]) -> list[Json]:
    if model is None:
        return []
    schema = model.model_json_schema(schema_generator=_Schema)
    required = schema.get("required", [])
    return [
        {"name": name, "in": place, "required": name in required, **_text_beside(properties)}
        for name, properties in schema["properties"].items()
    ]


def _text_beside(schema: Json) -> Json:
    """A parameter's schema, and its description where OpenAPI wants it."""
    text = schema.pop("description", None)
    return {"description": text, "schema": schema} if text else {"schema": schema}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def serve(app: Flask, title: str, version: str) -> None:
    """Add the document, /openapi/<service>.json, and the page that shows it, /openapi/<service>; after all routes."""
    described = document(app, title, version)
    body = json.dumps(described, ensure_ascii=False).encode()
    style = files("servicekit").joinpath("openapi.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _page(described, app.name, style).encode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"

    def json_document() -> Response:
        return _cached(Response(body, mimetype=JSON))

    def html_page() -> Response:
        return _cached(Response(page, headers={"Content-Security-Policy": policy}, mimetype="text/html"))

    app.add_url_rule(f"/openapi/{app.name}.json", view_func=internal(json_document))
    app.add_url_rule(f"/openapi/{app.name}", view_func=internal(html_page))


def _cached(response: Response) -> Response:
    response.add_etag()
    response.headers["Cache-Control"] = f"public, max-age={MAX_AGE}"
    response.make_conditional(request)
    return response


def _page(described: Json, service: str, style: str) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"type": type_text, "bounds": bounds_text, "model": _last, "code": _code}
    template = files("servicekit").joinpath("openapi.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(document=described, service=service, style=style)


def _code(text: str) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  it is escaped


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]


def type_text(schema: Json) -> str:
    """A schema's type in few words."""
    if "$ref" in schema:
        return _last(schema["$ref"])
    if "anyOf" in schema:
        return " or ".join(type_text(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {type_text(schema['items'])}"
    if "const" in schema:
        return json.dumps(schema["const"])
    return str(schema.get("format") or schema.get("type") or "any")


def bounds_text(schema: Json) -> str:
    """What a schema asks of a value, besides its type."""
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema) | schema
    said = []
    for low, high, unit in (("minLength", "maxLength", " characters"), ("minimum", "maximum", "")):
        if low in schema and high in schema:
            said.append(f"{schema[low]} to {schema[high]}{unit}")
        elif low in schema:
            said.append(f"at least {schema[low]}{unit}")
        elif high in schema:
            said.append(f"at most {schema[high]}{unit}")
    if schema.get("default") is not None:
        said.append(f"default {schema['default']}")
    return ", ".join(said)
