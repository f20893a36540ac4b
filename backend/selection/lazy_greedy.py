"""Exact greedy selection that computes only what it needs: the engine of `pick_diverse`.

A greedy pick asks, for every candidate and after every choice, how far the candidate is from the
nearest *reference* (an image labelled or chosen before). Distances to the nearest reference only
fall, so a distance computed some choices ago is an upper bound of today's, and a candidate whose
bound does not reach the best exact gain needs no new look. This is lazy evaluation (Minoux, 1978,
"Accelerated greedy algorithms for maximizing submodular set functions").

Two precisions keep it both fast and exact. A float32 matrix product gives a bound, widened by the
most that rounding can have done. Only a candidate about to be chosen, and those that float32
cannot tell from it, are computed exactly. Exactly means: unit rows are rounded to multiples of
2**-24, so a dot product in float64 is free of rounding, whatever order a BLAS kernel adds in. Two
identical rows therefore tie, bit for bit, wherever they stand.

Glossary: N candidates, D dims, R references.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import ScoreError

__all__ = ["COINCIDENT", "LazyGreedy", "UnitRows"]

COINCIDENT = 1e-6
"""Cosine distances below this count as 0: float32 embeddings cannot tell such images apart."""

BLOCK = 4096  # rows per block of a pass over all rows
POOL = 4096  # candidates that compete until none of them can be the best
BATCH = 256  # candidates computed in one matrix product
SURVEY = 64  # references in the first, rough pass over all candidates
GRID = 2.0**24  # unit rows are rounded to multiples of 1 / GRID

Rows = slice | NDArray[np.intp]


class UnitRows:
    """Embeddings seen as unit vectors a few at a time, so that they are never copied whole.

    Args:
        embeddings: (N, D) floats, also a memory map. Rows of any length above 0.
        name: what messages call them.

    Attributes:
        slack: how far a rough cosine may be from the exact one, at most.

    Raises:
        ScoreError: another shape or type, or a row that is zero or not finite.

    >>> UnitRows(np.array([[0.0, 2.0]])).exact(slice(None)).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, embeddings: NDArray[np.floating[Any]], name: str = "embeddings") -> None:
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] == 0:
            raise ScoreError(f"{name} must have shape (N, D) with D > 0, not {embeddings.shape}")
        if embeddings.dtype.kind != "f":
            raise ScoreError(f"{name} must be floats, not {embeddings.dtype}")
        self.embeddings = embeddings
        self.inverse_norms = np.empty(len(embeddings), dtype=np.float32)
        for rows in self.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                block = self._float32(rows)
                squares = np.einsum("nd,nd->n", block, block)
            # Beyond these bounds a square under- or overflows float32. Written so that NaN fails.
            fits = (squares > 1e-30) & (squares < 1e30)
            if not fits.all():
                bad = rows.start + int(fits.argmin())
                raise ScoreError(f"row {bad} of {name} is zero or not finite: leave that image out")
            self.inverse_norms[rows] = 1 / np.sqrt(squares)
        # In units of 2**-24 a product errs by D at most, each norm by D / 2 and each rounding to
        # the grid by sqrt(D) / 2.
        self.slack = 3 * (embeddings.shape[1] + 8) * 2.0**-24

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def dims(self) -> int:
        """D, the length of a row."""
        return int(self.embeddings.shape[1])

    def blocks(self) -> list[slice]:
        """Slices of at most `BLOCK` rows that cover all rows."""
        return [slice(start, min(start + BLOCK, len(self))) for start in range(0, len(self), BLOCK)]

    def exact(self, rows: Rows) -> NDArray[np.float32]:
        """(len(rows), D) unit rows on the grid. Their float64 dot products are without error."""
        # A copy in C order: numpy then adds up the squares of equal rows in the same order.
        block = np.array(self.embeddings[rows], dtype=np.float64, order="C")
        block /= np.sqrt((block * block).sum(axis=1, keepdims=True))
        gridded: NDArray[np.float32] = (np.rint(block * GRID) / GRID).astype(np.float32)
        return gridded

    def rough(self, rows: Rows) -> NDArray[np.float32]:
        """(len(rows), D) unit rows to float32 precision, cheaper than `exact`."""
        units: NDArray[np.float32] = self._float32(rows) * self.inverse_norms[rows, None]
        return units

    def rough_distances(self, rows: Rows, references: NDArray[np.float32]) -> NDArray[np.float64]:
        """(len(rows),) cosine distance to the nearest of (R, D) unit references, +- `slack`."""
        cosines = (self._float32(rows) @ references.T).max(axis=1) * self.inverse_norms[rows]
        distances: NDArray[np.float64] = 1 - cosines.astype(np.float64)
        return distances

    def exact_distances(self, rows: Rows, references: NDArray[np.float32]) -> NDArray[np.float64]:
        """(len(rows),) cosine distance to the nearest of (R, D) gridded references, exactly."""
        units = self.exact(rows)
        cosines = units @ references.T
        # A reference that no row finds near the nearest cannot be the nearest.
        near = cosines >= cosines.max(axis=1, keepdims=True) - self.slack
        rivals = references[near.any(axis=0)].astype(np.float64)
        distances: NDArray[np.float64] = 1 - (units.astype(np.float64) @ rivals.T).max(axis=1)
        distances[distances < COINCIDENT] = 0
        return distances

    def _float32(self, rows: Rows) -> NDArray[np.float32]:
        return np.asarray(self.embeddings[rows], dtype=np.float32)


