"""Vectors of an image and of its objects, made into the one row that ranking compares.

Glossary: N images, D dimensions of an image's vector, E of its objects'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["OBJECT_SHARE", "Whitening", "join_rows", "near_duplicate_cosine"]

# Share of the mean variance that whitening adds to each. From 0.003 to 0.3, the images of a scene
# were nearer to each other than to any other scene's in 91 to 96% of cases (67%: only centred).
_RIDGE = 0.03
# Of few images little is known of how they vary: the share is then this, over their number.
_RIDGE_IMAGES = 50
# More images tell no more of how they vary.
_FIT_ROWS = 20_000
_ROWS_AT_ONCE = 4096

# How much the objects count beside the whole image, as a share of the cosine.
OBJECT_SHARE = 0.5

# The cosine from which two vectors are of near-duplicates: OpenCLIP's, and a detector's, whitened.
# Whitened rows of unrelated images are about orthogonal, and those of one scene are not as near to
# each other as OpenCLIP's: on the benchmarks' pool C, 0.7 halved the pool and put 0.5% of the
# images to another scene; 0.65 put 1.8% there, 0.8 left three quarters.
_NEAR = 0.95
_NEAR_WHITENED = 0.7


def near_duplicate_cosine(*, whitened: bool, objects: bool) -> float:
    """The cosine from which two images count as near-duplicates.

    Args:
        whitened: whether the images' vectors are; those of objects always are.
        objects: whether rows hold objects too.
    """
    image = _NEAR_WHITENED if whitened else _NEAR
    share = OBJECT_SHARE if objects else 0.0
    return (1 - share) * image + share * _NEAR_WHITENED


def join_rows(
    views: Sequence[tuple[NDArray[np.floating], Whitening | None]],
) -> NDArray[np.float16]:
    """Put the vectors of each image and of its objects side by side.

    The cosine of two rows is the weighted mean of the cosine of the images and the cosine of their
    objects.

    Args:
        views: unit vectors and how to whiten them: (N, D) of the whole images, then, where there
            are any, (N, E) of their objects.

    Returns:
        (N, D + E) unit rows. Rows may be compared that were whitened alike.
    """
    shares = (1 - OBJECT_SHARE, OBJECT_SHARE) if len(views) > 1 else (1.0,)
    width = sum(vectors.shape[1] for vectors, _ in views)
    rows = np.empty((len(views[0][0]), width), dtype=np.float16)
    column = 0
    for (vectors, whiten), share in zip(views, shares, strict=True):
        columns = slice(column, column := column + vectors.shape[1])
        # A few at a time: as float32 they take up twice the memory.
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            part = vectors[start : start + _ROWS_AT_ONCE].astype(np.float32)
            part = part if whiten is None else whiten(part)
            rows[start : start + _ROWS_AT_ONCE, columns] = part * np.float32(np.sqrt(share))
    return rows


@dataclass(frozen=True, eq=False)
class Whitening:
    """Turns vectors into directions in which every principal component counts about the same.

    A detector's vectors share a large common part: as they are, most of a pool are near-duplicates.

    PCA whitening (Jegou and Chum, 2012, "Negative evidences and co-occurences in image retrieval"),
    with a share of the mean variance added to each, so that directions in which nothing differs
    do not count, and near-duplicates stay near in a pool of a few images.

    Args:
        mean: (D,) of the vectors.
        scaled: (D, D) the components, as columns divided by the spread of each.
        fitted_on: how many vectors there were.
    """

    mean: NDArray[np.float32]
    scaled: NDArray[np.float32]
    fitted_on: int

    @classmethod
    def fit(cls, rows: NDArray[np.floating]) -> Whitening:
        """By (N, D) vectors, evenly spaced ones of many."""
        count = len(rows)
        rows = rows[:: -(-len(rows) // _FIT_ROWS) or 1].astype(np.float64)
        if len(rows) < 2:
            dims = rows.shape[1]
            return cls(np.zeros(dims, np.float32), np.eye(dims, dtype=np.float32), count)
        mean = rows.mean(axis=0)
        rows -= mean
        variances, components = np.linalg.eigh(rows.T @ rows / len(rows))
        ridge = max(_RIDGE, _RIDGE_IMAGES / len(rows))
        scales = np.sqrt(variances.clip(0) + ridge * variances.mean())
        scaled = components / np.maximum(scales, 1e-9)
        return cls(mean.astype(np.float32), scaled.astype(np.float32), count)

    def still_fits(self, count: int) -> bool:
        """Whether `count` vectors are not so many more that another one would know more of them.

        One that is kept leaves rows as they were, so that near-duplicates need not be looked for
        again.
        """
        return count < 2 * self.fitted_on

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) vectors as unit rows; one that is the mean, which has no direction, as it is."""
        white = (rows - self.mean) @ self.scaled
        lengths = np.linalg.norm(white, axis=1, keepdims=True)
        degenerate = lengths <= 1e-6
        unit: NDArray[np.float32] = np.where(
            degenerate, rows, white / np.where(degenerate, 1, lengths)
        )
        return unit
