"""How much a request may send, and for how long."""

from __future__ import annotations

import anyio
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Label Studio gives /predict 100 s in all.
BODY_SECONDS = 60.0
LINGER_SECONDS = 2.0
# All bodies that are held at once, in largest bodies: what bounds the memory they take.
AT_ONCE = 4
SMALL_BODY_BYTES = 2_000_000
# Label Studio sends whole tasks to these; its label config to /setup. All others are small.
LARGE_BODIES = ("/predict", "/webhook")


class _RefusedError(Exception):
    """`more`: whether the caller may still be sending."""

    def __init__(self, status: int, detail: str, *, more: bool = True) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.more = more


class BodyLimits:
    """Reads each request's body before the app sees it, and answers for the app where it may not.

    413: larger than it may be, announced or found while it is read. 408: not here in time. 503: too
    many large bodies at once. Nothing is read of a body that is announced as too large.

    Args:
        app: what answers.
        max_bytes: of a body that carries tasks; others may have 2 MB, or this if it is less.
        body_seconds: how long a whole body may take.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._body_seconds = body_seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other kinds of ASGI traffic pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        large = scope["path"] in LARGE_BODIES
        limit = self._max_bytes if large else min(self._max_bytes, SMALL_BODY_BYTES)
        body = bytearray()
        try:
            if not await self._read(body, scope, receive, limit, large):
                return
        except _RefusedError as refusal:
            self._held -= len(body)
            body.clear()
            await _refuse(refusal, scope, receive, send)
            return
        try:
            await self._app(scope, _replayed(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    async def _read(
        self, body: bytearray, scope: Scope, receive: Receive, limit: int, large: bool
    ) -> bool:
        """Fill `body`; False: the caller left.

        Raises:
            _RefusedError: it is too large, too late, or too much at once.
        """
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal():
            self._check(int(announced), int(announced), limit, large)
        with anyio.move_on_after(self._body_seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    self._held -= len(body)
                    return False
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                self._check(len(body) + len(chunk), len(chunk), limit, large, more=more)
                body += chunk
                self._held += len(chunk)
                if not more:
                    return True
        raise _RefusedError(
            408,
            f"the body of the request did not come within {self._body_seconds:g} s: send it faster",
        )

    def _check(self, size: int, new: int, limit: int, large: bool, *, more: bool = True) -> None:
        if size > limit:
            remedy = "send less at once, or raise MAX_REQUEST_MB" if large else "send less at once"
            raise _RefusedError(
                413,
                f"the body of the request is larger than {limit / 1e6:g} MB: {remedy}",
                more=more,
            )
        if self._held + new > AT_ONCE * self._max_bytes:
            raise _RefusedError(
                503, "too many large requests at once: try again in a few seconds", more=more
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
    headers = {"Connection": "close"}
    if refusal.status == 503:
        headers["Retry-After"] = "5"
    answer = JSONResponse({"detail": refusal.detail}, refusal.status, headers=headers)
    start = {"type": "http.response.start", "status": refusal.status, "headers": answer.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with anyio.move_on_after(LINGER_SECONDS):
        while refusal.more:
            message = await receive()
            refusal.more = message["type"] == "http.request" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
