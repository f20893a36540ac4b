"""Bodies that may come as an HTML form or as JSON.

FastAPI's own forms need a parser of multipart bodies; these two fields do without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request, status
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)

FORM = "application/x-www-form-urlencoded"
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
        body = await request.body()
        try:
            if kind == JSON:
                # Strict: JSON has numbers and booleans of its own, a form has only text.
                return model.model_validate_json(body, strict=True)
            if kind in (FORM, ""):
                return model.model_validate(_fields(body))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            raise RequestValidationError(
                [{**one, "loc": ("body", *one["loc"])} for one in found]
            ) from None
        raise HTTPException(
            status.HTTP_415_UNSUPPORTED_MEDIA_TYPE,
            f"a body of this kind is not read here: send {FORM} (as `curl -d` does) or {JSON}",
        )

    return read


def form_or_json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route whose body `form_or_json` reads."""
    content = {"schema": model.model_json_schema()}
    return {"requestBody": {"required": True, "content": {FORM: content, JSON: content}}}


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form; of one that comes twice, the last."""
    try:
        text = body.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:  # what is not ASCII is percent-encoded in a form
        raise RequestValidationError(
            [{"type": "form", "loc": ("body",), "msg": f"this is no {FORM}", "input": None}]
        ) from None
