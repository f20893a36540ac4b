"""How slow work reports its progress: to a terminal, a job's record, or nobody."""

from __future__ import annotations

from collections.abc import Callable

# (what is done, how much of it is done, how much there is)
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""
