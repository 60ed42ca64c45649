"""api's routes: parse, call, answer."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify, request
from pydantic import ValidationError

from api import idempotency, items, users
from api.items import Item
from api.models import ItemChange, NewItem, Page, UserChange
from api.users import User
from servicekit.database import Database
from servicekit.problems import Problem
from servicekit.requests import invalid, invalid_field, read_json
from servicekit.tokens import Claims, TokenVerifier, authenticate

Answer = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"  # RFC 7396
_KEY = re.compile("[!-~]{1,200}")  # an Idempotency-Key: visible ASCII


@dataclass
class Api:
    """What the routes work with."""

    database: Database
    verifier: TokenVerifier

    def caller(self) -> Claims:
        return authenticate(self.verifier)


def blueprint(api: Api) -> Blueprint:
    """The routes, over what they work with."""
    routes = Blueprint("api", __name__, url_prefix="/api/v1")

    @routes.get("/users/me")
    def get_me() -> Answer:
        caller = api.caller()
        with api.database.replica() as session:
            user = users.find(session, caller.subject)
        if user is None:
            with api.database.primary() as session:
                user = users.ensure(session, caller.subject, caller.email)
        return _own_profile(user)

    @routes.patch("/users/me")
    def patch_me() -> Answer:
        caller = api.caller()
        body = read_json(UserChange, MERGE_PATCH)
        with api.database.primary() as session:
            return _own_profile(users.rename(session, caller.subject, caller.email, body.display_name))

    @routes.get("/users/<uuid:user_id>")
    def get_user(user_id: UUID) -> Answer:
        api.caller()
        user = api.database.find(lambda session: users.find(session, user_id))
        if user is None:
            raise Problem(404, "There is no such user.", "not-found")
        return _public_profile(user)

    @routes.post("/items")
    def post_item() -> Response:
        caller = api.caller()
        body = read_json(NewItem)
        key = _idempotency_key()
        if key is None:
            with api.database.primary() as session:
                return _created(_item(items.create(session, caller.subject, caller.email, body.title, body.body)))
        asked = idempotency.fingerprint(request.method, request.path, body.model_dump_json())
        with api.database.transaction() as session:
            answer = idempotency.claim(session, caller.subject, key, asked)
            if answer is None:
                answer = _item(items.create(session, caller.subject, caller.email, body.title, body.body))
                idempotency.record(session, caller.subject, key, answer)
                idempotency.forget_expired(session)
        return _created(answer)

    @routes.get("/items")
    def list_items() -> Answer:
        caller = api.caller()
        try:
            page = Page.model_validate(request.args.to_dict())
        except ValidationError as error:
            raise invalid(error) from None
        with api.database.replica() as session:
            found = items.newest(session, caller.subject, page.limit + 1, page.after, page.q)
        shown = found[: page.limit]  # one more than asked for tells whether there is a next page
        following = items.cursor_after(shown[-1]) if len(found) > page.limit else None
        return {"items": [_item(item) for item in shown], "next": following}

    @routes.get("/items/<uuid:item_id>")
    def get_item(item_id: UUID) -> Response:
        caller = api.caller()
        item = api.database.find(lambda session: items.find(session, caller.subject, item_id))
        if item is None:
            raise _no_item()
        if request.if_none_match.contains_weak(items.tag_of(item.updated_at)):
            return _tagged(Response(status=304), item.updated_at)
        return _tagged(jsonify(_item(item)), item.updated_at)

    @routes.patch("/items/<uuid:item_id>")
    def patch_item(item_id: UUID) -> Response:
        caller = api.caller()
        body = read_json(ItemChange, MERGE_PATCH)
        with api.database.primary() as session:
            item = items.change(session, caller.subject, item_id, body.title, body.body, _versions_to_match())
            if item is None:
                raise _unmatched(items.find(session, caller.subject, item_id))
        return _tagged(jsonify(_item(item)), item.updated_at)

    @routes.delete("/items/<uuid:item_id>")
    def delete_item(item_id: UUID) -> tuple[str, int]:
        caller = api.caller()
        with api.database.primary() as session:
            if not items.delete(session, caller.subject, item_id, _versions_to_match()):
                raise _unmatched(items.find(session, caller.subject, item_id))
        return "", 204

    return routes


def _idempotency_key() -> str | None:
    """The request's Idempotency-Key. Raises `Problem` 422 for one that could not be kept."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        message = "must be 1 to 200 visible ASCII characters"
        raise invalid_field("Idempotency-Key", message)
    return key


def _versions_to_match() -> list[datetime] | None:
    """The versions that the request's If-Match names; None if any will do. A weak tag names none (RFC 9110)."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    return items.versions_of(request.if_match.as_set())


def _unmatched(item: Item | None) -> Problem:
    """Why nothing was changed: the item is not there, or it is another version than If-Match names."""
    if item is None:
        return _no_item()
    return Problem(412, "The item has been changed since; read it again.", "precondition-failed")


def _no_item() -> Problem:
    """For an item that is not there and for another user's alike: who asks learns nothing."""
    return Problem(404, "There is no such item.", "not-found")


def _created(item: Answer) -> Response:
    """201 for an item's representation, new or as it was when its idempotency key was first used."""
    answer = _tagged(jsonify(item), datetime.fromisoformat(item["updated_at"]))
    answer.status_code = 201
    answer.headers["Location"] = f"/api/v1/items/{item['id']}"
    return answer


def _tagged(answer: Response, updated_at: datetime) -> Response:
    """The answer with the item's entity tag; caches may keep it for its user, and ask whether it still holds."""
    answer.set_etag(items.tag_of(updated_at))
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer


def _item(item: Item) -> Answer:
    return {
        "id": str(item.id),
        "title": item.title,
        "body": item.body,
        "created_at": item.created_at.isoformat(),
        "updated_at": item.updated_at.isoformat(),
    }


def _public_profile(user: User) -> Answer:
    """What other users may see: not the e-mail address."""
    return {"id": str(user.id), "display_name": user.display_name, "created_at": user.created_at.isoformat()}


def _own_profile(user: User) -> Answer:
    return {**_public_profile(user), "email": user.email}
