"""Parameters that several routes take, and the answers that each of them may refuse with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, Field

# What the integer columns of the store hold.
LARGEST_ID = 2**31 - 1

Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
"""A number in a body: of a project, a task, a job."""

ProjectQuery = Annotated[
    int, Query(ge=1, le=LARGEST_ID, description="The number in the project's address.")
]
PathId = Annotated[int, Path(ge=1, le=LARGEST_ID)]

_REFUSALS = {
    401: "No key, or one that is not known.",
    403: "The key may not do this, or not in this project.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "It conflicts with what is there already.",
    413: "The body is larger than it may be; the line says how large that is.",
    415: "The body is of a kind that is not read here.",
    422: "The request is malformed, or cannot be done; the line says why.",
    429: "Too many requests; Retry-After says when to come again.",
    500: "Nobody expected this; the log holds the details.",
    502: "Label Studio, or where it keeps its images, failed.",
    503: "The store cannot be used right now, or too much is asked for at once.",
    504: "Label Studio, or where it keeps its images, did not answer in time.",
}


class Refusal(BaseModel):
    """Any refusal: one line that names the thing and the remedy."""

    detail: str


def refusals_with(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: that it may refuse with these statuses."""
    # Not as "model": a route that streams, or gives pictures, still refuses in JSON.
    content = {"application/json": {"schema": Refusal.model_json_schema()}}
    return {
        status: {"description": _REFUSALS[status], "content": content}
        for status in sorted(statuses)
    }


def refusals(*more: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route that asks for a key: what each may refuse with, and `more`."""
    return refusals_with(*{401, 403, 422, 429, 503, *more})


ANYWHERE = refusals_with(408, 413, 500, 503)
"""The same for the app: what is refused before a route is asked, and what goes wrong in any."""
