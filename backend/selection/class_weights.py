"""From what a model has learned of each class to how much its doubts about an image count.

A detector that has seen a thousand boxes of one class and ten of another is in doubt about both,
but a further box of the rare class teaches it more, and mean average precision counts all classes
alike. So the default strategy weighs the uncertainty of an image by the classes its boxes seem to
be of. The uncertainty scores themselves (`backend.uncertainty`) know nothing of it.

Glossary: K boxes of one image, C classes, p1 the best class score of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.errors import ScoreError
from backend.uncertainty import MEASURES, aggregate

__all__ = ["class_weights", "weigh_image"]


def class_weights(boxes: Sequence[int], *, power: float = 0.25) -> NDArray[np.float64]:
    """How much each class counts: w = ((m + 1) / (n + 1)) ** power.

    n is the number of boxes of the class that the model has learned from, m that of the rarest
    class. One is added so that a class without boxes has a weight too. Weights by inverse frequency
    are usual for losses, and so is tempering them by a power below 1 (Mahajan et al., 2018,
    "Exploring the limits of weakly supervised pretraining", take 0.5). With 0.5 the picks held
    further pictures of the same rare objects instead of new ones (docs/savings.md).

    Args:
        boxes: (C,) numbers of boxes, at least 0.
        power: 0 (all classes alike) to 1 (inverse frequency).

    Returns:
        (C,) weights above 0; the rarest class has 1.

    Raises:
        ScoreError: no class, or a negative number.

    >>> class_weights([255, 15, 0]).tolist()
    [0.25, 0.5, 1.0]
    """
    counts = np.asarray(boxes, dtype=np.float64)
    if counts.ndim != 1 or not counts.size or not (counts >= 0).all():
        raise ScoreError(f"boxes must be at least 0 for one class or more, not {list(boxes)}")
    weights: NDArray[np.float64] = ((counts.min() + 1) / (counts + 1)) ** power
    return weights


def weigh_image(
    class_scores: ArrayLike, weights: NDArray[np.floating[Any]], *, floor: float
) -> float:
    """Which share of an image's utility is left when each box counts by its class.

    A box counts by p1 * (the mean weight of its classes, by their scores) + (1 - p1) * (the lowest
    weight): as far as it is no object, it is background, of which there is always most. Otherwise
    boxes with low scores for every class, mostly background, would count as half rare, and draw
    the picks to empty images.

    Args:
        class_scores: (K, C) independent class scores in 0..1; K may be 0.
        weights: (C,) as `class_weights` returns them.
        floor: the p1 from which a box counts, as in `score_image`.

    Returns:
        The share, from the lowest weight (common classes, or nothing in sight) to the highest.

    >>> weights = np.array([0.25, 1.0])
    >>> weigh_image([[0.5, 0.0]], weights, floor=0.1), weigh_image([[0.0, 0.5]], weights, floor=0.1)
    (0.25, 0.625)
    >>> weigh_image([[0.05, 0.05]], weights, floor=0.1)
    0.25
    """
    lowest = float(weights.min())
    scores = np.asarray(class_scores, dtype=np.float64)
    boxes = scores[scores.max(axis=1) >= floor]
    if not len(boxes):
        return lowest
    utilities = np.mean([measure(boxes) for measure in MEASURES.values()], axis=0)
    plain = aggregate(utilities)
    if not plain:
        return lowest
    best = boxes.max(axis=1)
    by_class = boxes @ weights / boxes.sum(axis=1)
    return aggregate(utilities * (best * by_class + (1 - best) * lowest)) / plain
