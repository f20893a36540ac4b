"""The engine of `backend.diversity`: greedy selection and leader clustering, exact but lazy.

Greedy selection
----------------
A greedy pick asks, for every candidate and after every choice, how far the candidate is from the
nearest *reference* (an image labelled or chosen before). Distances to the nearest reference only
fall, so a distance computed some choices ago is an upper bound of today's, and a candidate whose
bound does not reach the best exact gain needs no new look. This is lazy evaluation (Minoux, 1978,
"Accelerated greedy algorithms for maximizing submodular set functions").

Two precisions keep it both fast and exact. A float32 matrix product gives a bound, widened by the
most that rounding can have done. Only a candidate about to be chosen, and those that float32
cannot tell from it, are computed exactly. Exactly means: unit rows are rounded to multiples of
2**-24, so every product and sum of a dot product is a float64 without rounding, whatever order a
BLAS kernel adds in. Two identical rows therefore tie, bit for bit, wherever they stand.

Leader clustering
-----------------
Every row is compared with every leader, but first in about 64 dims instead of all D. With P the
projection of unit rows x, y onto a few orthonormal directions, Cauchy and Schwarz bound the rest:

    x.y <= Px.Py + sqrt(1 - |Px|^2) sqrt(1 - |Py|^2)

so a pair whose right side is below the threshold needs no full comparison, and no near pair is
missed. The directions are the principal ones of the data, where the bound is tightest.

Glossary: N rows, D dims, R references, L leaders, d dims of a sketch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import ScoreError

__all__ = ["COINCIDENT", "LazyGreedy", "UnitRows", "find_leaders"]

COINCIDENT = 1e-6
"""Cosine distances below this count as 0: float32 embeddings cannot tell such images apart."""

BLOCK = 4096  # rows per block of a pass over all rows
POOL = 4096  # candidates that compete until none of them can be the best
BATCH = 256  # candidates computed in one matrix product
SURVEY = 64  # references in the first, rough pass over all candidates
GRID = 2.0**24  # unit rows are rounded to multiples of 1 / GRID
READ = 1024  # rows compared with all leaders in one go
TILE = 4096  # leaders per matrix product: the product should stay in the cache
SAMPLE = 1024  # rows that choose the sketch, and as many that check it
WASTE = 1e-4  # share of far pairs that a sketch may fail to rule out

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

    >>> UnitRows(np.array([[3.0, 4.0]], dtype=np.float32)).exact(slice(None)).round(4).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, embeddings: NDArray[np.floating[Any]], name: str = "embeddings") -> None:
        embeddings = np.asanyarray(embeddings)
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
        block = self.embeddings[rows].astype(np.float64)
        block /= np.sqrt((block * block).sum(axis=1, keepdims=True))
        gridded: NDArray[np.float32] = (np.rint(block * GRID) / GRID).astype(np.float32)
        return gridded

    def rough(self, rows: Rows) -> NDArray[np.float32]:
        """(len(rows), D) unit rows to float32 precision, cheaper than `exact`."""
        return self._float32(rows) * self.inverse_norms[rows, None]

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
        distances = 1 - (units.astype(np.float64) @ rivals.T).max(axis=1)
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
        eligible: (N,) which candidates may be chosen; all where None.
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
                self._refresh(self._leaders(bounds, stale, place))
            elif not self.settled[top]:
                least = self.weights[top] * (self.reach[top] - 2 * self.rows.slack)
                rivals = (bounds >= least) & (self.seen[self.pool] == self.count)
                self._settle(self._leaders(bounds, rivals & ~self.settled[self.pool], place))
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

    def _leaders(
        self, bounds: NDArray[np.float64], among: NDArray[np.bool_], top: int
    ) -> NDArray[np.intp]:
        """The `BATCH` highest bounds of the pool `among` those marked; `top` always."""
        ranked = np.where(among & (bounds > 0), bounds, -np.inf)
        ranked[top] = np.inf
        if len(ranked) > BATCH:
            places = np.argpartition(ranked, -BATCH)[-BATCH:]
        else:
            places = np.arange(len(ranked))
        leaders: NDArray[np.intp] = self.pool[places[ranked[places] > 0]]
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


class _Sketch:
    """Short vectors whose dot product is at least the cosine of the rows they stand for.

    Args:
        rows: what to choose the directions from.
        limit: the cosine from which pairs are near.
    """

    def __init__(self, rows: UnitRows, limit: float) -> None:
        self.slack = rows.slack
        self.limit = limit
        self.basis = self._choose_basis(rows)

    def of(self, units: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d + 1) sketches of (n, D) unit rows, or the rows where no sketch pays."""
        return units if self.basis is None else self._project(units, self.basis)

    def may_be_near(
        self, sketches: NDArray[np.float32], others: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """(n, m) False for the pairs of n and m sketches that cannot be near."""
        return sketches @ others.T >= self.limit - self.slack

    def _choose_basis(self, rows: UnitRows) -> NDArray[np.float32] | None:
        if len(rows) < 4 * SAMPLE:
            return None
        spread = np.linspace(0, len(rows) - 1, 2 * SAMPLE).astype(np.intp)
        fit, check = rows.rough(spread[::2]), rows.rough(spread[1::2])
        # The bound needs a basis without a singular value above 1: shrink rounding away.
        directions = np.linalg.eigh(fit.T @ fit)[1][:, ::-1] * np.float32(1 - 1e-5)
        far = ~self.may_be_near(check, check)
        for dims in (16, 32, 48, 64, 96, 128, 192, 256):
            if dims > rows.dims // 2:
                break
            basis = np.ascontiguousarray(directions[:, :dims])
            sketches = self._project(check, basis)
            if (far & self.may_be_near(sketches, sketches)).mean() <= WASTE:
                return basis
        return None

    def _project(
        self, units: NDArray[np.float32], basis: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        inside = units @ basis
        outside = np.maximum(1 - np.einsum("nd,nd->n", inside, inside), 0) + self.slack
        return np.column_stack([inside, np.sqrt(outside)])


class _Leaders:
    """A growing list of leaders: row numbers of `rows`, with their sketches."""

    def __init__(self, rows: UnitRows, sketch: _Sketch, capacity: int) -> None:
        self.rows = rows
        self.sketch = sketch
        dims = rows.dims if sketch.basis is None else sketch.basis.shape[1] + 1
        # Only what is written takes up memory.
        self.sketches = np.empty((capacity, dims), dtype=np.float32)
        self.indices = np.empty(capacity, dtype=np.intp)
        self.count = 0

    def extend(self, indices: NDArray[np.intp], sketches: NDArray[np.float32]) -> None:
        end = self.count + len(indices)
        self.sketches[self.count : end] = sketches
        self.indices[self.count : end] = indices
        self.count = end

    def first_near(
        self, rows: UnitRows, members: NDArray[np.intp], sketches: NDArray[np.float32]
    ) -> NDArray[np.intp]:
        """(n,) for each of n `members` of `rows` the index of the first leader near it, or -1."""
        leaders = np.full(len(members), -1, dtype=np.intp)
        pending = np.arange(len(members))
        for start in range(0, self.count, TILE):
            tile = slice(start, min(start + TILE, self.count))
            maybe = self.sketch.may_be_near(sketches[pending], self.sketches[tile])
            # Flat, since nonzero in two dimensions is several times slower.
            at, which = np.divmod(np.flatnonzero(maybe), maybe.shape[1])
            near = _near(
                rows, members[pending[at]], self.rows, self.indices[tile][which], self.sketch.limit
            )
            # Pairs stand in the order of members, then leaders: the first of each member counts.
            at, first = np.unique(at[near], return_index=True)
            leaders[pending[at]] = self.indices[tile][which[near][first]]
            pending = pending[leaders[pending] < 0]
            if not pending.size:
                break
        return leaders


def find_leaders(
    rows: UnitRows,
    order: NDArray[np.intp],
    *,
    threshold: float,
    labelled: UnitRows | None = None,
) -> NDArray[np.intp]:
    """Read rows in `order`: each joins the first leader near it, or becomes a leader.

    Args:
        rows: (N, D).
        order: (n,) the row numbers to read.
        threshold: the cosine from which two rows are near.
        labelled: (M, D) rows that lead from the start and stand before all others.

    Returns:
        (n,) for each row read the row number of its leader, or -1 - m for labelled row m.
    """
    sketch = _Sketch(rows, threshold - COINCIDENT)
    leaders = _Leaders(rows, sketch, len(order))
    fixed = _Leaders(labelled or rows, sketch, len(labelled or ()))
    for block in labelled.blocks() if labelled else ():
        fixed.extend(np.arange(block.start, block.stop), sketch.of(labelled.rough(block)))
    led = np.empty(len(order), dtype=np.intp)
    for start in range(0, len(order), READ):
        members = order[start : start + READ]
        sketches = sketch.of(rows.rough(members))
        found = fixed.first_near(rows, members, sketches)
        result = np.where(found >= 0, -1 - found, len(rows))
        rest = np.flatnonzero(found < 0)
        found = leaders.first_near(rows, members[rest], sketches[rest])
        result[rest[found >= 0]] = found[found >= 0]
        rest = rest[found < 0]
        result[rest] = _lead_each_other(rows, members[rest], sketches[rest], sketch)
        new = rest[result[rest] == members[rest]]
        leaders.extend(members[new], sketches[new])
        led[start : start + READ] = result
    return led


def _lead_each_other(
    rows: UnitRows, members: NDArray[np.intp], sketches: NDArray[np.float32], sketch: _Sketch
) -> NDArray[np.intp]:
    """(n,) the leader of each of n `members` that are near no leader yet."""
    maybe = np.triu(sketch.may_be_near(sketches, sketches), k=1)
    result = members.copy()
    free = np.ones(len(members), dtype=np.bool_)
    for leader in np.flatnonzero(maybe.any(axis=1)):
        if not free[leader]:
            continue
        others = np.flatnonzero(maybe[leader] & free)
        near = others[
            _near(rows, members[others], rows, np.full(len(others), members[leader]), sketch.limit)
        ]
        result[near] = members[leader]
        free[near] = False
    return result


def _near(
    rows: UnitRows,
    members: NDArray[np.intp],
    others: UnitRows,
    leaders: NDArray[np.intp],
    limit: float,
) -> NDArray[np.bool_]:
    """(n,) whether the cosine of each of n pairs reaches `limit`, exactly."""
    near = np.empty(len(members), dtype=np.bool_)
    for start in range(0, len(members), BLOCK):
        a, b = members[start : start + BLOCK], leaders[start : start + BLOCK]
        cosines = np.einsum("nd,nd->n", rows.rough(a), others.rough(b)).astype(np.float64)
        close = np.flatnonzero(abs(cosines - limit) <= rows.slack)
        cosines[close] = np.einsum(
            "nd,nd->n",
            rows.exact(a[close]).astype(np.float64),
            others.exact(b[close]).astype(np.float64),
        )
        near[start : start + BLOCK] = cosines >= limit
    return near
