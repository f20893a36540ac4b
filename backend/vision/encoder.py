"""The contract of an encoder, and the one that reuses the detector's own features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backend.detections import features_name
from backend.vision.detector import Detector
from backend.vision.picture import Picture


class Encoder(Protocol):
    """Says what pixels show, as a point on the unit sphere. N images, D dimensions."""

    @property
    def name(self) -> str:
        """The encoder with its weights. Embeddings of one name may be compared, others not."""

    @property
    def dim(self) -> int:
        """D."""

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB -> the encoder's input. Safe to call from many threads."""

    def encode(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(N, D) float32 rows of length 1, in order. Call it from one thread at a time."""


class DetectorEncoder:
    """The detector's features as embeddings: no further weights, less meaning than CLIP.

    Pooled activations share a large common part: the cosine of two unrelated images is often above
    0.9, that of two microscope photographs above 0.97. Ranking whitens them by the pool before it
    compares them: see `backend/selection/embeddings.py`.

    Implements `Encoder`. Where whole images are detected anyway, `Models.observe` takes both from
    one pass.
    """

    def __init__(self, detector: Detector) -> None:
        """Embed with `detector`.

        Raises:
            WeightsError: the detector is an export that holds no features.
        """
        self._detector = detector
        self.name = features_name(detector.version)
        # Asked once, now, so that an export without features fails at start, not at work.
        self.dim = self.encode([self.prepare(np.zeros((32, 32, 3), dtype=np.uint8))]).shape[1]

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Encoder`."""
        height, width = pixels.shape[:2]
        return self._detector.prepare(Picture(pixels, (width, height))).pixels

    def encode(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `Encoder`."""
        return self._detector.features(batch)

    @property
    def detector(self) -> Detector:
        """The detector whose features these are."""
        return self._detector
