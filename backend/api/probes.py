"""Asking what may hang, without hanging: a database that is away, a Label Studio that is slow."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from backend.errors import HardestFirstError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Probe(Generic[T]):
    """One look at something, on a thread of its own, at most one at a time.

    However many ask, they share a look that is under way, or one that ended a moment ago.

    Args:
        name: of the thread and in the log.
        look: what is asked; may take however long it likes.
        keep_seconds: how long what it found is given out.
    """

    def __init__(self, name: str, look: Callable[[], T], *, keep_seconds: float) -> None:
        self.name = name
        self._look = look
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._found: Future[T | None] | None = None
        self._stale_at = 0.0

    async def answer(self, limit_seconds: float) -> T | None:
        """What the look found; None where it failed, or did not end within the limit."""
        found = asyncio.wrap_future(self._current())
        # Not wait_for, which would cancel the look under the others that wait for it.
        await asyncio.wait({found}, timeout=limit_seconds)
        return found.result() if found.done() else None

    def _current(self) -> Future[T | None]:
        with self._lock:
            found = self._found
            if found is None or (found.done() and time.monotonic() > self._stale_at):
                found = self._found = Future()
                # A daemon: one that hangs must not keep the process from ending.
                threading.Thread(
                    target=self._run, args=(found,), name=f"probe-{self.name}", daemon=True
                ).start()
            return found

    def _run(self, found: Future[T | None]) -> None:
        result: T | None = None
        try:
            result = self._look()
        except HardestFirstError as error:
            logger.warning("the look at %s failed: %s", self.name, error)
        except Exception:  # whoever waits must hear of it
            logger.exception("the look at %s failed", self.name)
        self._stale_at = time.monotonic() + self._keep_seconds
        found.set_result(result)
