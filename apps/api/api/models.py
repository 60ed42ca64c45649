"""The bodies, queries and headers that api takes, and what it answers."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, field_validator

from servicekit.answers import Answer
from servicekit.requests import Body, Text

Title = Annotated[Text, Field(min_length=1, max_length=200)]
ItemBody = Annotated[Text, Field(max_length=20_000)]
Cursor = Annotated[Text, Field(max_length=200, json_schema_extra={"format": "cursor"})]
Part = Annotated[Text, Field(min_length=1, max_length=200)]


class NewItem(Body):
    """An item to be."""

    title: Title
    body: ItemBody


class ItemChange(Body):
    """A merge patch (RFC 7396) of an item: what is left out stays as it is."""

    title: Title | None = None
    body: ItemBody | None = None

    @field_validator("title", "body")
    @classmethod
    def _is_not_removed(cls, value: str | None) -> str | None:
        if value is None:  # sent as null: a merge patch's way to remove a member
            raise ValueError("must not be removed")
        return value


class UserChange(Body):
    """A merge patch (RFC 7396) of one's own profile."""

    display_name: Annotated[Text, Field(min_length=1, max_length=100)]


class Page(BaseModel):
    """The query of a list."""

    limit: int = Field(default=20, ge=1, le=100)
    after: Cursor | None = Field(default=None, description="The `next` of the page before")
    q: Part | None = Field(default=None, description="A part of the title, in whatever case")


class Once(BaseModel):
    """The header that lets a request be sent twice and carried out once."""

    key: Annotated[str, Field(pattern="^[!-~]{1,200}$")] | None = Field(
        default=None,
        alias="Idempotency-Key",
        description="The client's own text: for 24 hours, the same request under it has the same answer",
    )


class IfMatch(BaseModel):
    """The header that names the versions to change, and no other."""

    tags: str | None = Field(
        default=None, alias="If-Match", description="`ETag` of the version to change, or several, or `*`"
    )


class IfNoneMatch(BaseModel):
    """The header that names the versions that the client has."""

    tags: str | None = Field(
        default=None, alias="If-None-Match", description="`ETag` of the version that is known, or several"
    )


class ShownItem(Answer):
    """An item."""

    id: UUID
    title: str
    body: str
    created_at: datetime
    updated_at: datetime


class ItemPage(Answer):
    """Items, newest first; `next` leads to the following page, and is null on the last one."""

    items: list[ShownItem]
    next: str | None


class Profile(Answer):
    """What everybody may see of a user."""

    id: UUID
    display_name: str
    created_at: datetime


class OwnProfile(Profile):
    """What a user sees of themselves."""

    email: str
