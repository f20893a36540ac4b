"""Errors as answers: one line, never a traceback."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response, status
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from backend.errors import (
    BusyError,
    HardestFirstError,
    LabelStudioError,
    RefusedError,
    StoreError,
    UnreachableError,
)

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 5


def add_error_handlers(app: FastAPI) -> None:
    """Answer every expected error as `{"detail": "one line"}`; see also `RequestContext`."""
    app.add_exception_handler(HardestFirstError, _one_line)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)


async def _one_line(_request: Request, error: Exception) -> JSONResponse:
    logger.error("%s", error)
    headers = {"Retry-After": str(_BUSY_SECONDS)} if isinstance(error, BusyError) else None
    return JSONResponse({"detail": str(error)}, _status_of(error), headers=headers)


def _status_of(error: Exception) -> int:
    if isinstance(error, (StoreError, BusyError)):
        return status.HTTP_503_SERVICE_UNAVAILABLE
    if isinstance(error, UnreachableError):
        return status.HTTP_504_GATEWAY_TIMEOUT
    if isinstance(error, RefusedError) and error.status == status.HTTP_404_NOT_FOUND:
        return status.HTTP_404_NOT_FOUND
    if isinstance(error, LabelStudioError):
        return status.HTTP_502_BAD_GATEWAY
    return status.HTTP_422_UNPROCESSABLE_CONTENT


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(
        {"detail": f"{where}: {first['msg']}"}, status.HTTP_422_UNPROCESSABLE_CONTENT
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == status.HTTP_400_BAD_REQUEST:
        # No route says so. FastAPI does, of a body that ends its JSON parser otherwise than with
        # a syntax error: it is no UTF-8, or holds too long a number.
        error = HTTPException(
            status.HTTP_422_UNPROCESSABLE_CONTENT, "body: this is no JSON that can be read"
        )
    if error.status_code == status.HTTP_405_METHOD_NOT_ALLOWED:
        error = HTTPException(
            error.status_code, error.detail, headers={"Allow": ", ".join(_methods(request))}
        )
    return await http_exception_handler(request, error)


def _methods(request: Request) -> list[str]:
    """What may be asked of a path. Starlette names only the methods of the first route it meets."""
    routes = request.app.router.routes
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] == Match.FULL for route in routes
        )
    ]


def unexpected_error(error: Exception) -> JSONResponse:
    """The answer to an unexpected error; the log has the traceback."""
    logger.error("unexpected error", exc_info=error)
    return JSONResponse(
        {"detail": "unexpected error; the backend's log holds the details"},
        status.HTTP_500_INTERNAL_SERVER_ERROR,
    )
