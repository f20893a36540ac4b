"""Whose body is read, how much of it, how deep, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.security.nesting import MAX_NESTING, nested_too_deep

# Label Studio gives /predict 100 s in all.
BODY_SECONDS = 60.0
LINGER_SECONDS = 2.0
# All large bodies that are held at once, in largest bodies: what bounds the memory they take.
AT_ONCE = 4
SMALL_BODY_BYTES = 2_000_000
# The same for small ones. A body takes up room as it arrives, not as it is announced.
SMALL_BODIES_BYTES = 256_000_000
# Label Studio sends whole tasks to these; its label config to /setup. All others are small.
LARGE_BODIES = ("/predict", "/webhook")

Door = Callable[[Request], Awaitable[None]]
"""Looks at the headers of a request; raises HTTPException where its sender may not come in."""


class _RefusedError(Exception):
    """`more`: whether the caller may still be sending."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        more: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.more = more
        self.headers = dict(headers or {})


class _Room:
    """The memory that bodies of one kind may take up together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self, size: int) -> bool:
        """Take up so many bytes; False: they do not fit."""
        if self._taken + size > self._limit:
            return False
        self._taken += size
        return True

    def free(self, size: int) -> None:
        """Give so many bytes back."""
        self._taken -= size


class BodyLimits:
    """Reads each request's body before the app sees it, and answers for the app where it may not.

    Credentials come first: of who may not come in, nothing is read. 413: larger than it may be,
    announced or found while it is read. 408: not here in time. 422: nested too deep. 503: too many
    large bodies at once. Small ones have room of their own, which large ones cannot fill.

    Args:
        app: what answers.
        max_bytes: of a body that carries tasks; others may have 2 MB, or this if it is less.
        door_of: path -> who is let in there; None: nothing there takes a body, and none is read.
        body_seconds: how long a whole body may take.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        door_of: Callable[[str], Door | None],
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._door_of = door_of
        self._body_seconds = body_seconds
        self._large = _Room(AT_ONCE * max_bytes)
        self._small = _Room(SMALL_BODIES_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other kinds of ASGI traffic pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self._small, self._large)
        try:
            if not await self._read(body, scope, receive):
                return
            whole = bytes(body.data)
            if not _is_form(scope) and await _too_deep(whole):
                line = f"body: arrays and objects nested more than {MAX_NESTING} deep: flatten them"
                raise _RefusedError(422, line, more=False)
            await self._app(scope, _replayed(whole, receive), send)
        except _RefusedError as refusal:
            body.drop()
            await _refuse(refusal, scope, receive, send)
        finally:
            body.drop()

    async def _read(self, body: _Body, scope: Scope, receive: Receive) -> bool:
        """Fill `body`; False: the caller left.

        Raises:
            _RefusedError: its sender may not come in, it is too large, too late, or too much.
        """
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        if announced.strip() in ("", "0") and "transfer-encoding" not in headers:
            return True
        door = self._door_of(scope["path"])
        if door is None:
            return True
        try:
            await door(Request(scope))
        except HTTPException as error:
            raise _RefusedError(
                error.status_code, str(error.detail), headers=error.headers
            ) from None
        large = scope["path"] in LARGE_BODIES
        limit = self._max_bytes if large else min(self._max_bytes, SMALL_BODY_BYTES)
        if announced.isdecimal() and int(announced) > limit:
            raise _too_large(limit, large=large)
        with anyio.move_on_after(self._body_seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return False
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                if len(body.data) + len(chunk) > limit:
                    raise _too_large(limit, large=large, more=more)
                body.add(chunk, more=more)
                if not more:
                    return True
        raise _RefusedError(
            408,
            f"the body of the request did not come within {self._body_seconds:g} s: send it faster",
        )


class _Body:
    """A body as it comes in. It moves to the large ones' room as soon as it is none of the small.

    Args:
        small: room for those of at most `SMALL_BODY_BYTES`.
        large: room for the others.
    """

    def __init__(self, small: _Room, large: _Room) -> None:
        self.data = bytearray()
        self._room = small
        self._large = large

    def add(self, chunk: bytes, *, more: bool) -> None:
        """Add what came.

        Raises:
            _RefusedError: (503) there is no room.
        """
        size = len(self.data)
        if self._room is not self._large and size + len(chunk) > SMALL_BODY_BYTES:
            if not self._large.take(size):
                raise _no_room(more=more)
            self._room.free(size)
            self._room = self._large
        if not self._room.take(len(chunk)):
            raise _no_room(more=more)
        self.data += chunk

    def drop(self) -> None:
        """Give its room back."""
        self._room.free(len(self.data))
        self.data.clear()


def _too_large(limit: int, *, large: bool, more: bool = True) -> _RefusedError:
    remedy = "send less at once, or raise MAX_REQUEST_MB" if large else "send less at once"
    line = f"the body of the request is larger than {limit / 1e6:g} MB: {remedy}"
    return _RefusedError(413, line, more=more)


def _is_form(scope: Scope) -> bool:
    kind = Headers(scope=scope).get("content-type", "")
    return kind.startswith(("multipart/form-data", "application/x-www-form-urlencoded"))


async def _too_deep(body: bytes) -> bool:
    if len(body) <= SMALL_BODY_BYTES:
        return nested_too_deep(body)
    # Up to a second for what is all brackets: not on the event loop.
    return await anyio.to_thread.run_sync(nested_too_deep, body)


def _no_room(*, more: bool) -> _RefusedError:
    return _RefusedError(
        503,
        "too many large requests at once: try again in a few seconds",
        more=more,
        headers={"Retry-After": "5"},
    )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, and then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(refusal: _RefusedError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and close the connection.

    What its sender has under way is thrown away for a moment first: a connection that is closed on
    unread bytes is reset, and the answer would be lost with it.
    """
    headers = {**refusal.headers, "Connection": "close"}
    answer = JSONResponse({"detail": refusal.detail}, refusal.status, headers=headers)
    start = {"type": "http.response.start", "status": refusal.status, "headers": answer.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with anyio.move_on_after(LINGER_SECONDS):
        while refusal.more:
            message = await receive()
            refusal.more = message["type"] == "http.request" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
