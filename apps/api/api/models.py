"""The bodies and queries that api takes."""

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from servicekit.requests import Body, Text

Title = Annotated[Text, Field(min_length=1, max_length=200)]
ItemBody = Annotated[Text, Field(max_length=20_000)]


class NewItem(Body):
    """POST /api/v1/items."""

    title: Title
    body: ItemBody


class ItemChange(Body):
    """PATCH /api/v1/items/{item_id}, a merge patch (RFC 7396): what is left out stays as it is."""

    title: Title | None = None
    body: ItemBody | None = None

    @field_validator("title", "body")
    @classmethod
    def _is_not_removed(cls, value: str | None) -> str | None:
        if value is None:  # sent as null: a merge patch's way to remove a member
            raise ValueError("must not be removed")
        return value


class UserChange(Body):
    """PATCH /api/v1/users/me."""

    display_name: Annotated[Text, Field(min_length=1, max_length=100)]


class Page(BaseModel):
    """The query of a list; `q` is a part of the title, in whatever case."""

    limit: int = Field(default=20, ge=1, le=100)
    after: Annotated[Text, Field(max_length=200)] | None = None
    q: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
