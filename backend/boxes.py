"""How much boxes overlap and which are one object, in whatever units: numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAME_OBJECT_IOU = 0.5
"""From here on, two boxes are one object."""


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
        a: (N, 4) left, top, right, bottom.
        b: (M, 4) likewise.

    Returns:
        (N, M) in 0..1, higher = more alike. Two boxes without area have 0.

    >>> iou(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[0.0, 0.0, 2.0, 1.0]])).tolist()
    [[0.5]]
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area_a, area_b = (np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    share: NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return share


def pair_boxes(overlap: NDArray[np.floating], differs: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pair the boxes of one image one to one: highest IoU first, down to `SAME_OBJECT_IOU`.

    Args:
        overlap: (N, M) IoU of each box with each other one, 0..1.
        differs: (N, M) whether their labels differ; of equal IoU, those of one label go first.

    Returns:
        (row, column) of each pair, best first.

    >>> pair_boxes(np.array([[0.9, 0.6], [0.7, 0.2]]), np.zeros((2, 2), dtype=bool))
    [(0, 0)]
    """
    rows, columns = np.nonzero(overlap >= SAME_OBJECT_IOU)
    best_first = np.lexsort((differs[rows, columns], -overlap[rows, columns]))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return list(pairs.items())
