"""From the class scores of an image's boxes to how unsure the detector is about the image.

The way of a number: class scores of a box -> its utility -> the image's utility -> the image's
public score. Two scales, and one place where the one becomes the other (`flip`):

- *utility*, used inside: 0..1, higher = more uncertain = more useful to label;
- *score*, what users see and what Label Studio sorts by: 0..1, lower = more uncertain.

Class scores are independent (sigmoids), so a row need not sum to 1 and is never made to: scaling
[0.1, 0.00001, 0.00002] to sum to 1 would turn a box that is nearly background into a certain one.

Glossary: N images, K boxes of one image, C classes, p1 and p2 the best and second-best class
score of a box, floor the lowest p1 with which a box is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.errors import ScoreError
from backend.strategies import check_weights

__all__ = [
    "AGGREGATIONS",
    "MEASURES",
    "ImageScores",
    "aggregate",
    "combine",
    "entropy",
    "flip",
    "lowest_confidence",
    "margin_sampling",
    "score_image",
]

Vector = NDArray[np.float64]
FloatOrVector = TypeVar("FloatOrVector", float, Vector)


# From a box's class scores to its utility


def lowest_confidence(class_scores: ArrayLike) -> Vector:
    """How far each box is from a sure detection: u = 1 - p1.

    Least-confidence sampling (Lewis and Gale, 1994, "A sequential algorithm for training text
    classifiers"), applied to each box.

    Args:
        class_scores: (K, C) independent class scores in 0..1.

    Returns:
        (K,) utilities, 0 (certain) to 1 (uncertain), higher = more uncertain.

    Raises:
        ScoreError: `class_scores` has another shape, or holds NaN or a number outside 0..1.

    >>> lowest_confidence([[0.75, 0.5], [0.25, 0.0]]).tolist()
    [0.25, 0.75]
    """
    return 1 - _best(_checked(class_scores))


def margin_sampling(class_scores: ArrayLike) -> Vector:
    """How close each box is to being something else: u = max(1 - |2 p1 - 1|, p2 / p1).

    The first term is the margin between the best class and background, the second the margin
    between the two best classes; the narrower one counts. Margin sampling is from Scheffer,
    Decomain and Wrobel (2001, "Active hidden Markov models for information extraction"); taking
    background as the rival is what a sigmoid head needs. With one class there is no second term,
    and neither is there with p1 = 0, where the box is background for certain: u = 0.

    Args:
        class_scores: (K, C) independent class scores in 0..1.

    Returns:
        (K,) utilities, 0 (certain) to 1 (uncertain), higher = more uncertain.

    Raises:
        ScoreError: `class_scores` has another shape, or holds NaN or a number outside 0..1.

    >>> margin_sampling([[1.0, 0.0], [0.5, 0.0], [1.0, 0.75]]).tolist()
    [0.0, 1.0, 0.75]
    """
    scores = _checked(class_scores)
    best = _best(scores)
    to_background: Vector = 1 - np.abs(2 * best - 1)
    if scores.shape[1] == 1:
        return to_background
    second = np.partition(scores, -2, axis=1)[:, -2]
    to_class = np.divide(second, best, out=np.zeros_like(best), where=best > 0)
    narrower: Vector = np.maximum(to_background, to_class)
    return narrower


def entropy(class_scores: ArrayLike) -> Vector:
    """How open it is whether each box is its best class or not: u = H2(p1) in bits.

    H2(p) = -p log2 p - (1 - p) log2(1 - p), the entropy of one yes-or-no question (Shannon, 1948),
    since each sigmoid answers one. The entropy over classes would need rows that sum to 1.

    Args:
        class_scores: (K, C) independent class scores in 0..1.

    Returns:
        (K,) utilities in bits, 0 (certain) to 1 (uncertain), higher = more uncertain.

    Raises:
        ScoreError: `class_scores` has another shape, or holds NaN or a number outside 0..1.

    >>> entropy([[0.5, 0.1], [1.0, 1.0], [0.0, 0.0]]).tolist()
    [1.0, 0.0, 0.0]
    """
    best = _best(_checked(class_scores))
    bits = np.zeros_like(best)
    for p in (best, 1 - best):
        bits -= p * np.log2(p, out=np.zeros_like(p), where=p > 0)
    # Not every platform's log2 rounds so well that p near 0.5 stays within 1 bit.
    return np.minimum(bits, 1.0)


MEASURES: Mapping[str, Callable[[ArrayLike], Vector]] = MappingProxyType(
    {
        "lowest_confidence": lowest_confidence,
        "margin_sampling": margin_sampling,
        "entropy": entropy,
    }
)
"""The measures of a box by name: (K, C) class scores -> (K,) utilities, higher = more uncertain.

A new measure is a function here and a line in `strategies.py`; scores and the API follow.
"""


# From the boxes' utilities to the image's


def _max(utilities: Vector, k: int) -> float:
    return float(utilities.max())


def _mean(utilities: Vector, k: int) -> float:
    return math.fsum(utilities) / utilities.size


def _sum(utilities: Vector, k: int) -> float:
    total = math.fsum(utilities)
    return total / (1 + total)


def _top_k(utilities: Vector, k: int) -> float:
    return math.fsum(np.sort(utilities)[-k:]) / k


AGGREGATIONS: Mapping[str, Callable[[Vector, int], float]] = MappingProxyType(
    {"max": _max, "mean": _mean, "sum": _sum, "top-k": _top_k}
)
"""The ways to make one utility of many by name: ((K,) utilities, k) -> 0..1. See `aggregate`."""


def aggregate(utilities: ArrayLike, *, aggregation: str = "top-k", k: int = 3) -> float:
    """Make one utility of the utilities of an image's boxes.

    - `max`: the most uncertain box.
    - `mean`: the average box; many certain boxes hide an uncertain one.
    - `sum`: s / (1 + s) with s the plain sum (Brust, Kaeding and Denzler, 2019, "Active learning
      for deep object detection", compare max, mean and sum). Images stand in the order of s, and
      a crowd of boxes does not run into 1 as it would with 1 - prod(1 - u).
    - `top-k`: the mean of the `k` most uncertain boxes; where there are fewer, those that are
      missing count as certain. A lone doubtful box is most often background that was almost taken
      for something: counted like three, such boxes drew 22 and 24 of 36 picks to empty
      images (docs/savings.md).

    Each is unchanged, to the last bit, when the boxes change places, and never falls when a
    box's utility rises. Of `max`, `sum` and `top-k`, none falls either when there is a further box.

    Args:
        utilities: (K,) utilities in 0..1 with K > 0, higher = more uncertain.
        aggregation: a name in `AGGREGATIONS`.
        k: how many boxes `top-k` averages, at least 1. The others ignore it.

    Returns:
        The image's utility, 0 (certain) to 1 (uncertain), higher = more uncertain.

    Raises:
        ScoreError: no utilities, one outside 0..1, an unknown aggregation, or k below 1.

    >>> boxes = [0.5, 0.0, 1.0, 0.75]
    >>> [aggregate(boxes, aggregation=name) for name in ("max", "mean", "top-k")]
    [1.0, 0.5625, 0.75]
    >>> aggregate([0.5, 0.5], aggregation="sum")
    0.5
    """
    if aggregation not in AGGREGATIONS:
        known = ", ".join(AGGREGATIONS)
        raise ScoreError(f"unknown aggregation {aggregation!r}: use one of {known}")
    if k < 1:
        raise ScoreError(f"k must be at least 1, not {k}")
    values = np.asarray(utilities, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ScoreError(f"utilities must have shape (K,) with K > 0, not {values.shape}")
    _refuse_outside_unit(values, "utilities")
    return min(AGGREGATIONS[aggregation](values, k), 1.0)


# From the image's utilities to its public scores


def flip(value: FloatOrVector) -> FloatOrVector:
    """Turn a utility into a public score, or a public score back into a utility: 1 - value.

    The only place where the direction changes.

    >>> flip(0.25)
    0.75
    """
    return 1.0 - value


ImageScores = dict[str, float]
"""The public scores of one image by measure, each 0 (most uncertain) to 1 (most certain).

Lower = more uncertain, so that sorting by a score in rising order puts the hardest image first.
"""


def score_image(
    class_scores: ArrayLike,
    *,
    peak_score: float,
    floor: float,
    aggregation: str = "top-k",
    k: int = 3,
) -> ImageScores:
    """Score one image by every measure.

    A box counts when its p1 is at least `floor`. An image without such a box gets the utility of
    an image whose only box is exactly at the floor, times `peak_score / floor`. So the rule
    meets the boxes without a jump where a box first reaches the floor; a detector that almost saw
    something (peak just below the floor) makes a more useful image than one that saw nothing
    (peak 0, utility 0); and no empty image reaches utility 1. A peak above the floor counts
    as the floor (heads without non-maximum suppression may report one and keep no box).

    Args:
        class_scores: (K, C) independent class scores in 0..1 of the boxes; K may be 0.
        peak_score: the best class score anywhere in the image, kept or not, in 0..1. It matters
            only where no box counts.
        floor: the score from which a box counts, above 0 and below 1. Keep it low (0.05 to 0.1):
            what a detector doubts is below the threshold at which boxes are shown.
        aggregation: a name in `AGGREGATIONS`.
        k: how many boxes `top-k` averages.

    Returns:
        The public score by each of `MEASURES`, 0..1, lower = more uncertain.

    Raises:
        ScoreError: a shape, range, name or k that does not hold.

    >>> score_image([[0.5, 0.25], [1.0, 0.0]], peak_score=1.0, floor=0.1, aggregation="max")
    {'lowest_confidence': 0.5, 'margin_sampling': 0.0, 'entropy': 0.0}
    >>> score_image(np.empty((0, 2)), peak_score=0.0, floor=0.1)  # certain: nothing in sight
    {'lowest_confidence': 1.0, 'margin_sampling': 1.0, 'entropy': 1.0}
    """
    scores = _checked(class_scores)
    if not 0 < floor < 1:
        raise ScoreError(f"floor must lie above 0 and below 1, not {floor}")
    if not 0 <= peak_score <= 1:
        raise ScoreError(f"peak_score must lie in 0..1, not {peak_score}")
    best = _best(scores)
    boxes, share = scores[best >= floor], 1.0
    if not len(boxes):
        share = min(max(peak_score, best.max(initial=0.0)) / floor, 1.0)
        boxes = np.array([[floor]])
    utilities = {
        name: share * aggregate(measure(boxes), aggregation=aggregation, k=k)
        for name, measure in MEASURES.items()
    }
    return {name: float(flip(utility)) for name, utility in utilities.items()}


# From several scores to one


def combine(scores: Mapping[str, ArrayLike], weights: Mapping[str, float]) -> Vector:
    """Make one public score of several: the weighted mean.

    Args:
        scores: public scores by name, each (N,) in 0..1, lower = more uncertain.
        weights: how much each name counts, at least 0; they need not sum to 1. A name in `scores`
            that has no weight does not count.

    Returns:
        (N,) public scores in 0..1, lower = more uncertain.

    Raises:
        ScoreError: a weight is negative, not finite, or for a name not in `scores`; all weights
            are 0; the scores differ in length, or hold NaN or a number outside 0..1.

    >>> combine({"entropy": [0.0, 1.0], "margin_sampling": [0.5, 0.5]}, {"entropy": 3,
    ...         "margin_sampling": 1}).tolist()
    [0.125, 0.875]
    """
    check_weights(weights, known=scores)
    columns: dict[str, Vector] = {}
    for name, values in scores.items():
        column = np.asarray(values, dtype=np.float64)
        if column.ndim != 1:
            raise ScoreError(f"scores of {name!r} must have shape (N,), not {column.shape}")
        _refuse_outside_unit(column, f"scores of {name!r}")
        columns[name] = column
    lengths = {name: column.size for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ScoreError(f"every score needs one number per image, not {lengths}")
    # Dividing by the largest weight first keeps huge weights from overflowing.
    largest = max(weights.values())
    shares = {name: weight / largest for name, weight in weights.items()}
    total = math.fsum(shares.values())
    combined = sum(share / total * columns[name] for name, share in shares.items())
    return np.clip(np.asarray(combined, dtype=np.float64), 0.0, 1.0)


def _best(class_scores: Vector) -> Vector:
    """(K,) p1 of each box."""
    best: Vector = class_scores.max(axis=1)
    return best


# Refusals


def _checked(class_scores: ArrayLike) -> Vector:
    """Return `class_scores` as (K, C) float64, or raise ScoreError."""
    try:
        scores = np.asarray(class_scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise ScoreError("class_scores must be numbers of shape (K, C)") from None
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ScoreError(f"class_scores must have shape (K, C) with C > 0, not {scores.shape}")
    _refuse_outside_unit(scores, "class_scores")
    return scores


def _refuse_outside_unit(values: NDArray[np.float64], name: str) -> None:
    # Written so that NaN fails too.
    if not ((values >= 0) & (values <= 1)).all():
        raise ScoreError(f"{name} must lie in 0..1 and hold no NaN")
