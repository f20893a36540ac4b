"""Files that are there whole or not at all, and how a full disk shows."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# No space, over the user's quota, over the largest file allowed.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


# How SQLite and PostgreSQL say it.
_SAID = ("database or disk is full", "no space left on device", "disk quota exceeded")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that nothing more can be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error).lower() for words in _SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a killed process, or a full disk, leaves the old one or none.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
