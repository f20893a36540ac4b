"""The consensus of the annotators of one image.

- Cancelled (skipped) annotations do not count. Without any other there is no consensus, which is
  not the same as an annotation without boxes: that one says the image shows nothing.
- A ground truth counts alone; of several the newest.
- Of several annotations by one annotator the newest counts. Those without a known annotator count
  one by one.
- Boxes of the same label with an IoU of at least 0.5 are one object, best IoU first; so are then
  boxes of different labels. An object has at most one box of each annotator.
- An object stays if at least half of the annotators saw it. Of two annotators one is enough: to
  miss an object is the more common error than to draw one that is not there.
- Its box is the coordinate-wise median. Its label is what most of its annotators say; on a tie, the
  tied label of the earliest annotation.

Unknown times count as the earliest. The order of the input changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from statistics import median
from typing import Any

import numpy as np

from backend.boxes import SAME_OBJECT_IOU
from backend.label_studio.regions import Box, overlaps

_UNKNOWN_TIME = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Annotation:
    """One annotation of an image.

    Args:
        annotator: Label Studio's number of the user; None: unknown.
        boxes: its boxes, see `regions.read_boxes`.
        ground_truth: whether it was marked as the truth.
        was_cancelled: whether the task was skipped.
        updated_at: when it last changed; without a time zone it counts as UTC.
    """

    annotator: int | None
    boxes: tuple[Box, ...]
    ground_truth: bool = False
    was_cancelled: bool = False
    updated_at: datetime | None = None


@dataclass(frozen=True)
class _Seen:
    """A box, and which annotation it is in (0 is the earliest)."""

    annotation: int
    box: Box


def consensus(annotations: Sequence[Annotation]) -> tuple[Box, ...] | None:
    """One set of boxes for one image, by the rules at the top of this file.

    Args:
        annotations: all annotations of the image, in any order.

    Returns:
        The boxes, each with the region id that it has in the earliest annotation; empty: the image
        shows nothing (a background image); None: there is no annotation that counts.
    """
    counted = _counted(annotations)
    if not counted:
        return None
    seen = [_Seen(place, box) for place, found in enumerate(counted) for box in found.boxes]
    return tuple(_merged(group) for group in _objects(seen) if 2 * len(group) >= len(counted))


def _counted(annotations: Sequence[Annotation]) -> list[Annotation]:
    """The annotations that count, at most one of each annotator, earliest first."""
    given = sorted(
        (annotation for annotation in annotations if not annotation.was_cancelled), key=_age
    )
    truths = [annotation for annotation in given if annotation.ground_truth]
    if truths:
        return truths[-1:]
    newest = {
        annotation.annotator: annotation for annotation in given if annotation.annotator is not None
    }
    unknown = [annotation for annotation in given if annotation.annotator is None]
    return sorted([*newest.values(), *unknown], key=_age)


def _age(annotation: Annotation) -> tuple[Any, ...]:
    """Sorts the earliest first; its later parts only make the order a total one."""
    time = annotation.updated_at or _UNKNOWN_TIME
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    boxes = [(box.label, box.xyxy, box.region_id) for box in annotation.boxes]
    return (time, annotation.annotator is not None, annotation.annotator or 0, boxes)


def _objects(seen: Sequence[_Seen]) -> list[list[_Seen]]:
    """Groups of boxes that are one object, in the order of their earliest boxes."""
    boxes = [one.box for one in seen]
    share = overlaps(boxes, boxes)
    pairs = [
        (boxes[i].label != boxes[j].label, -share[i, j], i, j)
        for i, j in np.argwhere(np.triu(share >= SAME_OBJECT_IOU, 1)).tolist()
    ]
    groups = {place: [place] for place in range(len(seen))}
    group_of = list(range(len(seen)))
    for _, _, i, j in sorted(pairs):
        into, gone = sorted((group_of[i], group_of[j]))
        theirs = [{seen[place].annotation for place in groups[key]} for key in (into, gone)]
        if theirs[0].isdisjoint(theirs[1]):
            for place in groups[gone]:
                group_of[place] = into
            groups[into] += groups.pop(gone)
    return [[seen[place] for place in sorted(group)] for group in groups.values()]


def _merged(group: Sequence[_Seen]) -> Box:
    """One box for one object, whose boxes come with the earliest annotation's first."""
    left, top, right, bottom = zip(*(one.box.xyxy for one in group), strict=True)
    votes = Counter(one.box.label for one in group)  # on a tie: the label counted first
    return replace(
        group[0].box,
        label=votes.most_common(1)[0][0],
        xyxy=(median(left), median(top), median(right), median(bottom)),
    )
