"""The raw output of a YOLO head -> Detections that keep every class score.

One decoder serves torch, OpenVINO and ONNX: all give (4 + C, A) for an image of A anchors, of which
the first four rows are centre x, centre y, width, height in input pixels, and the other C are
independent class scores in 0..1. They are carried along by index, never renormalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.errors import WeightsError
from backend.vision.letterbox import Letterbox

_FIRST_CANDIDATES = 1000


@dataclass(frozen=True)
class DecoderOptions:
    """What decides which boxes are kept.

    Args:
        floor: boxes whose best class score (0..1) is not above this are dropped. It is far below
            what annotators are shown, because the doubtful boxes are the informative ones.
        iou: of two boxes of one class that overlap more than this (0..1), the weaker is dropped.
        max_boxes: no more than this many boxes of an image are kept, the most confident ones.
    """

    floor: float = 0.05
    iou: float = 0.7
    max_boxes: int = 300


def decode(
    raw: NDArray[np.floating], letterbox: Letterbox, options: DecoderOptions | None = None
) -> Detections:
    """The boxes of one image.

    Args:
        raw: (4 + C, A) output of the head.
        letterbox: how the image lies in the input.
        options: what is kept.

    Raises:
        WeightsError: the output holds NaN, or class scores outside 0..1.
    """
    options = options or DecoderOptions()
    scores = raw[4:]
    best = scores.max(axis=0)
    peak = float(best.max(initial=0.0))
    _check_scores(best, peak)

    candidates = np.flatnonzero(best > options.floor)
    class_scores = scores[:, candidates].T.astype(np.float32)
    boxes = _corners(raw[:4, candidates].T.astype(np.float32))
    kept = _suppress(boxes, class_scores, options)
    xyxy = letterbox.to_image(boxes[kept])
    # Boxes that lie in the padding have no area once they are clipped to the image.
    visible = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Detections(
        xyxy=xyxy[visible],
        class_scores=class_scores[kept][visible].clip(0, 1),
        peak_score=min(peak, 1.0),
        image_size=letterbox.image_size,
    )


def _check_scores(best: NDArray[np.floating], peak: float) -> None:
    # Quantised exports overshoot a little; logits and NaN are another matter.
    if not peak <= 1.01 or (best.size and not best.min() >= -0.01):
        raise WeightsError(
            f"the detector's class scores are not in 0..1 (best: {peak:g}): "
            "the weights are damaged or were exported without their sigmoid; export them again"
        )


def _corners(xywh: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) centre x, centre y, width, height -> (N, 4) left, top, right, bottom."""
    half = xywh[:, 2:] / 2
    return np.concatenate([xywh[:, :2] - half, xywh[:, :2] + half], axis=1)


def _suppress(
    boxes: NDArray[np.float32], class_scores: NDArray[np.float32], options: DecoderOptions
) -> NDArray[np.intp]:
    """Indices of the boxes that survive class-wise non-maximum suppression, best first."""
    if not len(boxes):
        return np.empty(0, dtype=np.intp)
    best = class_scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    # A weaker box never decides over a stronger one: where the strongest already leave enough, the
    # rest need not be looked at. An untrained detector would otherwise take a second an image.
    strongest = _suppress_all(boxes, class_scores, order[:_FIRST_CANDIDATES], options.iou)
    if len(strongest) < options.max_boxes and len(order) > _FIRST_CANDIDATES:
        strongest = _suppress_all(boxes, class_scores, order, options.iou)
    return strongest[: options.max_boxes]


def _suppress_all(
    boxes: NDArray[np.float32],
    class_scores: NDArray[np.float32],
    candidates: NDArray[np.intp],
    iou: float,
) -> NDArray[np.intp]:
    """Those of the candidates (indices) that survive, best first."""
    import torch
    from torchvision.ops import batched_nms

    scores = class_scores[candidates]
    kept = batched_nms(
        torch.from_numpy(boxes[candidates]),
        torch.from_numpy(scores.max(axis=1)),
        torch.from_numpy(scores.argmax(axis=1)),
        iou,
    )
    survivors: NDArray[np.intp] = candidates[kept.numpy()]
    return survivors
