"""The near-duplicate groups of a pool, kept so that the next ranking compares new images only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.selection.near_duplicates import UNREAD

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class KeptGroups:
    """Who leads the N tasks of a pool, and what that was decided by.

    Args:
        task_ids: (N,) ascending.
        marks: (N,) uint64, see `marks_of`.
        leaders: (N,) int32 row number of each task's leader, its own for a leader and for a
            labelled task; UNREAD where it was not compared.
    """

    task_ids: NDArray[np.int64]
    marks: NDArray[np.uint64]
    leaders: NDArray[np.int32]

    def carried_to(
        self, task_ids: NDArray[np.int64], marks: NDArray[np.uint64]
    ) -> NDArray[np.intp]:
        """(n,) the leaders of n tasks, by ascending id, in their own row numbers.

        UNREAD where a task or its leader is new, has another mark, or was not compared.
        """
        _, now, before = np.intersect1d(
            task_ids, self.task_ids, assume_unique=True, return_indices=True
        )
        same = (marks[now] == self.marks[before]) & (self.leaders[before] != UNREAD)
        now, before = now[same], before[same]
        place = np.full(len(self.task_ids), UNREAD, dtype=np.intp)
        place[before] = now
        carried = np.full(len(task_ids), UNREAD, dtype=np.intp)
        carried[now] = place[self.leaders[before]]
        return carried


def marks_of(
    embeddings: NDArray[np.float16], utilities: NDArray[np.float64], labelled: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """(N,) a checksum of each task's row, its utility, and whether it is labelled.

    Tasks whose marks have not changed stand in the same order as before and are as near to each
    other as before. The chance that a change is missed is about 2 to the power of -60.

    Args:
        embeddings: (N, D) as compared.
        utilities: (N,) which decide the order in which rows are read.
        labelled: (N,) labelled rows are read first, whatever their utility.
    """
    places = np.where(labelled, -1.0, utilities).view(np.uint64)
    if not embeddings.size:
        return places
    factors = np.random.default_rng(0).integers(2**63, size=embeddings.shape[1], dtype=np.uint64)
    factors = factors * np.uint64(2) + np.uint64(1)
    marks: NDArray[Any] = places * np.uint64(0x9E3779B97F4A7C15)
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        bits = np.ascontiguousarray(embeddings[part]).view(np.uint16).astype(np.uint64)
        marks[part] += np.einsum("nd,d->n", bits, factors)
    return marks
