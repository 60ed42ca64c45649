"""Answers: typed models of what routes answer, so that the OpenAPI document says what is really sent."""

from flask import Response
from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A JSON object to answer with; `model_validate` makes one of anything that has its fields as attributes."""

    model_config = ConfigDict(from_attributes=True)

    def response(self, status: int = 200) -> Response:
        return Response(self.model_dump_json(exclude_unset=True), status, mimetype="application/json")
