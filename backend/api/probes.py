"""Probes that never hang: of a database that is away, of a Label Studio that is slow."""

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
    """One probe, on its own thread, at most one at a time.

    All callers share the probe that is running, or the result of one that just ended.

    Args:
        name: of the thread and in the log.
        look: the probe; may take any time.
        keep_seconds: how long its result is reused.
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
        except Exception:  # logged; those who wait get None
            logger.exception("the look at %s failed", self.name)
        self._stale_at = time.monotonic() + self._keep_seconds
        found.set_result(result)
