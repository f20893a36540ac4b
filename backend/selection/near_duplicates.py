"""Leader clustering that misses no near pair: the engine of `near_duplicate_groups`.

Every row is compared with every leader, but first in a few dozen dims instead of all D. With P the
projection of unit rows x and y onto a few orthonormal directions, Cauchy and Schwarz bound what
the projection leaves out:

    x.y <= Px.Py + sqrt(1 - |Px|^2) sqrt(1 - |Py|^2)

so a pair whose right side is below the threshold needs no full comparison. The directions are the
principal ones of the data, where the bound is tightest, and as many as the data need.

Where the leaders of an earlier call are known, a row is compared with what has changed alone. Let
the rows that both calls read stand in the same order. A row's earlier leader is the first among
those leaders that it is near. Where that one leads still, only a new leader can come before it.

Glossary: N rows, M labelled rows, D dims, d dims of a sketch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.selection.lazy_greedy import BLOCK, COINCIDENT, UnitRows

__all__ = ["UNREAD", "find_leaders"]

UNREAD = np.iinfo(np.int32).max
"""In place of a leader: that of this row is not known."""

READ = 2048  # rows compared with all leaders in one go
TILE = 1024  # leaders per matrix product, so that the product stays in the cache
SAMPLE = 1024  # rows that choose the sketch, and as many that check it
WASTE = 1e-4  # share of far pairs that a sketch may fail to rule out


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
    earlier: NDArray[np.intp] | None = None,
    new_labelled: NDArray[np.bool_] | None = None,
) -> NDArray[np.intp]:
    """Read rows in `order`: each joins the first leader near it, or becomes a leader.

    What is known from an earlier call changes the time that it takes and nothing else.

    Args:
        rows: (N, D).
        order: (n,) the row numbers to read.
        threshold: the cosine from which two rows are near.
        labelled: (M, D) rows that lead from the start and stand before all others.
        earlier: (N,) what an earlier call with this threshold returned for each row, in the row
            numbers of this call; UNREAD for rows that it did not read, that have changed since or
            whose leader is gone. The others, and labelled rows, stand in the order of that call.
        new_labelled: (M,) the labelled rows that the earlier call did not have as they are.

    Returns:
        (n,) for each row read the row number of its leader, or -1 - m for labelled row m.
    """
    sketch = _Sketch(rows, threshold - COINCIDENT)
    first = np.full(len(rows), UNREAD, dtype=np.intp) if earlier is None else earlier
    fixed = _fixed(labelled, None, rows, sketch)
    new_fixed = _fixed(labelled, new_labelled, rows, sketch)
    leaders = _Leaders(rows, sketch, len(order))
    new_leaders = _Leaders(rows, sketch, len(order))
    place = np.empty(len(rows), dtype=np.intp)
    place[order] = np.arange(len(order))
    leads = np.zeros(len(rows), dtype=np.bool_)
    led = np.empty(len(order), dtype=np.intp)
    for start in range(0, len(order), READ):
        members = order[start : start + READ]
        sketches = sketch.of(rows.rough(members))
        hints = first[members]
        inside = (hints >= 0) & (hints != UNREAD)
        # Led by a row that is read from here on, itself perhaps: near no earlier leader of before.
        ahead = inside.copy()
        ahead[inside] = place[hints[inside]] >= start
        sure = (hints < 0) | ahead
        stay = inside & ~ahead
        sure[stay] = leads[hints[stay]]
        result = np.where(sure & ~ahead, hints, len(rows))
        for known, among, others in ((~sure, fixed, leaders), (sure, new_fixed, new_leaders)):
            _join_first(
                rows, np.flatnonzero(known), members, sketches, among, others, result, place
            )
        rest = np.flatnonzero(result == len(rows))
        result[rest] = _lead_each_other(
            rows, members[rest], sketches[rest], sketch, hints[rest] != members[rest]
        )
        new = rest[result[rest] == members[rest]]
        leads[members[new]] = True
        leaders.extend(members[new], sketches[new])
        new = new[hints[new] != members[new]]
        new_leaders.extend(members[new], sketches[new])
        led[start : start + READ] = result
    return led


def _fixed(
    labelled: UnitRows | None, which: NDArray[np.bool_] | None, rows: UnitRows, sketch: _Sketch
) -> _Leaders:
    """The labelled rows as leaders: all of them, or those marked in `which`."""
    fixed = _Leaders(labelled or rows, sketch, len(labelled or ()))
    if labelled:
        for block in labelled.blocks():
            chosen = np.arange(block.start, block.stop)
            chosen = chosen if which is None else chosen[which[block]]
            fixed.extend(chosen, sketch.of(labelled.rough(chosen)))
    return fixed


def _join_first(
    rows: UnitRows,
    at: NDArray[np.intp],
    members: NDArray[np.intp],
    sketches: NDArray[np.float32],
    fixed: _Leaders,
    leaders: _Leaders,
    result: NDArray[np.intp],
    place: NDArray[np.intp],
) -> None:
    """Put those of `members` that `at` names to a leader near them before the one of `result`."""
    found = fixed.first_near(rows, members[at], sketches[at])
    better = found >= 0
    # A labelled row stands before all rows that are not, and the first of two before the other.
    result[at[better]] = np.where(
        result[at[better]] < 0,
        np.maximum(result[at[better]], -1 - found[better]),
        -1 - found[better],
    )
    at = at[result[at] >= 0]
    found = leaders.first_near(rows, members[at], sketches[at])
    at, found = at[found >= 0], found[found >= 0]
    before = result[at]
    open_yet = before == len(rows)
    earlier = open_yet.copy()
    earlier[~open_yet] = place[found[~open_yet]] < place[before[~open_yet]]
    result[at[earlier]] = found[earlier]


def _lead_each_other(
    rows: UnitRows,
    members: NDArray[np.intp],
    sketches: NDArray[np.float32],
    sketch: _Sketch,
    unsure: NDArray[np.bool_],
) -> NDArray[np.intp]:
    """(n,) the leader of each of n `members` that are near no leader yet.

    Only a pair of which at least one is `unsure`, (n,), can be near.
    """
    result = members.copy()
    if not unsure.all():
        maybe = sketch.may_be_near(sketches[unsure], sketches)
        some = np.flatnonzero(unsure | maybe.any(axis=0))
        if len(some) < len(members):
            everyone = np.ones(len(some), dtype=np.bool_)
            result[some] = _lead_each_other(rows, members[some], sketches[some], sketch, everyone)
            return result
    maybe = np.triu(sketch.may_be_near(sketches, sketches), k=1)
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
