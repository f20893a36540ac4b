"""The detector's feature maps -> unit vectors of the whole image and of its objects.

Glossary: C channels of all maps together, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.vision.letterbox import Letterbox

Maps = Sequence[NDArray[np.float32]]
"""What the detector's head works on: (c, h, w) for each scale of one image."""

# Objects that stand for an image: those the detector is least sure of.
OBJECTS = 3
# Points in each direction at which a box is sampled.
_SAMPLES = 4


def image_vector(maps: Maps) -> NDArray[np.float32]:
    """(C,) unit vector: the mean of each channel over the whole input."""
    return _unit(np.concatenate([level.mean(axis=(1, 2)) for level in maps]))


def object_vector(maps: Maps, detections: Detections, letterbox: Letterbox) -> NDArray[np.float32]:
    """(C,) unit vector: the mean direction of the image's most uncertain objects.

    An object is the mean of each channel over its box (RoIAlign with one bin: He et al. 2017,
    "Mask R-CNN"). A box is the more uncertain the closer its best class score is to 0.5, where the
    binary entropy of an independent score is greatest. An image without objects is its own only
    object.

    Args:
        maps: of the image.
        detections: its objects.
        letterbox: how the image lies in the input.
    """
    if not len(detections):
        return image_vector(maps)
    # Stable, so that equally uncertain boxes stay in the detector's order.
    order = np.argsort(np.abs(detections.confidence - 0.5), kind="stable")[:OBJECTS]
    boxes = letterbox.to_input(detections.xyxy[order])
    rows = _unit(_region_means(maps, boxes, letterbox.input_size[0]))
    return _unit(rows.mean(axis=0))


def _region_means(maps: Maps, boxes: NDArray[np.float32], input_width: int) -> NDArray[np.float32]:
    """(K, C) of K boxes in input pixels."""
    import torch
    from torchvision.ops import roi_align

    corners = [torch.from_numpy(boxes)]
    means = [
        roi_align(
            torch.from_numpy(level)[None],
            corners,
            output_size=1,
            spatial_scale=level.shape[2] / input_width,
            sampling_ratio=_SAMPLES,
            aligned=True,
        )
        for level in maps
    ]
    found: NDArray[np.float32] = torch.cat(means, 1)[:, :, 0, 0].numpy()
    return found


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector, or each row of a matrix, at length 1."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
