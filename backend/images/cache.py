"""A folder of downloaded images, bounded in size: the least recently used ones go first.

Written for several threads and processes at once: entries appear by an atomic rename, and a file
that vanishes under a reader is a miss. A full or read-only disk costs the cache, never the image.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger(__name__)

# Evicting a little more than needed keeps the folder from being listed at every write.
KEEP_SHARE = 0.9


class ImageCache:
    """Bytes by key, on disk.

    Args:
        folder: where; made at the first write.
        limit_bytes: how large all entries together may get; 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._size: int | None = None
        self._warned = False

    def get(self, key: str) -> bytes | None:
        """The bytes kept under `key`; None: none are."""
        if self._limit <= 0:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if not content:  # a power cut can leave a name without its bytes
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # not left to the file system: many are mounted without access times
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep `content` under `key`. Never fails: at worst nothing is kept."""
        if not content or len(content) > self._limit * KEEP_SHARE:
            return
        path = self._path(key)
        part = path.with_name(f".{uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            self._warn(error)
            return
        with self._lock:
            if self._size is not None:
                self._size += len(content)
            if self._size is None or self._size > self._limit:
                self._size = self._evict()

    def drop(self, key: str) -> None:
        """Keep nothing under `key`."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / name[:2] / name

    def _evict(self) -> int:
        """Delete the least recently used entries until the rest fits; returns its size in bytes.

        The folder is measured each time: other processes write to it too.
        """
        entries = sorted(self._entries())
        size = sum(length for _, length, _ in entries)
        if size <= self._limit:
            return size
        for _, length, path in entries:
            if size <= self._limit * KEEP_SHARE:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            size -= length
        return size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(last use in seconds, bytes, path) of every file, half-written ones included."""
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path

    def _warn(self, error: OSError) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            logger.warning(
                "Images are not cached in %s (%s): free some space, or set IMAGE_CACHE_MB",
                self._folder,
                error.strerror or error,
            )
