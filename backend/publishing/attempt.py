"""What a job that sends predictions shares with the attempts before and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.progress import Progress, silent


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Attempt:
    """One attempt at sending predictions. Killed at any point, the next one takes it up.

    Args:
        sent_before: the version that an earlier attempt sent or began; "" for none.
        on_version: called with a version before it is sent.
        hold: called before what cannot be taken back; raises if another process has taken over the
            job.
        on_progress: see `backend.progress`.
    """

    sent_before: str = ""
    on_version: Callable[[str], None] = _nothing
    hold: Callable[[], None] = _nothing
    on_progress: Progress = silent
