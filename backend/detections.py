"""What a detector saw in one image: boxes in pixels with the scores of every class.

Glossary: N boxes, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEATURES_OF = "detector-"


def features_name(detector: str) -> str:
    """What a detector's own features are called where encoders are named; `detector`: its version.

    >>> features_name("0123abcd"), is_features_name("openclip-ViT-B-32-0123abcd")
    ('detector-0123abcd', False)
    """
    return f"{_FEATURES_OF}{detector}"


def is_features_name(encoder: str) -> bool:
    """Whether an encoder of this name is a detector."""
    return encoder.startswith(_FEATURES_OF)


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one image, most confident first.

    Args:
        xyxy: (N, 4) float32, left, top, right, bottom in pixels of the upright image
            (EXIF orientation applied), clipped to it.
        class_scores: (N, C) float32 in 0..1. Independent scores (sigmoids): rows do not sum to 1.
        peak_score: the best class score anywhere in the image, kept or not, in 0..1. It is what
            distinguishes images without boxes.
        image_size: (width, height) in pixels of the upright image.

    Raises:
        ValueError: a shape, range or order that does not hold.

    >>> seen = Detections(np.array([[0, 0, 8, 8]]), np.array([[0.9, 0.2]]), 0.9, (16, 16))
    >>> len(seen), seen.class_ids.tolist()
    (1, [0])
    """

    xyxy: NDArray[np.float32]
    class_scores: NDArray[np.float32]
    peak_score: float
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, dtype=np.float32)
        scores = np.asarray(self.class_scores, dtype=np.float32)
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "class_scores", scores)
        if xyxy.ndim != 2 or xyxy.shape[1] != 4:
            raise ValueError(f"xyxy must have shape (N, 4), not {xyxy.shape}")
        if scores.ndim != 2 or scores.shape[0] != xyxy.shape[0] or scores.shape[1] == 0:
            raise ValueError(
                f"class_scores must have shape ({xyxy.shape[0]}, C) with C > 0, not {scores.shape}"
            )
        if not np.isfinite(xyxy).all():
            raise ValueError("xyxy holds NaN or infinity")
        # Written so that NaN fails too.
        if not ((scores >= 0) & (scores <= 1)).all() or not 0 <= self.peak_score <= 1:
            raise ValueError("scores must lie in 0..1")
        width, height = self.image_size
        if width <= 0 or height <= 0:
            raise ValueError(f"image_size must be positive, not {self.image_size}")

    def __len__(self) -> int:
        return len(self.xyxy)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(N,) the best class score of each box, 0..1, higher = more certain."""
        best: NDArray[np.float32] = self.class_scores.max(axis=1)
        return best

    @property
    def class_ids(self) -> NDArray[np.intp]:
        """(N,) the index of each box's best class."""
        best: NDArray[np.intp] = self.class_scores.argmax(axis=1)
        return best

    def above(self, threshold: float) -> Detections:
        """The boxes whose confidence is at least `threshold` (0..1)."""
        keep = self.confidence >= threshold
        return Detections(
            self.xyxy[keep], self.class_scores[keep], self.peak_score, self.image_size
        )
