"""Bodies that may come as a form, of either kind that clients send, or as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import HTTPException, Request, status
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

ModelT = TypeVar("ModelT", bound=BaseModel)

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
JSON = "application/json"
_MOST_FIELDS = 100


def form_or_json(model: type[ModelT]) -> Callable[[Request], Awaitable[ModelT]]:
    """A dependency that reads the body as `model`; see `form_or_json_schema`.

    Raises:
        HTTPException: (from the dependency) 415: the body is of another kind.
        RequestValidationError: (likewise) it is malformed.
    """

    async def read(request: Request) -> ModelT:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind == JSON:
                # Strict: JSON has numbers and booleans of its own, a form has only text.
                return model.model_validate_json(await request.body(), strict=True)
            if kind in (FORM, MULTIPART):
                return model.model_validate(await _fields(request, kind))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            raise RequestValidationError(
                [{**one, "loc": ("body", *one["loc"])} for one in found]
            ) from None
        raise HTTPException(
            status.HTTP_415_UNSUPPORTED_MEDIA_TYPE,
            "a body of this kind is not read here: send a form (as `curl -d` and `curl -F` do) "
            f"or {JSON}",
        )

    return read


def form_or_json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route whose body `form_or_json` reads."""
    content = {kind: {"schema": model.model_json_schema()} for kind in (FORM, MULTIPART, JSON)}
    return {"requestBody": {"required": True, "content": content}}


async def _fields(request: Request, kind: str) -> dict[str, Any]:
    """The fields of a form; of one that comes twice, the last. Files are not taken."""
    try:
        return dict(await request.form(max_files=0, max_fields=_MOST_FIELDS))
    except (StarletteHTTPException, ValueError):  # a kind of both for each thing that is wrong
        raise RequestValidationError(
            [{"type": "form", "loc": ("body",), "msg": f"this is no {kind}", "input": None}]
        ) from None
