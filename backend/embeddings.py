"""Embeddings of an image and of its objects, made into the one row that ranking compares.

Glossary: N images, K objects of one image, D dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["CROP_SHARE", "join_views", "mean_direction"]

# How much the object crops count beside the whole image, as a share of the cosine.
CROP_SHARE = 0.5

Vectors = Mapping[str, NDArray[np.float32]]


def mean_direction(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, D) unit rows -> the (D,) unit vector nearest to all of them."""
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean))
    direction: NDArray[np.float32] = mean / length if length > 1e-6 else rows[0]
    return direction


def join_views(
    images: Vectors, crops: Vectors, keys: Sequence[str], *, centred: bool
) -> NDArray[np.float32]:
    """Put the whole image and its object crops side by side.

    The cosine of two rows is the weighted mean of the cosine of the images and the cosine of their
    crops. An image without objects is its own only crop.

    Args:
        images: key of an image to its (D,) unit vector; all of `keys` are there.
        crops: key of an image to the (D,) mean direction of its objects, where it has any.
        keys: which images, in which order.
        centred: subtract the mean of each view first and scale to length 1 again. A detector's
            features share a large common part: uncentred, most of a pool are near-duplicates.

    Returns:
        (N, 2 D) unit rows. Rows of one call may be compared; centred ones of two calls may not.
    """
    if centred:
        images, crops = _centred(images), _centred(crops)
    image_part, crop_part = np.sqrt(1 - CROP_SHARE), np.sqrt(CROP_SHARE)
    dim = len(images[keys[0]]) if keys else 0
    rows = np.empty((len(keys), 2 * dim), dtype=np.float32)
    for row, key in zip(rows, keys, strict=True):
        row[:dim] = image_part * images[key]
        row[dim:] = crop_part * crops.get(key, images[key])
    return rows


def _centred(vectors: Vectors) -> Vectors:
    if len(vectors) < 2:
        return vectors
    mean = np.mean(list(vectors.values()), axis=0)
    moved = {key: vector - mean for key, vector in vectors.items()}
    lengths = {key: float(np.linalg.norm(vector)) for key, vector in moved.items()}
    return {
        key: vector / lengths[key] if lengths[key] > 1e-6 else vectors[key]
        for key, vector in moved.items()
    }
