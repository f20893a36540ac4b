"""The contract of a detector: what the rest of the project may rely on, whatever runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.vision.letterbox import Letterbox
from backend.vision.picture import Picture


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image, ready for a detector.

    Args:
        pixels: (3, H, W) uint8 RGB, letterboxed.
        letterbox: the way from input pixels back to image pixels.
    """

    pixels: NDArray[np.uint8]
    letterbox: Letterbox


@dataclass(frozen=True, eq=False)
class Found:
    """What one pass of a detector finds in an image. D feature dimensions.

    Args:
        detections: its objects.
        image_vector: (D,) float32 of length 1: the features of the whole image; None where the
            weights hold no features, or the objects were known before.
        object_vector: (D,) likewise: those of its most uncertain objects; see `vision/regions.py`.
    """

    detections: Detections
    image_vector: NDArray[np.float32] | None = None
    object_vector: NDArray[np.float32] | None = None


class Detector(Protocol):
    """Finds objects. Glossary: N images in a batch, C classes, D feature dimensions."""

    @property
    def version(self) -> str:
        """12 hex digits that change whenever the same image may be scored differently."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """(C,) names, in the order of `Detections.class_scores`."""

    @property
    def input_size(self) -> int:
        """The longer side of its input, in pixels. More resolution than this is never used."""

    @property
    def floor(self) -> float:
        """Boxes below this class score (0..1) are dropped."""

    @property
    def has_features(self) -> bool:
        """Whether its features can be had: not every export of others has them."""

    def prepare(self, picture: Picture) -> Prepared:
        """Scale and pad. Cheap, and safe to call from many threads."""

    def detect(self, batch: Sequence[Prepared]) -> list[Found]:
        """The objects of each image, in order. Call it from one thread at a time."""

    def features(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(N, D) float32 rows of length 1 that say what each `Prepared.pixels` shows.

        Raises:
            WeightsError: the weights are an export that holds no features.
        """
