"""What pre-annotation saved: an annotation's boxes beside those that its annotator was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.boxes import pair_boxes
from backend.label_studio.regions import Box, overlaps

# Sides this near to each other (as a share of the image: half a pixel of 5,000) are the same:
# ten times what `results.py` rounds off, and less than a hand can move.
SAME_SIDE = 1e-4


@dataclass(frozen=True)
class Edits:
    """How many boxes an annotator kept, changed and drew. Those of several annotations add up.

    Args:
        accepted: shown boxes that stayed as they were: same label, all sides within `SAME_SIDE`.
        moved: shown boxes with the same label and other sides.
        relabelled: shown boxes with another label, moved or not.
        added: boxes that were not shown.
        deleted: shown boxes that are gone.
    """

    accepted: int = 0
    moved: int = 0
    relabelled: int = 0
    added: int = 0
    deleted: int = 0

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            self.accepted + other.accepted,
            self.moved + other.moved,
            self.relabelled + other.relabelled,
            self.added + other.added,
            self.deleted + other.deleted,
        )

    @property
    def shown(self) -> int:
        """Boxes that annotators were shown."""
        return self.accepted + self.moved + self.relabelled + self.deleted


def compare(shown: Sequence[Box], answered: Sequence[Box]) -> Edits:
    """What an annotator did to the boxes of one image.

    A box keeps the id of its region in Label Studio's editor, however it is moved or renamed. What
    has no partner of its id is paired by place: IoU of at least 0.5, best first, and of equally
    good ones the same label first.

    Args:
        shown: the boxes of the prediction that the annotation began from, see `regions.read_boxes`.
        answered: the boxes of the annotation.
    """
    pairs = _pairs(shown, answered)
    same_label = [(a, b) for a, b in pairs if a.label == b.label]
    accepted = sum(_same_sides(a, b) for a, b in same_label)
    return Edits(
        accepted=accepted,
        moved=len(same_label) - accepted,
        relabelled=len(pairs) - len(same_label),
        added=len(answered) - len(pairs),
        deleted=len(shown) - len(pairs),
    )


def _pairs(shown: Sequence[Box], answered: Sequence[Box]) -> list[tuple[Box, Box]]:
    partners: dict[int, int] = {}
    by_id = {box.region_id: j for j, box in enumerate(answered) if box.region_id}
    for i, box in enumerate(shown):
        if box.region_id in by_id:
            partners[i] = by_id.pop(box.region_id)
    share = overlaps(shown, answered)
    share[list(partners)] = 0  # paired by id already
    share[:, list(partners.values())] = 0
    differs = np.array([[a.label != b.label for b in answered] for a in shown], dtype=bool)
    partners |= pair_boxes(share, differs.reshape(share.shape))
    return [(shown[i], answered[j]) for i, j in partners.items()]


def _same_sides(a: Box, b: Box) -> bool:
    return all(abs(x - y) <= SAME_SIDE for x, y in zip(a.xyxy, b.xyxy, strict=True))
