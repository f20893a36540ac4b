"""Embeddings of an image and of its objects, made into the one row that ranking compares.

Glossary: N images, K objects of one image, D dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["CROP_SHARE", "join_rows", "join_views", "mean_direction", "near_duplicate_cosine"]

# Share of the mean variance that whitening adds to each. From 0.003 to 0.3, the images of a scene
# were nearer to each other than to any other scene's in 91 to 96% of cases (67%: only centred).
_RIDGE = 0.03
# Of few images little is known of how they vary: the share is then this, over their number.
_RIDGE_IMAGES = 50

# How much the object crops count beside the whole image, as a share of the cosine.
CROP_SHARE = 0.5

Vectors = Mapping[str, NDArray[np.float32]]


def near_duplicate_cosine(*, whitened: bool) -> float:
    """The cosine from which two images count as near-duplicates.

    Whitened rows of unrelated images are about orthogonal, and those of one scene are not as near
    to each other as OpenCLIP's: on the benchmarks' pool C, 0.7 halved the pool and put 0.5% of the
    images to another scene; 0.65 put 1.8% there, 0.8 left three quarters.
    """
    return 0.7 if whitened else 0.95


def mean_direction(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, D) unit rows -> the (D,) unit vector nearest to all of them."""
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean))
    direction: NDArray[np.float32] = mean / length if length > 1e-6 else rows[0]
    return direction


def join_views(
    images: Vectors, crops: Vectors, keys: Sequence[str], *, whitened: bool
) -> NDArray[np.float32]:
    """Put the whole image and its object crops side by side.

    The cosine of two rows is the weighted mean of the cosine of the images and the cosine of their
    crops. An image without objects is its own only crop.

    Args:
        images: key of an image to its (D,) unit vector; all of `keys` are there.
        crops: key of an image to the (D,) mean direction of its objects, where it has any.
        keys: which images, in which order.
        whitened: whiten each view first. A detector's features share a large common part: as they
            are, most of a pool are near-duplicates.

    Returns:
        (N, 2 D) unit rows. Rows of one call may be compared; whitened ones of two calls may not.
    """
    if whitened:
        images, crops = _whitened(images), _whitened(crops)
    if not keys:
        return np.empty((0, 0), dtype=np.float32)
    return join_rows(
        np.stack([images[key] for key in keys]),
        np.stack([crops.get(key, images[key]) for key in keys]),
    )


def join_rows(images: NDArray[np.float32], crops: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `join_views` makes of views that are matrices already.

    Args:
        images: (N, D) unit vectors of the whole images.
        crops: (N, D) mean directions of their objects; of an image without any, the image again.

    Returns:
        (N, 2 D) unit rows.
    """
    dim = images.shape[1]
    rows = np.empty((len(images), 2 * dim), dtype=np.float32)
    np.multiply(images, np.float32(np.sqrt(1 - CROP_SHARE)), out=rows[:, :dim])
    np.multiply(crops, np.float32(np.sqrt(CROP_SHARE)), out=rows[:, dim:])
    return rows


def _whitened(vectors: Vectors) -> Vectors:
    """The rows turned into directions in which every principal component counts about the same.

    PCA whitening (Jegou and Chum, 2012, "Negative evidences and co-occurences in image retrieval"),
    with a share of the mean variance added to each, so that directions in which nothing differs
    do not count, and near-duplicates stay near in a pool of a few images.
    """
    if len(vectors) < 2:
        return vectors
    rows = np.array(list(vectors.values()), dtype=np.float32)
    rows -= rows.mean(axis=0)
    variances, components = np.linalg.eigh(rows.T.astype(np.float64) @ rows / len(rows))
    ridge = max(_RIDGE, _RIDGE_IMAGES / len(rows))
    scales = np.sqrt(variances.clip(0) + ridge * variances.mean())
    rows @= (components / np.maximum(scales, 1e-9)).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    return {
        key: row / length if length > 1e-6 else vectors[key]
        for key, row, length in zip(vectors, rows, lengths, strict=True)
    }
