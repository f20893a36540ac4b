"""uvicorn's worker for gunicorn, with the doors shut that it leaves open.

gunicorn's own limits of header lines do not reach uvicorn: there, h11 refuses headers that are not
complete after 64 KiB, and what one read of the socket brought beyond.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from backend.parent import end_with_parent

HEADER_SECONDS = 10.0


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request does not begin in time.

    uvicorn times only the silence after an answer: a client that connects and says nothing, or
    a byte a minute, would keep a connection for ever. Bodies are timed by `BodyLimits`.
    """

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start()

    def data_received(self, data: bytes) -> None:
        """Stop the clock where the headers are all here; start it where new ones begin."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._patience is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        self._patience = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class HttpWorker(UvicornWorker):  # type: ignore[misc]
    """Serves HTTP and nothing else, and does not say by what."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "http": PunctualProtocol,
        "ws": "none",
        "server_header": False,
        # Streams of job events would last: cut before gunicorn (30 s) kills what is still open.
        "timeout_graceful_shutdown": 20,
    }

    def init_process(self) -> None:
        """Begin; without gunicorn's master this process would keep the port for ever."""
        end_with_parent(self.ppid)
        super().init_process()
