"""Around every request: its id in all log lines and in the answer, one log line, its metrics.

Plain ASGI, so that streams flow through it and what is done after an answer stays as it is.
"""

from __future__ import annotations

import logging
import re
from time import perf_counter
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from backend.api.refusals import unexpected_error
from backend.metrics import HTTP_REQUESTS, HTTP_SECONDS

REQUEST_ID_HEADER = "X-Request-ID"

logger = logging.getLogger("backend.access")

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")
# A method or route that is not in the API: whatever strangers try, and the documents at /docs.
_OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What the routes call the numbers that log lines tell.
_NUMBERS = {"project_id": "project", "image_id": "task", "job_id": "job"}
_NUMBER = re.compile(r"[0-9]{1,15}")


class RequestContext:
    """Gives each request an id: the caller's X-Request-ID where it is well-formed, else a new one.

    An error that no handler knows is answered and logged here, inside the request's own context.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other kinds of ASGI traffic pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        # Never unbound: every request runs in a context of its own.
        clear_contextvars()
        bind_contextvars(request=request_id)
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if status:  # half an answer is out: the server has to cut the connection
                raise
            await unexpected_error(error)(scope, receive, sending)
        finally:
            _record(scope, status, perf_counter() - started)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _WELL_FORMED.fullmatch(given) else uuid4().hex


def _record(scope: Scope, status: int, seconds: float) -> None:
    """Count and log one request. The status is 0 where its caller left before the answer."""
    method = scope["method"] if scope["method"] in _METHODS else _OTHER
    # A template, never the path: paths are endless, and hold what strangers write. FastAPI tells
    # it without the prefix of its router, so that both spellings of the prefix are one route.
    route = getattr(scope.get("route"), "path", _OTHER)
    HTTP_REQUESTS.labels(method, route, status).inc()
    HTTP_SECONDS.labels(method, route).observe(seconds)
    fields: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
        **_numbers(scope),
    }
    key = scope.get("state", {}).get("key")
    if key:
        fields["key"] = key
    logger.info("answered", extra=fields)


def _numbers(scope: Scope) -> dict[str, str]:
    """The project, task and job that a request is about, as far as its address names them."""
    given = {**QueryParams(scope["query_string"]), **scope.get("path_params", {})}
    return {
        field: str(given[name])
        for name, field in _NUMBERS.items()
        if _NUMBER.fullmatch(str(given.get(name, "")))
    }
