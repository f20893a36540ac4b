"""Which boxes of a detector hit which boxes of the truth, image by image.

Glossary: N boxes of the detector, M boxes of the truth, 10 IoU thresholds. IoU is intersection
over union, 0..1, higher = more alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.boxes import iou
from backend.detections import Detections
from backend.errors import ScoreError

__all__ = [
    "IOU_THRESHOLDS",
    "Boxes",
    "ImageMatches",
    "Predictions",
    "iou",
    "match_image",
    "relative_predictions",
]

# 0.50, 0.55 .. 0.95. Halves and twentieths divided once: an IoU of exactly 11 / 20 reaches 0.55.
IOU_THRESHOLDS = np.arange(10, 20) / 20
MAX_DETECTIONS = 300


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one image.

    Args:
        xyxy: (M, 4) left, top, right, bottom, in the same unit as the boxes they are compared
            with. A box with right < left or bottom < top has no area.
        class_ids: (M,) integers from 0.

    Raises:
        ScoreError: a shape that does not hold, a coordinate that is not finite, or a class id
            below 0.
    """

    xyxy: NDArray[np.float64]
    class_ids: NDArray[np.intp]

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, dtype=np.float64)
        if xyxy.size == 0:
            xyxy = xyxy.reshape(0, 4)
        class_ids = np.asarray(self.class_ids, dtype=np.intp)
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "class_ids", class_ids)
        if xyxy.ndim != 2 or xyxy.shape[1] != 4:
            raise ScoreError(f"boxes must have shape (N, 4), not {xyxy.shape}")
        if class_ids.shape != (len(xyxy),):
            raise ScoreError(f"{len(xyxy)} boxes need as many class ids, not {class_ids.shape}")
        if not np.isfinite(xyxy).all():
            raise ScoreError("boxes hold NaN or infinity")
        if (class_ids < 0).any():
            raise ScoreError(f"class ids begin at 0, not at {class_ids.min()}")

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True, eq=False)
class Predictions(Boxes):
    """Boxes of one image as a detector gives them, in any order.

    Args:
        confidence: (N,) in 0..1, higher = more certain.

    Raises:
        ScoreError: as `Boxes`, or a confidence outside 0..1.
    """

    confidence: NDArray[np.float64]

    def __post_init__(self) -> None:
        super().__post_init__()
        confidence = np.asarray(self.confidence, dtype=np.float64)
        object.__setattr__(self, "confidence", confidence)
        if confidence.shape != (len(self),):
            raise ScoreError(f"{len(self)} boxes need as many confidences, not {confidence.shape}")
        # Written so that NaN fails too.
        if not ((confidence >= 0) & (confidence <= 1)).all():
            raise ScoreError("confidences must lie in 0..1")


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """What average precision needs to know of one image.

    Args:
        true_positive: (N, 10) bool, whether a box hit a truth of its class at each of
            `IOU_THRESHOLDS`.
        confidence: (N,) in 0..1, higher = more certain.
        class_ids: (N,) classes of the detector's boxes.
        truth_class_ids: (M,) classes of the truth's boxes, found or not.
    """

    true_positive: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    class_ids: NDArray[np.intp]
    truth_class_ids: NDArray[np.intp]


def relative_predictions(
    detections: Detections, class_ids: Mapping[int, int] | None = None
) -> Predictions:
    """What a detector saw, with coordinates relative to the image (0..1).

    Args:
        detections: in pixels of the image.
        class_ids: class of the detector -> class of the truth; boxes of others are left out. None:
            they are the same.
    """
    ids = detections.class_ids
    if class_ids is not None:
        ids = np.array([class_ids.get(int(k), -1) for k in ids], dtype=np.int64)
    width, height = detections.image_size
    keep = ids >= 0
    return Predictions(
        (detections.xyxy / np.array([width, height, width, height]))[keep],
        ids[keep],
        detections.confidence.astype(np.float64)[keep],
    )


def match_image(predictions: Predictions, truth: Boxes) -> ImageMatches:
    """Match the detector's boxes of one image to its truth, as the COCO evaluation does.

    For each IoU threshold by itself: boxes choose in the order of falling confidence (equal ones
    in the order given), each the truth of its class with the highest IoU that nobody chose
    before; it is a true positive if that IoU reaches the threshold. So a second box on the same
    object is a false positive. (Lin et al. 2014, "Microsoft COCO: common objects in context".)

    Returns:
        The matches of the 300 most confident boxes, by falling confidence.
    """
    order = np.argsort(-predictions.confidence, kind="stable")[:MAX_DETECTIONS]
    class_ids = predictions.class_ids[order]
    overlap = iou(predictions.xyxy[order], truth.xyxy)
    overlap[class_ids[:, None] != truth.class_ids] = 0

    thresholds = np.arange(len(IOU_THRESHOLDS))
    true_positive = np.zeros((len(order), len(thresholds)), dtype=bool)
    free = np.ones((len(thresholds), len(truth)), dtype=bool)
    for row in np.flatnonzero((overlap >= IOU_THRESHOLDS[0]).any(axis=1)):
        offered = np.where(free, overlap[row], 0)
        best = offered.argmax(axis=1)
        hit = offered[thresholds, best] >= IOU_THRESHOLDS
        free[thresholds[hit], best[hit]] = False
        true_positive[row] = hit
    return ImageMatches(
        true_positive=true_positive,
        confidence=predictions.confidence[order],
        class_ids=class_ids,
        truth_class_ids=truth.class_ids,
    )
