"""What the annotators of one image say together.

- Cancelled (skipped) annotations are no answers. Without any other there is no answer at all, which
  is not the same as an answer without boxes: that one says the image shows nothing.
- A ground truth counts alone; of several the newest.
- Of several answers by one annotator the newest counts. Answers by nobody known count one by one.
- Boxes of the same label with an IoU of at least 0.5 are one object, best IoU first; so are then
  boxes of different labels. An object has at most one box of each annotator.
- An object stays if at least half of the annotators saw it. Of two annotators one is enough: to
  miss an object is the more common error than to draw one that is not there.
- Its box is the coordinate-wise median. Its label is what most of its annotators say; on a tie, the
  tied label of the earliest answer.

Times that are not known count as the earliest. The order in which the answers come changes nothing.
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
class Answer:
    """One annotation of an image.

    Args:
        annotator: Label Studio's number of who made it; None: nobody known.
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
    """A box, and which of the answers it is in (0 is the earliest)."""

    answer: int
    box: Box


def consensus(answers: Sequence[Answer]) -> tuple[Box, ...] | None:
    """One set of boxes for one image, by the rules at the top of this file.

    Args:
        answers: all annotations of the image, in any order.

    Returns:
        The boxes, each with the region id that it has in the earliest answer; empty: the image
        shows nothing (a background image); None: nobody answered.
    """
    counted = _counted(answers)
    if not counted:
        return None
    seen = [_Seen(place, box) for place, answer in enumerate(counted) for box in answer.boxes]
    return tuple(_merged(group) for group in _objects(seen) if 2 * len(group) >= len(counted))


def _counted(answers: Sequence[Answer]) -> list[Answer]:
    """The answers that count, at most one of each annotator, earliest first."""
    given = sorted((answer for answer in answers if not answer.was_cancelled), key=_age)
    truths = [answer for answer in given if answer.ground_truth]
    if truths:
        return truths[-1:]
    newest = {answer.annotator: answer for answer in given if answer.annotator is not None}
    unknown = [answer for answer in given if answer.annotator is None]
    return sorted([*newest.values(), *unknown], key=_age)


def _age(answer: Answer) -> tuple[Any, ...]:
    """Sorts the earliest first; its later parts only make the order a total one."""
    time = answer.updated_at or _UNKNOWN_TIME
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    boxes = [(box.label, box.xyxy, box.region_id) for box in answer.boxes]
    return (time, answer.annotator is not None, answer.annotator or 0, boxes)


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
        answers = [{seen[place].answer for place in groups[key]} for key in (into, gone)]
        if answers[0].isdisjoint(answers[1]):
            for place in groups[gone]:
                group_of[place] = into
            groups[into] += groups.pop(gone)
    return [[seen[place] for place in sorted(group)] for group in groups.values()]


def _merged(group: Sequence[_Seen]) -> Box:
    """One box for one object, whose boxes come with the earliest answer's first."""
    left, top, right, bottom = zip(*(one.box.xyxy for one in group), strict=True)
    votes = Counter(one.box.label for one in group)  # on a tie: the label counted first
    return replace(
        group[0].box,
        label=votes.most_common(1)[0][0],
        xyxy=(median(left), median(top), median(right), median(bottom)),
    )
