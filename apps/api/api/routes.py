"""api's routes: parse, call, answer."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from flask import Blueprint, Response, request

from api import idempotency, items, users
from api.cache import ReadCache
from api.items import Item
from api.models import (
    IfMatch,
    IfNoneMatch,
    ItemChange,
    ItemPage,
    NewItem,
    Once,
    OwnProfile,
    Page,
    Profile,
    ShownItem,
    UserChange,
)
from servicekit.database import Database, Session
from servicekit.openapi import operation
from servicekit.problems import Problem
from servicekit.requests import JSON, read_headers, read_json, read_query
from servicekit.tokens import Claims, TokenVerifier, authenticate

Found = TypeVar("Found")

MERGE_PATCH = "application/merge-patch+json"  # RFC 7396
NO_ITEM = "There is no such item."
NO_USER = "There is no such user."
CHANGED = "The item has been changed since; read it again."


@dataclass
class Api:
    """What the routes work with."""

    database: Database
    verifier: TokenVerifier
    cache: ReadCache

    def caller(self) -> Claims:
        return authenticate(self.verifier)

    def ask_replica(self, query: Callable[[Session], Found]) -> Found:
        """What the query finds on a replica; nobody else is asked."""
        with self.database.replica() as session:
            return query(session)


def blueprint(api: Api) -> Blueprint:
    """The routes, over what they work with."""
    routes = Blueprint("api", __name__, url_prefix="/api/v1")

    @routes.get("/users/me")
    @operation(answer=OwnProfile, secured=True)
    def get_me() -> Response:
        """Show the caller's own profile."""
        caller = api.caller()
        user = api.cache.find(
            users.KEPT, str(caller.subject), lambda session: users.find(session, caller.subject), api.ask_replica
        )
        if user is None:
            with api.database.primary() as session:
                user = users.ensure(session, caller.subject, caller.email)
            api.cache.wrote(users.KEPT, str(user.id), user)
        return OwnProfile.model_validate(user).response()

    @routes.patch("/users/me")
    @operation(body=UserChange, media=(JSON, MERGE_PATCH), answer=OwnProfile, secured=True)
    def patch_me() -> Response:
        """Change the caller's own profile."""
        caller = api.caller()
        body = read_json(UserChange, MERGE_PATCH)
        with api.database.primary() as session:
            user = users.rename(session, caller.subject, caller.email, body.display_name)
        api.cache.wrote(users.KEPT, str(user.id), user)
        return OwnProfile.model_validate(user).response()

    @routes.get("/users/<uuid:user_id>")
    @operation(answer=Profile, secured=True, others={404: NO_USER})
    def get_user(user_id: UUID) -> Response:
        """Show what everybody may see of a user."""
        api.caller()
        user = api.cache.find(users.KEPT, str(user_id), lambda session: users.find(session, user_id), api.database.find)
        if user is None:
            raise Problem(404, NO_USER, "not-found")
        return Profile.model_validate(user).response()

    @routes.post("/items")
    @operation(
        body=NewItem,
        headers=Once,
        answer=ShownItem,
        status=201,
        sends=("ETag", "Location"),
        secured=True,
        others={422: "Some fields are not valid, see `errors`; or the key was used for another request."},
    )
    def post_item() -> Response:
        """Store an item."""
        caller = api.caller()
        body = read_json(NewItem)
        key = read_headers(Once).key
        if key is None:
            with api.database.primary() as session:
                item = items.create(session, caller.subject, caller.email, body.title, body.body)
            api.cache.wrote(items.KEPT, items.kept_as(caller.subject, item.id), item)
            return _created(item)
        asked = idempotency.fingerprint(request.method, request.path, body.model_dump_json())
        with api.database.transaction() as session:
            known = idempotency.claim(session, caller.subject, key, asked)
            if known:
                return _created(ShownItem.model_validate(known))
            item = items.create(session, caller.subject, caller.email, body.title, body.body)
            idempotency.record(session, caller.subject, key, ShownItem.model_validate(item).model_dump(mode="json"))
            idempotency.forget_expired(session)
        api.cache.wrote(items.KEPT, items.kept_as(caller.subject, item.id), item)
        return _created(item)

    @routes.get("/items")
    @operation(query=Page, answer=ItemPage, secured=True)
    def list_items() -> Response:
        """List the caller's items, newest first."""
        caller = api.caller()
        page = read_query(Page)
        with api.database.replica() as session:
            found = items.newest(session, caller.subject, page.limit + 1, page.after, page.q)
        shown = found[: page.limit]  # one more than asked for tells whether there is a next page
        following = items.cursor_after(shown[-1]) if len(found) > page.limit else None
        return ItemPage(items=[ShownItem.model_validate(item) for item in shown], next=following).response()

    @routes.get("/items/<uuid:item_id>")
    @operation(
        headers=IfNoneMatch,
        answer=ShownItem,
        sends=("ETag",),
        secured=True,
        others={304: "The item is as the client knows it.", 404: NO_ITEM},
    )
    def get_item(item_id: UUID) -> Response:
        """Show one of the caller's items."""
        caller = api.caller()
        item = api.cache.find(
            items.KEPT,
            items.kept_as(caller.subject, item_id),
            lambda session: items.find(session, caller.subject, item_id),
            api.database.find,
        )
        if item is None:
            raise _no_item()
        if request.if_none_match.contains_weak(items.tag_of(item.updated_at)):
            return _tagged(Response(status=304), item.updated_at)
        return _shown(item)

    @routes.patch("/items/<uuid:item_id>")
    @operation(
        body=ItemChange,
        media=(JSON, MERGE_PATCH),
        headers=IfMatch,
        answer=ShownItem,
        sends=("ETag",),
        secured=True,
        others={404: NO_ITEM, 412: CHANGED},
    )
    def patch_item(item_id: UUID) -> Response:
        """Change one of the caller's items."""
        caller = api.caller()
        body = read_json(ItemChange, MERGE_PATCH)
        with api.database.primary() as session:
            item = items.change(session, caller.subject, item_id, body.title, body.body, _versions_to_match())
            if item is None:
                raise _unmatched(items.find(session, caller.subject, item_id))
        api.cache.wrote(items.KEPT, items.kept_as(caller.subject, item_id), item)
        return _shown(item)

    @routes.delete("/items/<uuid:item_id>")
    @operation(headers=IfMatch, secured=True, others={404: NO_ITEM, 412: CHANGED})
    def delete_item(item_id: UUID) -> tuple[str, int]:
        """Delete one of the caller's items."""
        caller = api.caller()
        with api.database.primary() as session:
            if not items.delete(session, caller.subject, item_id, _versions_to_match()):
                raise _unmatched(items.find(session, caller.subject, item_id))
        api.cache.deleted(items.KEPT, items.kept_as(caller.subject, item_id))
        return "", 204

    return routes


def _versions_to_match() -> list[datetime] | None:
    """The versions that the request's If-Match names; None if any will do. A weak tag names none (RFC 9110)."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    return items.versions_of(tag for tag in request.if_match.as_set() if tag)  # "" is None to Werkzeug


def _unmatched(item: Item | None) -> Problem:
    """Why nothing was changed: the item is not there, or it is another version than If-Match names."""
    if item is None:
        return _no_item()
    return Problem(412, CHANGED, "precondition-failed")


def _no_item() -> Problem:
    """For an item that is not there and for another user's alike: who asks learns nothing."""
    return Problem(404, NO_ITEM, "not-found")


def _created(item: Item | ShownItem) -> Response:
    """201 for an item, new or as it was when its idempotency key was first used."""
    answer = _shown(item, 201)
    answer.headers["Location"] = f"/api/v1/items/{item.id}"
    return answer


def _shown(item: Item | ShownItem, status: int = 200) -> Response:
    return _tagged(ShownItem.model_validate(item).response(status), item.updated_at)


def _tagged(answer: Response, updated_at: datetime) -> Response:
    """The answer with the item's entity tag; caches may keep it for its user, and ask whether it still holds."""
    answer.set_etag(items.tag_of(updated_at))
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer
