"""The bodies and queries that api takes."""

from typing import Annotated

from pydantic import BaseModel, Field

from servicekit.requests import Body, Text

Title = Annotated[Text, Field(min_length=1, max_length=200)]
ItemBody = Annotated[Text, Field(max_length=20_000)]


class NewItem(Body):
    """POST /api/v1/items."""

    title: Title
    body: ItemBody


class ItemChange(Body):
    """PATCH /api/v1/items/{item_id}: what is left out stays as it is."""

    title: Title | None = None
    body: ItemBody | None = None


class UserChange(Body):
    """PATCH /api/v1/users/me."""

    display_name: Annotated[Text, Field(min_length=1, max_length=100)]


class Page(BaseModel):
    """The query of a list."""

    limit: int = Field(default=20, ge=1, le=100)
    after: Annotated[Text, Field(max_length=200)] | None = None
