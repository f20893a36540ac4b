"""The objects a detector is least sure of, cut out of their picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.vision.picture import Picture


def object_crops(
    picture: Picture,
    detections: Detections,
    *,
    limit: int = 3,
    margin: float = 0.1,
    min_side: int = 16,
) -> list[NDArray[np.uint8]]:
    """Cut out the most uncertain objects of one image, most uncertain first.

    A box is the more uncertain the closer its best class score is to 0.5, where the binary entropy
    of an independent score is greatest.

    Args:
        picture: the pixels, at any scale of the image the boxes are given in.
        detections: the boxes of that image.
        limit: no more crops than this.
        margin: context added on each side, as a fraction of the box's width and height.
        min_side: crops with a shorter side, in decoded pixels, show nothing and are left out.

    Returns:
        Up to `limit` arrays (h, w, 3) uint8 RGB, each with its own memory.
    """
    height, width = picture.pixels.shape[:2]
    scale = np.array([width / picture.size[0], height / picture.size[1]] * 2)
    boxes = _grow(detections.xyxy * scale, margin, (width, height))
    # Stable, so that equally uncertain boxes stay in the detector's order.
    order = np.argsort(np.abs(detections.confidence - 0.5), kind="stable")
    crops: list[NDArray[np.uint8]] = []
    for left, top, right, bottom in boxes[order]:
        if len(crops) == limit:
            break
        if min(right - left, bottom - top) >= min_side:
            crops.append(picture.pixels[top:bottom, left:right].copy())
    return crops


def _grow(boxes: NDArray[np.floating], margin: float, size: tuple[int, int]) -> NDArray[np.intp]:
    """(N, 4) boxes with a margin on each side, in whole pixels inside an image of `size`."""
    room = np.tile(boxes[:, 2:] - boxes[:, :2], 2) * margin
    low = np.floor(boxes[:, :2] - room[:, :2])
    high = np.ceil(boxes[:, 2:] + room[:, 2:])
    grown: NDArray[np.intp] = np.clip(np.hstack([low, high]), 0, np.tile(size, 2)).astype(np.intp)
    return grown
