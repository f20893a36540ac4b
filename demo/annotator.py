"""A simulated annotator: answers from ground truth, and starts from the boxes that are shown.

As a careful person would: a shown box that is nearly right stays as it is, one that is off is put
right, one that shows nothing is deleted, and what is missing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.training.matching import iou

# A shown box that covers an object so well is left alone.
GOOD_ENOUGH = 0.85
SAME_OBJECT = 0.5


@dataclass(frozen=True)
class Truth:
    """What is on an image: (N, 4) boxes as percentages of its sides, and their N labels."""

    percent: Any
    labels: Sequence[str]


def read_truth(text: str, names: Sequence[str]) -> Truth:
    """The truth that a YOLO label file holds; `names` are the labels of its class numbers."""
    rows = np.asarray([line.split() for line in text.splitlines()], np.float64).reshape(-1, 5)
    half = rows[:, 3:] / 2
    corners = 100 * np.concatenate([rows[:, 1:3] - half, rows[:, 1:3] + half], axis=1)
    return Truth(np.clip(corners, 0, 100), [names[int(k)] for k in rows[:, 0]])


def answer(
    shown: Sequence[dict[str, Any]], truth: Truth, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """The regions an annotator submits.

    Args:
        shown: the regions of the prediction, as Label Studio served them.
        truth: what is there.
        size: (width, height) of the image in pixels.
    """
    boxes = np.array([_corners(region) for region in shown], np.float64).reshape(-1, 4)
    share = iou(boxes, truth.percent)
    regions: list[dict[str, Any]] = []
    free = set(range(len(truth.labels)))
    for i in np.argsort(-share.max(axis=1, initial=0.0), kind="stable").tolist():
        best = max(free, key=lambda j: share[i, j], default=None)
        if best is None or share[i, best] < SAME_OBJECT:
            continue
        free.discard(best)
        label = truth.labels[best]
        is_right = shown[i]["value"]["rectanglelabels"] == [label]
        if is_right and share[i, best] >= GOOD_ENOUGH:
            regions.append(shown[i])
        else:
            value = {**shown[i]["value"], **_value(truth.percent[best], label)}
            regions.append({**shown[i], "value": value, "origin": "prediction-changed"})
    drawn = (_region(f"drawn{j}", truth.percent[j], truth.labels[j], size) for j in sorted(free))
    return [*regions, *drawn]


def _corners(region: dict[str, Any]) -> tuple[float, float, float, float]:
    value = region["value"]
    x, y, width, height = (value[name] for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def _value(percent: Any, label: str) -> dict[str, Any]:
    left, top, right, bottom = (float(side) for side in percent)
    return {
        "x": left,
        "y": top,
        "width": right - left,
        "height": bottom - top,
        "rotation": 0,
        "rectanglelabels": [label],
    }


def _region(region_id: str, percent: Any, label: str, size: tuple[int, int]) -> dict[str, Any]:
    """A region of the control that `demo.run.label_config` makes."""
    return {
        "id": region_id,
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "origin": "manual",
        "value": _value(percent, label),
    }
