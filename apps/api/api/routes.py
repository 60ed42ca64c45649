"""api's routes: parse, call, answer."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Blueprint, request
from pydantic import ValidationError

from api import items, users
from api.items import Item
from api.models import ItemChange, NewItem, Page, UserChange
from api.users import User
from servicekit.database import Database
from servicekit.problems import Problem
from servicekit.requests import invalid, read_json
from servicekit.tokens import Claims, TokenVerifier, authenticate

Answer = dict[str, Any]


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
        body = read_json(UserChange)
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
    def post_item() -> tuple[Answer, int, dict[str, str]]:
        caller = api.caller()
        body = read_json(NewItem)
        with api.database.primary() as session:
            item = items.create(session, caller.subject, caller.email, body.title, body.body)
        return _item(item), 201, {"Location": f"/api/v1/items/{item.id}"}

    @routes.get("/items")
    def list_items() -> Answer:
        caller = api.caller()
        try:
            page = Page.model_validate(request.args.to_dict())
        except ValidationError as error:
            raise invalid(error) from None
        with api.database.replica() as session:
            found = items.newest(session, caller.subject, page.limit + 1, page.after)
        shown = found[: page.limit]  # one more than asked for tells whether there is a next page
        following = items.cursor_after(shown[-1]) if len(found) > page.limit else None
        return {"items": [_item(item) for item in shown], "next": following}

    @routes.get("/items/<uuid:item_id>")
    def get_item(item_id: UUID) -> Answer:
        caller = api.caller()
        item = api.database.find(lambda session: items.find(session, caller.subject, item_id))
        if item is None:
            raise _no_item()
        return _item(item)

    @routes.patch("/items/<uuid:item_id>")
    def patch_item(item_id: UUID) -> Answer:
        caller = api.caller()
        body = read_json(ItemChange)
        with api.database.primary() as session:
            item = items.change(session, caller.subject, item_id, body.title, body.body)
        if item is None:
            raise _no_item()
        return _item(item)

    @routes.delete("/items/<uuid:item_id>")
    def delete_item(item_id: UUID) -> tuple[str, int]:
        caller = api.caller()
        with api.database.primary() as session:
            if not items.delete(session, caller.subject, item_id):
                raise _no_item()
        return "", 204

    return routes


def _no_item() -> Problem:
    """For an item that is not there and for another user's alike: who asks learns nothing."""
    return Problem(404, "There is no such item.", "not-found")


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
