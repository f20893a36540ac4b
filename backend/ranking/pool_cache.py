"""Ranked pools cached in memory: the last order at once, another one in seconds.

A cheap stamp of the store, read at every call, shows whether the cache is still valid. One thread
at a time does what is slow (reading embeddings, ranking), and all threads that waited for the same
use its result.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from backend.metrics import timed
from backend.ranking.candidates import RankOptions
from backend.ranking.order import load_embeddings
from backend.ranking.ranked_pool import RankedPool, load_pool
from backend.store.annotations import AnnotationStore
from backend.store.pins import Assignments
from backend.store.pools import Stamp, pool_stamp
from backend.store.scores import Store
from backend.strategies import STRATEGIES
from backend.turnstile import Turnstile

# 100,000 tasks with 512 dims of the image and as many of its objects take up about 220 MB.
_MAX_BYTES = 2**30
_MAX_ORDERS = 16
# Scores, standing, place, mark and leader of a task, and its hash as a Python string.
_BYTES_PER_TASK = 172


@dataclass(frozen=True)
class FreshPool:
    """A pool in the order that was asked for.

    Args:
        pool: without what was labelled at `labels_read_at`.
        labels_read_at: when the worker last read which tasks are labelled.
    """

    pool: RankedPool
    labels_read_at: datetime


@dataclass(eq=False)
class _Held:
    """The cache entry of a project.

    Args:
        stamp: at which it was read.
        kept: the pool as stored.
        last: the same less what is labelled by now.
        embeddings: of its tasks; None: not needed yet, or dropped for want of room.
        orders: by strategy and weight.
    """

    stamp: Stamp
    kept: RankedPool
    last: RankedPool
    embeddings: NDArray[np.float16] | None = None
    orders: dict[tuple[str, float], RankedPool] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How much memory it takes up, about."""
        tasks = len(self.kept.columns.task_ids)
        orders = sum(pool.order.nbytes for pool in list(self.orders.values()))
        vectors = 0 if self.embeddings is None else self.embeddings.nbytes
        return _BYTES_PER_TASK * tasks + orders + vectors


class PoolCache:
    """Gives the order of a project's tasks. Thread-safe; one serves a process.

    Args:
        store: where pools, embeddings and answers are.
        max_bytes: projects that were not asked for lately make room from here on.
    """

    def __init__(self, store: Store, *, max_bytes: int = _MAX_BYTES) -> None:
        self._store = store
        self._answers = AnnotationStore(store)
        self._assignments = Assignments(store)
        self._projects: LRUCache[int, _Held] = LRUCache(max_bytes, lambda held: held.bytes)
        self._lock = threading.Lock()  # for `_projects` and `_reading`, never held for long
        self._reading: dict[int, threading.Lock] = {}
        self._ranking = Turnstile(
            "too many other orders are asked for at once: ask again in a few seconds",
            waiting=7,
            place_s=1.0,
        )

    def ranked(
        self,
        project_id: int,
        *,
        strategy: str | None = None,
        diversity_weight: float | None = None,
    ) -> FreshPool | None:
        """The open tasks of a project, in the order of the last scoring or another one.

        Pinned tasks come first in any order. The near-duplicates are those that were found when
        the last order was made.

        Args:
            project_id: the project.
            strategy: None: that of the last order.
            diversity_weight: 0..1; None: that of the last order.

        Returns:
            None: the project was never ranked.

        Raises:
            StoreError: the store cannot be read, or lacks embeddings.
            ScoreError: the embeddings cannot be ranked.
            BusyError: too many other orders are asked for at once.
        """
        held = self._current(project_id)
        if held is None:
            return None
        made = held.last.options
        options = replace(
            made,
            strategy=made.strategy if strategy is None else strategy,
            diversity_weight=(
                made.diversity_weight if diversity_weight is None else diversity_weight
            ),
        )
        if _key(options) == _key(made):
            pool = held.last
        else:
            pool = held.orders.get(_key(options)) or self._rank(held, options)
        first = self._assignments.of(project_id).first
        return FreshPool(
            replace(pool.with_pins_first(first) if first else pool, options=options),
            held.stamp.labels_read_at,
        )

    def _current(self, project_id: int) -> _Held | None:
        """The cached pool of a project, read again where the store has changed."""
        stamp = pool_stamp(self._store, project_id)
        if stamp is None:
            return None
        with self._lock:
            held = self._projects.get(project_id)
            if held is not None and held.stamp == stamp:
                held.stamp = stamp
                return held
            reading = self._reading.setdefault(project_id, threading.Lock())
        with reading:
            # A thread that waited here finds it read, unless it changed once more.
            stamp = pool_stamp(self._store, project_id)
            with self._lock:
                held = self._projects.get(project_id)
            if stamp is None or (held is not None and held.stamp == stamp):
                return held
            fresh = self._read(project_id, stamp, held)
            if fresh is not None:
                with self._lock:
                    self._hold(fresh)
            return fresh

    def _read(self, project_id: int, stamp: Stamp, before: _Held | None) -> _Held | None:
        same_pool = before is not None and before.stamp.ranked_at == stamp.ranked_at
        kept = before.kept if before and same_pool else load_pool(self._store, project_id)
        if kept is None:
            return None
        fresh = _Held(stamp, kept, kept.without(self._answers.answered_tasks(project_id)))
        if before is None:
            return fresh
        if _rows(before.kept) == _rows(kept):
            fresh.embeddings = before.embeddings
        if same_pool and np.array_equal(before.last.standing, fresh.last.standing):
            fresh.orders = before.orders
        return fresh

    def _hold(self, held: _Held) -> None:
        """Keep it at its size of now: projects used longest ago make room, then its embeddings.

        The caller holds `_lock`.
        """
        self._projects.pop(held.kept.project_id, None)
        try:
            self._projects[held.kept.project_id] = held
        except ValueError:  # too large even alone
            held.embeddings = None
            with suppress(ValueError):
                self._projects[held.kept.project_id] = held

    def _rank(self, held: _Held, options: RankOptions) -> RankedPool:
        with self._ranking.turn():  # up to 3 s each
            found = held.orders.get(_key(options))
            if found is not None:
                return found
            embeddings = self._embeddings(held) if options.spreads else None
            with timed("rank"):
                pool = held.last.ordered(options, embeddings)
            for key in list(held.orders)[: 1 - _MAX_ORDERS]:
                del held.orders[key]
            held.orders[_key(options)] = pool
        with self._lock:
            if self._projects.get(held.kept.project_id) is held:
                self._hold(held)
        return pool

    def _embeddings(self, held: _Held) -> NDArray[np.float16]:
        found = held.embeddings  # may be dropped by another thread at any time
        if found is None:
            kept = held.kept
            found = load_embeddings(
                self._store,
                kept.encoder,
                kept.detector,
                kept.columns.image_hashes,
                kept.whitenings,
            ).rows
            held.embeddings = found
        return found


def _key(options: RankOptions) -> tuple[str, float]:
    """Options of one pool that share it make the same order."""
    weighs = STRATEGIES[options.strategy].takes_weight
    return options.strategy, options.diversity_weight if weighs else 0.0


def _rows(pool: RankedPool) -> tuple[str, str, tuple[str, ...]]:
    """What decides the embeddings."""
    return pool.encoder, pool.detector, pool.columns.image_hashes
