"""Small pictures of tasks."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Response, status

from backend.api.parameters import PathId, refusals
from backend.api.security.access import Caller, Reader
from backend.api.services import ServicesDep
from backend.errors import ImageError
from backend.scoring.thumbnails import LIMIT_S, Thumbnail, Thumbnails

router = APIRouter(tags=["images"])

# An image may change when its task is scored again: then its ETag changes too.
_MAX_AGE_S = 300
_JPEG = "image/jpeg"
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {_JPEG: {"schema": {"type": "string", "format": "binary"}}}},
    304: {"description": "The picture that If-None-Match names is still the one."},
}


@router.get(
    "/thumbnail/{image_id}",
    response_class=Response,
    responses={**_PICTURE, **refusals(404, 502, 504)},
)
async def thumbnail(
    image_id: PathId,
    services: ServicesDep,
    caller: Reader,
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Give a JPEG of a task's image, at most 256 pixels wide and high; `image_id` is the task."""
    found = services.thumbnails.recent(image_id)
    if found is None:
        found = await _loaded(services.thumbnails, caller, image_id)
    else:
        caller.check(found.image.project_id)
    tag = f'"{found.digest}"'
    headers = {"ETag": tag, "Cache-Control": f"private, max-age={_MAX_AGE_S}"}
    if _names(if_none_match, tag):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(found.jpeg, media_type=_JPEG, headers=headers)


async def _loaded(thumbnails: Thumbnails, caller: Caller, task_id: int) -> Thumbnail:
    image = await asyncio.to_thread(thumbnails.find, task_id)
    if image is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            f"there is no scored image {task_id}: score its project first",
        )
    caller.check(image.project_id)
    kept = await asyncio.to_thread(thumbnails.kept, image)
    if kept is not None:
        return kept
    waiting = asyncio.wrap_future(thumbnails.make(image))
    try:
        # Shielded: others may wait for the same one, and a retry finds it done.
        return await asyncio.wait_for(asyncio.shield(waiting), LIMIT_S)
    except (TimeoutError, asyncio.TimeoutError):
        raise HTTPException(
            status.HTTP_504_GATEWAY_TIMEOUT,
            f"the image of task {task_id} did not come within {LIMIT_S:g} s: try again later, "
            "and see that Label Studio answers",
        ) from None
    except ImageError as error:
        raise HTTPException(status.HTTP_502_BAD_GATEWAY, f"task {task_id}: {error}") from None


def _names(if_none_match: str, tag: str) -> bool:
    """Whether the header names this ETag; by RFC 9110 a weak one serves as well."""
    given = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return tag in given or given == ["*"]