class LazyGreedy:
    """The candidates of a greedy pick, each with an upper bound of its gain.

    gain = weight * distance to the nearest reference. Call `best`, then `take` what it returned,
    as often as picks are wanted.

    Args:
        rows: the N candidates.
        weights: (N,) at least 0.
        priority: (N,) a permutation of 0..N-1. Of candidates with equal gains the lowest wins.
        references: (R, D) gridded unit rows that count as chosen from the start, R > 0.
        picks: how many calls of `take` there will be, at most.
        eligible: (N,) which candidates may be chosen.
    """

    def __init__(
        self,
        rows: UnitRows,
        *,
        weights: NDArray[np.float64],
        priority: NDArray[np.intp],
        references: NDArray[np.float32],
        picks: int,
        eligible: NDArray[np.bool_],
    ) -> None:
        self.rows = rows
        self.weights = weights
        self.priority = priority
        self.count = len(references)
        self.references = np.empty((self.count + picks, rows.dims), dtype=np.float32)
        self.references[: self.count] = references
        # Each candidate: the distance it can have at most, the number of references that this
        # takes into account, and whether it is exact for those.
        self.reach = np.empty(len(rows))
        self.seen = np.zeros(len(rows), dtype=np.int32)
        self.settled = np.zeros(len(rows), dtype=np.bool_)
        some = references[:: -(-len(references) // SURVEY)]
        for block in rows.blocks():
            self.reach[block] = rows.rough_distances(block, some) + rows.slack
        self.bounds = np.where(eligible, weights * self.reach, -1.0)
        self._fill_pool()

    def best(self) -> tuple[int, float]:
        """The candidate with the highest gain, and the gain; (-1, 0.0) when all gains are 0."""
        while True:
            bounds = self.bounds[self.pool]
            # The pool is sorted by priority, and argmax returns the first of equals.
            place = int(bounds.argmax())
            top = self.pool[place]
            if (-bounds[place], self.priority[top]) >= self.outside:
                self._fill_pool()
            elif bounds[place] <= 0:
                return -1, 0.0
            elif self.seen[top] < self.count:
                # Candidates staler than the top would make the product longer: they wait.
                stale = (self.seen[self.pool] < self.count) & (
                    self.seen[self.pool] >= self.seen[top]
                )
                self._refresh(self._leaders(bounds, stale))
            elif not self.settled[top]:
                least = self.weights[top] * (self.reach[top] - 2 * self.rows.slack)
                rivals = (bounds >= least) & (self.seen[self.pool] == self.count)
                self._settle(self._leaders(bounds, rivals & ~self.settled[self.pool]))
            else:
                return int(top), float(bounds[place])

    def take(self, row: int) -> None:
        """Choose candidate `row`: from now on it is a reference."""
        self.references[self.count] = self.rows.exact(np.array([row]))[0]
        self.count += 1
        self.bounds[row] = -1.0

    def _fill_pool(self) -> None:
        """Let the `POOL` highest bounds compete; note the best bound left outside."""
        size = min(POOL, len(self.bounds))
        least = np.partition(self.bounds, -size)[-size]
        above = np.flatnonzero(self.bounds > least)
        tied = np.flatnonzero(self.bounds == least)
        tied = tied[np.argsort(self.priority[tied])]
        room = size - len(above)
        pool = np.concatenate([above, tied[:room]])
        self.pool = pool[np.argsort(self.priority[pool])]
        # Compared as (-bound, priority); past the last priority where no tie was left outside.
        self.outside = (
            -float(least),
            int(self.priority[tied[room]]) if room < len(tied) else len(self.bounds),
        )

    def _leaders(self, bounds: NDArray[np.float64], among: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The up to `BATCH` highest bounds above 0 of those of the pool that are marked."""
        places = np.flatnonzero(among & (bounds > 0))
        if len(places) > BATCH:
            places = places[np.argpartition(bounds[places], -BATCH)[-BATCH:]]
        leaders: NDArray[np.intp] = self.pool[places]
        return leaders

    def _refresh(self, batch: NDArray[np.intp]) -> None:
        """Lower the bounds of `batch` by the references it has not seen."""
        unseen = self.references[self.seen[batch].min() : self.count]
        distances = self.rows.rough_distances(batch, unseen)
        old = self.reach[batch]
        # An exact distance stays exact where no new reference can be nearer.
        self.settled[batch] &= distances - self.rows.slack >= old
        self.reach[batch] = np.minimum(old, distances + self.rows.slack)
        self.seen[batch] = self.count
        self.bounds[batch] = self.weights[batch] * self.reach[batch]

    def _settle(self, batch: NDArray[np.intp]) -> None:
        """Replace the bounds of `batch` by the exact gains."""
        self.reach[batch] = self.rows.exact_distances(batch, self.references[: self.count])
        self.settled[batch] = True
        self.bounds[batch] = self.weights[batch] * self.reach[batch]
