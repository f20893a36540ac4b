"""Lets few callers at a time do what is slow, a few more wait, and refuses the others at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backend.errors import BusyError


class Turnstile:
    """Requests that wait hold a thread that others need: so only so many may.

    Args:
        busy: the line for those who are refused.
        inside: how many may be inside at a time.
        waiting: how many more may wait.
        place_s: how long one waits for a place among those, in seconds.
        turn_s: how long one waits there until it may go in; None: as long as it takes.
    """

    def __init__(
        self,
        busy: str,
        *,
        inside: int = 1,
        waiting: int = 0,
        place_s: float = 0.0,
        turn_s: float | None = None,
    ) -> None:
        self._busy = busy
        self._place_s = place_s
        self._turn_s = turn_s
        self._places = threading.BoundedSemaphore(inside + waiting)
        self._turns = threading.BoundedSemaphore(inside)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be inside for as long as the block lasts.

        Raises:
            BusyError: too many others are there.
        """
        with (
            self._acquired(self._places, self._place_s),
            self._acquired(self._turns, self._turn_s),
        ):
            yield

    @contextmanager
    def _acquired(
        self, semaphore: threading.BoundedSemaphore, seconds: float | None
    ) -> Iterator[None]:
        if not semaphore.acquire(timeout=seconds):
            raise BusyError(self._busy)
        try:
            yield
        finally:
            semaphore.release()
