"""Boxes as Label Studio wants them: percentages of the upright image, one region a box."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from backend.detections import Detections
from backend.label_studio.label_map import LabelMap

# A thousandth of a percent is a twentieth of a pixel in an image 5,000 pixels wide.
DECIMALS = 3


def to_results(
    detections: Detections,
    class_names: Sequence[str],
    label_map: LabelMap,
    *,
    threshold: float,
) -> list[dict[str, Any]]:
    """The regions annotators are shown for one image, most confident first.

    Args:
        detections: what the detector saw.
        class_names: the detector's classes, in the order of `detections.class_scores`.
        label_map: the project's labels.
        threshold: boxes below this confidence (0..1) are left out.

    Returns:
        Rectangle regions with x, y, width and height in 0..100, in the SDK's form. Boxes of
        classes without a label are left out, and so are boxes without an area.
    """
    kept = detections.above(threshold)
    width, height = kept.image_size
    regions = []
    for place, (box, score, class_id) in enumerate(
        zip(kept.xyxy.tolist(), kept.confidence.tolist(), kept.class_ids.tolist(), strict=True)
    ):
        label = label_map.labels.get(class_names[class_id])
        left, right = (_percent(box[0], width), _percent(box[2], width))
        top, bottom = (_percent(box[1], height), _percent(box[3], height))
        if label is None or right <= left or bottom <= top:
            continue
        value = {
            "x": left,
            "y": top,
            "width": round(right - left, DECIMALS),
            "height": round(bottom - top, DECIMALS),
            "rotation": 0,
            "rectanglelabels": [label],
        }
        regions.append(
            {
                "id": _region_id(place, value),
                "type": "rectanglelabels",
                "from_name": label_map.control.from_name,
                "to_name": label_map.control.to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": round(score, 4),
                "value": value,
            }
        )
    return regions


def _percent(pixels: float, length: int) -> float:
    return round(min(max(100.0 * pixels / length, 0.0), 100.0), DECIMALS)


def _region_id(place: int, value: dict[str, Any]) -> str:
    """Short, the same for the same box, and unique within the image."""
    return hashlib.sha1(f"{place} {value}".encode(), usedforsecurity=False).hexdigest()[:10]
