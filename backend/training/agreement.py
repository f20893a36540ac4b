"""How far two detectors agree on the same images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from backend.boxes import iou, pair_boxes
from backend.training.matching import Boxes

__all__ = ["kappa"]

BACKGROUND = -1


def kappa(pairs: Iterable[tuple[Boxes, Boxes]]) -> float:
    """Cohen's kappa of two detectors, over all objects that either of them sees.

    Models that stop changing their answers have learnt what the labels can teach them:
    "stabilizing predictions" (Bloodgood and Vijay-Shanker 2009, "A method for stopping active
    learning based on stabilizing predictions and the need for user-adjustable stopping"), which
    counts the labels of single items. Here boxes of the two detectors with IoU >= 0.5, whatever
    their classes, are one item, paired one to one from the highest IoU down; a box without a
    partner is an item that the other detector calls background.

    Args:
        pairs: for each image, the boxes of the one and of the other detector. Give the boxes
            that would be shown: those of low confidence would outnumber them.

    Returns:
        -1..1, higher = more alike. 1: the same objects with the same classes; also where neither
        sees anything. 0: no more than chance. Chance weighs heavily where one class holds nearly
        all boxes: with a single class nothing between 0 and 1 can come out, for no item is
        background to both.
    """
    items = [_items(first, second) for first, second in pairs]
    first, second = np.concatenate([np.empty((0, 2), dtype=np.intp), *items]).T
    if (first == second).all():
        return 1.0
    shares = [
        np.bincount(classes - BACKGROUND, minlength=max(first.max(), second.max()) + 2) / len(first)
        for classes in (first, second)
    ]
    observed = (first == second).mean()
    by_chance = shares[0] @ shares[1]
    return float((observed - by_chance) / (1 - by_chance))


def _items(first: Boxes, second: Boxes) -> NDArray[np.intp]:
    """(items, 2) the class that each detector gives each object of one image."""
    # A detector may give one box twice, with two classes: then like goes with like.
    differs = first.class_ids[:, None] != second.class_ids[None, :]
    pairs = pair_boxes(iou(first.xyxy, second.xyxy), differs)
    seen = np.full(len(first), BACKGROUND)
    alone = np.ones(len(second), dtype=bool)
    for row, column in pairs:
        seen[row] = second.class_ids[column]
        alone[column] = False
    others = second.class_ids[alone]
    return np.concatenate(
        [
            np.column_stack([first.class_ids, seen]),
            np.column_stack([np.full(len(others), BACKGROUND), others]),
        ]
    )
