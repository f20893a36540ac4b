"""Errors as answers: one line, never a traceback."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from backend.errors import HardestFirstError, StoreError

logger = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error as `{"detail": "one line"}`."""
    app.add_exception_handler(HardestFirstError, _one_line)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _no_traceback)


async def _one_line(_request: Request, error: Exception) -> JSONResponse:
    unavailable = isinstance(error, StoreError)
    logger.error("%s", error)
    return JSONResponse(
        {"detail": str(error)},
        status.HTTP_503_SERVICE_UNAVAILABLE
        if unavailable
        else status.HTTP_422_UNPROCESSABLE_CONTENT,
    )


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(
        {"detail": f"{where}: {first['msg']}"}, status.HTTP_422_UNPROCESSABLE_CONTENT
    )


async def _no_traceback(_request: Request, error: Exception) -> JSONResponse:
    logger.error("unexpected error", exc_info=error)
    return JSONResponse(
        {"detail": "unexpected error; the backend's log holds the details"},
        status.HTTP_500_INTERNAL_SERVER_ERROR,
    )
