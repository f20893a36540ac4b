"""From utilities and embeddings to an order: useful images first, no two of them alike.

Uncertainty alone picks the same hard picture over and over: neighbouring frames of one film are
equally hard. `pick_diverse` therefore weighs each image's utility against its distance to all that
is labelled or already picked, and `rank` lets only one of a group of near-duplicates stand in line
before it.

Distances are cosine distances, 1 - cosine: 0 (same direction) over 1 (orthogonal) to 2 (opposite).
Below 1e-6 they count as 0, since float32 embeddings cannot tell such images apart. Utilities are
0..1, higher = more useful.

Glossary: N images of the pool, M labelled images, D dims of an embedding, n picks, L groups.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.errors import ScoreError
from backend.selection.lazy_greedy import LazyGreedy, UnitRows
from backend.selection.near_duplicates import UNREAD, find_leaders

__all__ = [
    "Pick",
    "Ranking",
    "find_representatives",
    "gamma_of",
    "near_duplicate_groups",
    "pick_diverse",
    "rank",
    "rank_represented",
]

Embeddings = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Pick:
    """The images a greedy pick chose.

    Args:
        indices: (n,) row numbers, in the order of choice.
        gains: (n,) what each was worth when it was chosen, at least 0, higher = better. Never
            rising, but for the first pick when nothing is labelled (see `pick_diverse`).
    """

    indices: Indices
    gains: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """A pool in the order in which it should be labelled.

    Args:
        order: (N,) all row numbers, the one to label first in front.
        groups: (N,) the row number of the image that represents each image: its own for a
            representative, another's for a near-duplicate, and -1 - m for a near-duplicate of
            labelled image m.
        picked: how many rows at the front of `order` were picked for diversity.
    """

    order: Indices
    groups: Indices
    picked: int


def gamma_of(diversity_weight: float) -> float:
    """The exponent of the utility in a gain: gamma = (1 - w) / w.

    The greedy choice by u ** gamma * distance is the choice by the weighted geometric mean
    u ** (1 - w) * distance ** w, so w says how much diversity counts.

    Args:
        diversity_weight: w in 0 (only utility counts) to 1 (only distance counts).

    Returns:
        gamma, infinite for w = 0, falling to 0 for w = 1.

    Raises:
        ScoreError: w is outside 0..1 or NaN.

    >>> gamma_of(0.5), gamma_of(1.0), gamma_of(0.0)
    (1.0, 0.0, inf)
    """
    if not 0 <= diversity_weight <= 1:
        raise ScoreError(f"diversity_weight must lie in 0..1, not {diversity_weight}")
    return float("inf") if diversity_weight == 0 else (1 - diversity_weight) / diversity_weight


def pick_diverse(
    embeddings: Embeddings,
    utilities: ArrayLike,
    n: int,
    *,
    diversity_weight: float = 0.4,
    labelled: Embeddings | None = None,
    rng: np.random.Generator | None = None,
) -> Pick:
    """Pick `n` images, each the one with the highest gain given those before it.

    gain = u ** gamma * distance to the nearest image that is labelled or already picked

    The result is that of the plain greedy algorithm, which recomputes every gain after every
    choice, ties included; see `backend.selection.lazy_greedy` for how most of that work is saved.
    The first m picks of a pick of n are the pick of m. With w = 1 it is the farthest-first
    traversal (Gonzalez, 1985, "Clustering to minimize the maximum intercluster distance"), used for
    active learning by Sener and Savarese (2018, "Active learning for convolutional neural networks:
    a core-set approach").

    - Equal gains: the lowest row number wins, or with `rng` a random one.
    - Nothing labelled: the first pick is the image of the highest utility, whatever w is. As there
      is nothing to be far from, its distance counts as 1.
    - No gain left (all remaining images coincide with one that is labelled or picked, or have
      utility 0): the rest follow by utility, with gain 0.
    - w = 0: the order of utility, and the gain is the utility.

    Time is that of a few passes over the embeddings plus roughly n small matrix products, at worst
    O(N (n + M) D); memory is O(N + (n + M) D) beyond the embeddings, which are not copied.

    Args:
        embeddings: (N, D) floats, rows of any length above 0.
        utilities: (N,) in 0..1, higher = more useful.
        n: how many to pick, 1 to N.
        diversity_weight: w in 0 (only utility counts) to 1 (only distance counts).
        labelled: (M, D) embeddings of the labelled images, if any.
        rng: breaks ties at random.

    Returns:
        The n row numbers and gains.

    Raises:
        ScoreError: a shape or range that does not hold, or a row that is zero or not finite.

    >>> photos = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> pick = pick_diverse(photos, [1.0, 0.9, 0.5], 3, diversity_weight=0.5)
    >>> pick.indices.tolist(), pick.gains.tolist()  # row 1 repeats row 0, so it comes last
    ([0, 2, 1], [1.0, 0.5, 0.0])
    """
    rows = UnitRows(embeddings)
    values = _checked_utilities(utilities, len(rows))
    n = _checked_count(n, "n")
    if n > len(rows):
        raise ScoreError(f"n is {n} but there are only {len(rows)} images: ask for fewer")
    priority = _priority(len(rows), rng)
    return _pick(rows, values, n, gamma_of(diversity_weight), _known(rows, labelled), priority)


def near_duplicate_groups(
    embeddings: Embeddings,
    *,
    threshold: float = 0.95,
    keys: Sequence[Hashable] | None = None,
    order: ArrayLike | None = None,
) -> Indices:
    """Put near-duplicates into groups around leaders.

    Leader clustering (Hartigan, 1975, "Clustering algorithms", chapter 3): the images are read in
    `order`; one that is near a leader joins the first such leader, any other becomes a leader. Of
    the images that share a key only the first is read; the others follow it into its group. What
    holds afterwards, to within 1e-6 of the threshold:

    - the cosine of a member that was read and its leader is at least `threshold`;
    - that of two leaders is below it, so no two groups should have been one;
    - a leader is the first of its group in `order`;
    - two members may be less alike than `threshold`, by up to twice the angle. (Linking every near
      pair instead would chain a whole film into one group.)

    Time is O(N L d) with L groups and d, the dims of a pre-filter that misses nothing, mostly far
    below D (see `backend.selection.near_duplicates`); memory is O(N + L d). On two cores, with
    D = 512, 50,000 images took 3 s and 200,000 took 10 s where two thirds were duplicates, 30 s
    where none were.

    Args:
        embeddings: (N, D) floats, rows of any length above 0.
        threshold: the cosine from which two images are near-duplicates, above 0, at most 1.
        keys: for each image the sequence (film, burst, patient) it belongs to, None for none.
        order: (N,) a permutation of the row numbers; as they stand where None.

    Returns:
        (N,) the row number of each image's leader; a leader's own.

    Raises:
        ScoreError: a shape or range that does not hold, or a row that is zero or not finite.

    >>> photos = np.array([[1.0, 0.0], [0.0, 1.0], [0.999, 0.0447]])
    >>> near_duplicate_groups(photos).tolist()
    [0, 1, 0]
    >>> near_duplicate_groups(photos, keys=[None, "film", "film"]).tolist()
    [0, 1, 1]
    """
    rows = UnitRows(embeddings)
    everyone = np.arange(len(rows))
    reading: Indices = everyone if order is None else np.asarray(order, dtype=np.intp)
    if not np.array_equal(np.sort(reading), everyone):
        raise ScoreError(f"order must hold each row number below {len(rows)} once")
    return _groups(rows, reading, _checked_threshold(threshold), keys, None)


def rank(
    embeddings: Embeddings,
    utilities: ArrayLike,
    *,
    limit: int,
    diversity_weight: float = 0.4,
    labelled: Embeddings | None = None,
    duplicate_threshold: float | None = 0.95,
    keys: Sequence[Hashable] | None = None,
    rng: np.random.Generator | None = None,
) -> Ranking:
    """Put a whole pool in order: a diverse pick, then what is useful, then near-duplicates.

    Near-duplicates are grouped first (`near_duplicate_groups`, read in the order of utility), and
    the most useful image of each group represents it. Then stand

    1. up to `limit` representatives, picked by `pick_diverse`;
    2. the other representatives by utility;
    3. the near-duplicates by utility, those of labelled images among them.

    Equal utilities stand by row number, or with `rng` at random.

    Args:
        embeddings: (N, D) floats, rows of any length above 0. N may be 0.
        utilities: (N,) in 0..1, higher = more useful.
        limit: how many to pick for diversity, at least 1; `picked` of the result is lower where
            there are fewer representatives.
        diversity_weight: w in 0 (only utility counts) to 1 (only distance counts).
        labelled: (M, D) embeddings of the labelled images, if any.
        duplicate_threshold: the cosine from which two images are near-duplicates, above 0, at
            most 1; None compares no images, so that only `keys` make groups.
        keys: for each image the sequence (film, burst, patient) it belongs to, None for none.
        rng: breaks ties at random.

    Returns:
        The order of all N rows, their groups, and how many were picked.

    Raises:
        ScoreError: a shape or range that does not hold, or a row that is zero or not finite.

    >>> photos = np.array([[1.0, 0.0], [0.999, 0.0447], [0.0, 1.0]])
    >>> ranking = rank(photos, [0.8, 0.9, 0.1], limit=2)
    >>> ranking.order.tolist(), ranking.groups.tolist(), ranking.picked
    ([1, 2, 0], [1, 1, 2], 2)
    """
    rows = UnitRows(embeddings)
    values = _checked_utilities(utilities, len(rows))
    limit = _checked_count(limit, "limit")
    gamma = gamma_of(diversity_weight)
    known = _known(rows, labelled)
    priority = _priority(len(rows), rng)
    by_utility = _by_utility(values, priority)
    threshold = None if duplicate_threshold is None else _checked_threshold(duplicate_threshold)
    groups = _groups(rows, by_utility, threshold, keys, known)

    represents = groups == np.arange(len(rows))
    order = _in_order(rows, values, represents, limit, gamma, known, priority)
    return Ranking(order=order, groups=groups, picked=min(limit, int(represents.sum())))


def find_representatives(
    embeddings: Embeddings,
    utilities: ArrayLike,
    *,
    labelled: Embeddings | None = None,
    duplicate_threshold: float | None = 0.95,
    keys: Sequence[Hashable] | None = None,
    earlier: Indices | None = None,
    new_labelled: NDArray[np.bool_] | None = None,
) -> Indices:
    """Find the image that represents each group of near-duplicates: what costs `rank` most.

    They do not depend on how much diversity counts, so that one search serves every
    `diversity_weight`: see `rank_represented`.

    Args:
        embeddings, utilities, labelled, duplicate_threshold, keys: as `rank` takes them.
        earlier: (N,) what an earlier call returned, see `find_leaders` of
            `backend.selection.near_duplicates`; rows where it is known have their old utilities.
        new_labelled: (M,) the labelled rows that the earlier call did not have.

    Returns:
        (N,) as `groups` of `rank`, but UNREAD for images that another of the same key represents.

    Raises:
        ScoreError: a shape or range that does not hold, or a row that is zero or not finite.

    >>> photos = np.array([[1.0, 0.0], [0.999, 0.0447], [0.0, 1.0]])
    >>> find_representatives(photos, [0.8, 0.9, 0.1]).tolist()
    [1, 1, 2]
    """
    rows = UnitRows(embeddings)
    values = _checked_utilities(utilities, len(rows))
    threshold = None if duplicate_threshold is None else _checked_threshold(duplicate_threshold)
    by_utility = _by_utility(values, _priority(len(rows), None))
    heads = _heads(by_utility, keys)
    read = by_utility[heads[by_utility] == by_utility]
    found = np.full(len(rows), UNREAD, dtype=np.intp)
    found[read] = read
    if threshold is not None:
        known = _known(rows, labelled)
        found[read] = find_leaders(
            rows,
            read,
            threshold=threshold,
            labelled=known,
            earlier=earlier,
            new_labelled=new_labelled,
        )
    return found


def rank_represented(
    embeddings: Embeddings,
    utilities: ArrayLike,
    represents: NDArray[np.bool_],
    *,
    limit: int,
    diversity_weight: float = 0.4,
    labelled: Embeddings | None = None,
) -> Indices:
    """The order of `rank` where the representatives are known.

    Args:
        embeddings, utilities, limit, diversity_weight, labelled: as `rank` takes them.
        represents: (N,) True for the images that `find_representatives` returned.

    Returns:
        (N,) all row numbers, the one to label first in front.

    Raises:
        ScoreError: a shape or range that does not hold, or a row that is zero or not finite.

    >>> photos = np.array([[1.0, 0.0], [0.999, 0.0447], [0.0, 1.0]])
    >>> rank_represented(photos, [0.8, 0.9, 0.1], np.array([False, True, True]), limit=2).tolist()
    [1, 2, 0]
    """
    rows = UnitRows(embeddings)
    values = _checked_utilities(utilities, len(rows))
    if represents.shape != (len(rows),):
        raise ScoreError(f"represents must have shape ({len(rows)},), not {represents.shape}")
    return _in_order(
        rows,
        values,
        represents,
        _checked_count(limit, "limit"),
        gamma_of(diversity_weight),
        _known(rows, labelled),
        _priority(len(rows), None),
    )


def _in_order(
    rows: UnitRows,
    utilities: NDArray[np.float64],
    represents: NDArray[np.bool_],
    limit: int,
    gamma: float,
    known: UnitRows | None,
    priority: Indices,
) -> Indices:
    """(N,) up to `limit` representatives picked, then the others, then those they represent."""
    by_utility = _by_utility(utilities, priority)
    picked = min(limit, int(represents.sum()))
    pick = _pick(rows, utilities, picked, gamma, known, priority, represents)
    waiting = represents.copy()
    waiting[pick.indices] = False
    return np.concatenate(
        [pick.indices, by_utility[waiting[by_utility]], by_utility[~represents[by_utility]]]
    )


def _pick(
    rows: UnitRows,
    utilities: NDArray[np.float64],
    n: int,
    gamma: float,
    known: UnitRows | None,
    priority: Indices,
    eligible: NDArray[np.bool_] | None = None,
) -> Pick:
    """Do the work of `pick_diverse` among the `eligible` rows."""
    free = np.ones(len(rows), dtype=np.bool_) if eligible is None else eligible.copy()
    by_utility = _by_utility(utilities, priority)
    if gamma == float("inf"):
        indices = by_utility[free[by_utility]][:n]
        return Pick(indices, utilities[indices])
    indices, gains = np.empty(n, dtype=np.intp), np.zeros(n)
    weights = utilities**gamma
    done = 0
    if n and known is None:
        indices[0] = by_utility[free[by_utility]][0]
        gains[0] = weights[indices[0]]
        free[indices[0]] = False
        done = 1
    if done < n:
        greedy = LazyGreedy(
            rows,
            weights=weights,
            priority=priority,
            references=rows.exact(indices[:1]) if known is None else _gridded(known),
            picks=n - done,
            eligible=free,
        )
        while done < n:
            row, gain = greedy.best()
            if row < 0:
                break
            greedy.take(row)
            indices[done], gains[done] = row, gain
            free[row] = False
            done += 1
    indices[done:] = by_utility[free[by_utility]][: n - done]
    return Pick(indices, gains)


def _groups(
    rows: UnitRows,
    order: Indices,
    threshold: float | None,
    keys: Sequence[Hashable] | None,
    known: UnitRows | None,
) -> Indices:
    """(N,) the leader of each row, or -1 - m where labelled row m leads."""
    heads = _heads(order, keys)
    groups = heads.copy()
    if threshold is not None:
        read = order[heads[order] == order]
        groups[read] = find_leaders(rows, read, threshold=threshold, labelled=known)
    return groups[heads]


def _heads(order: Indices, keys: Sequence[Hashable] | None) -> Indices:
    """(N,) for each row the first in `order` that shares its key; itself where it has none."""
    heads = np.arange(len(order))
    if keys is None:
        return heads
    if len(keys) != len(order):
        raise ScoreError(f"keys must be {len(order)}, one per image, not {len(keys)}")
    first: dict[Hashable, int] = {}
    for row in order.tolist():
        if keys[row] is not None:
            heads[row] = first.setdefault(keys[row], row)
    return heads


def _by_utility(utilities: NDArray[np.float64], priority: Indices) -> Indices:
    order: Indices = np.lexsort((priority, -utilities))
    return order


def _priority(count: int, rng: np.random.Generator | None) -> Indices:
    return np.arange(count) if rng is None else rng.permutation(count)


def _gridded(rows: UnitRows) -> NDArray[np.float32]:
    return np.concatenate([rows.exact(block) for block in rows.blocks()])


def _known(rows: UnitRows, labelled: Embeddings | None) -> UnitRows | None:
    """The labelled rows, checked against those of the pool; None where there are none."""
    if labelled is None:
        return None
    known = UnitRows(labelled, "labelled")
    if known.dims != rows.dims:
        raise ScoreError(
            f"labelled has {known.dims} dims but embeddings {rows.dims}: use one encoder for both"
        )
    return known if len(known) else None


def _checked_utilities(utilities: ArrayLike, count: int) -> NDArray[np.float64]:
    values = np.asarray(utilities, dtype=np.float64)
    if values.shape != (count,):
        raise ScoreError(f"utilities must have shape ({count},), not {values.shape}")
    # Written so that NaN fails too.
    if not ((values >= 0) & (values <= 1)).all():
        raise ScoreError("utilities must lie in 0..1 and hold no NaN")
    return values


def _checked_count(value: int, name: str) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise ScoreError(f"{name} must be a whole number, not {value!r}") from None
    if count < 1:
        raise ScoreError(f"{name} must be at least 1, not {count}")
    return count


def _checked_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise ScoreError(f"the near-duplicate threshold must lie in 0..1, not {threshold}")
    return threshold
