"""Small pictures of scored tasks: made once, kept on disk and, the recent ones, in memory."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from cachetools import LRUCache

from backend.images.cache import ImageCache
from backend.images.source import ImageSource
from backend.settings import Settings
from backend.store.scores import Store
from backend.store.task_images import TaskImage, task_image
from backend.vision.picture import decode, thumbnail

LONG_SIDE = 256  # pixels
DISK_BYTES = 512_000_000
MEMORY_BYTES = 64_000_000

# How long a thumbnail is served from memory before the store is asked whether it is current.
FRESH_S = 60.0

# What one wait for Label Studio may take, and a whole picture with its turn.
_FETCH_S = 5.0
LIMIT_S = 10.0
_AT_ONCE = 4


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG whose longer side is at most `LONG_SIDE` pixels; `digest` is its own SHA-256."""

    image: TaskImage
    jpeg: bytes
    digest: str

    @classmethod
    def of(cls, image: TaskImage, jpeg: bytes) -> Thumbnail:
        """With its digest."""
        return cls(image, jpeg, hashlib.sha256(jpeg).hexdigest())


class Thumbnails:
    """The thumbnails of all scored tasks. Thread-safe.

    Args:
        store: has the image of each task.
        source: where images come from.
        cache: where thumbnails are kept on disk.
        memory_bytes: how large those in memory may be together.
        clock: seconds, ascending; for tests.
    """

    def __init__(
        self,
        store: Store,
        source: ImageSource,
        cache: ImageCache,
        *,
        memory_bytes: int = MEMORY_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._source = source
        self._cache = cache
        # By task: the thumbnail, and when it was last checked against the store.
        self._memory: LRUCache[int, tuple[Thumbnail, float]] = LRUCache(
            memory_bytes, lambda kept: len(kept[0].jpeg)
        )
        self._clock = clock
        self._lock = threading.Lock()
        self._decoding = threading.Lock()
        self._under_way: dict[TaskImage, Future[Thumbnail]] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="thumbnail")

    @classmethod
    def from_settings(cls, settings: Settings, store: Store) -> Thumbnails:
        """Thumbnails under DATA_DIR; images are fetched as for scoring, with shorter time limits.

        Raises:
            AccessError: the token cannot work.
        """
        source = ImageSource.from_settings(settings, timeout=_FETCH_S, retries=0)
        return cls(store, source, _cache_of(settings))

    def close(self) -> None:
        """Drop what waits, and close the connections to where images are."""
        self._pool.shutdown(cancel_futures=True)
        self._source.close()

    def recent(self, task_id: int) -> Thumbnail | None:
        """The task's thumbnail if it is in memory and was checked in the last `FRESH_S` seconds.

        Touches neither disk nor store.
        """
        found, checked_at = self._remembered(task_id)
        return found if checked_at >= self._clock() - FRESH_S else None

    def find(self, task_id: int) -> TaskImage | None:
        """What a task shows by its last scoring; None: it was never scored.

        Raises:
            StoreError: the store failed.
        """
        return task_image(self._store, task_id)

    def kept(self, image: TaskImage) -> Thumbnail | None:
        """The thumbnail from memory or disk; None: it is to be made."""
        now = self._clock()
        found, _ = self._remembered(image.task_id)
        if found is None or found.image != image:
            jpeg = self._cache.get(_key(image))
            if jpeg is None:
                return None
            found = Thumbnail.of(image, jpeg)
        self._remember(found, now)
        return found

    def make(self, image: TaskImage) -> Future[Thumbnail]:
        """Fetch and decode the image on another thread; all who ask meanwhile get the same.

        A fetch that has not begun after `LIMIT_S` seconds is given up: nobody waits any more.

        Raises:
            ImageError: (from the result) the image cannot be had or decoded.
            LabelStudioError: (likewise) Label Studio does not answer, or refuses the token.
            TimeoutError: (likewise) it was given up.
        """
        with self._lock:
            under_way = self._under_way.get(image)
            if under_way is None:
                under_way = self._pool.submit(self._make, image, self._clock() + LIMIT_S)
                self._under_way[image] = under_way
                under_way.add_done_callback(lambda _: self._under_way.pop(image, None))
        return under_way

    def _make(self, image: TaskImage, give_up_at: float) -> Thumbnail:
        now = self._clock()
        if now > give_up_at:
            raise TimeoutError
        content = self._source.fetch(image.image_uri, task_id=image.task_id)
        # One at a time: a hundred million pixels of a PNG are 300 MB.
        with self._decoding:
            jpeg = thumbnail(decode(content, long_side=LONG_SIDE), LONG_SIDE)
        self._cache.put(_key(image), jpeg)
        found = Thumbnail.of(image, jpeg)
        self._remember(found, now)
        return found

    def _remembered(self, task_id: int) -> tuple[Thumbnail | None, float]:
        with self._lock:
            return self._memory.get(task_id, (None, 0.0))

    def _remember(self, found: Thumbnail, checked_at: float) -> None:
        with self._lock:
            self._memory.pop(found.image.task_id, None)
            with suppress(ValueError):  # larger than all of the memory
                self._memory[found.image.task_id] = (found, checked_at)


def drop_thumbnail(settings: Settings, image: TaskImage) -> None:
    """Keep the thumbnail of an image on disk no longer."""
    _cache_of(settings).drop(_key(image))


def _cache_of(settings: Settings) -> ImageCache:
    # They are images too: never more of them than IMAGE_CACHE_MB allows.
    limit = min(DISK_BYTES, settings.image_cache_mb * 1_000_000)
    return ImageCache(settings.data_dir / "thumbnails", limit)


def _key(image: TaskImage) -> str:
    # The file may have changed since it was scored: its hash alone would be no key.
    return f"{image.image_hash} {image.image_uri}"
