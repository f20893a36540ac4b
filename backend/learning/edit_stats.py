"""What pre-annotation saves: what annotators did to the boxes they were shown, and in what time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from backend.label_studio.edits import Edits, compare
from backend.label_studio.label_map import RectangleControl
from backend.label_studio.regions import read_boxes
from backend.store.annotations import AnnotationStore, StoredAnnotation


@dataclass(frozen=True)
class Savings:
    """Totals over answers; skipped ones do not count.

    Args:
        answers: how many.
        prefilled: those that began from a prediction. Only their boxes are counted in `edits`.
        edits: boxes accepted, moved, relabelled, added and deleted.
        timed: answers whose lead time is known.
        seconds: Label Studio's lead time of these, together.
    """

    answers: int = 0
    prefilled: int = 0
    edits: Edits = field(default_factory=Edits)
    timed: int = 0
    seconds: float = 0.0

    def __sub__(self, other: Savings) -> Savings:
        """What came after `other`."""
        mine, theirs = asdict(self.edits), asdict(other.edits)
        return Savings(
            answers=self.answers - other.answers,
            prefilled=self.prefilled - other.prefilled,
            edits=Edits(**{name: mine[name] - theirs[name] for name in mine}),
            timed=self.timed - other.timed,
            seconds=self.seconds - other.seconds,
        )

    @property
    def shown(self) -> int:
        """Boxes that annotators were shown."""
        return self.edits.shown

    @property
    def seconds_each(self) -> float | None:
        """Mean lead time of an answer, in seconds; None: of none it is known."""
        return self.seconds / self.timed if self.timed else None

    def as_json(self) -> dict[str, Any]:
        """Plain types; `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Savings:
        """The savings that `as_json` wrote; none where there is nothing."""
        return cls(**{**data, "edits": Edits(**data["edits"])}) if data else cls()


def add_up(answers: Iterable[StoredAnnotation], control: RectangleControl) -> Savings:
    """The totals of these answers, under the project's labels as they are now."""
    count = prefilled = timed = 0
    edits, seconds = Edits(), 0.0
    for answer in answers:
        if answer.was_cancelled:
            continue
        count += 1
        if answer.lead_time is not None:
            timed += 1
            seconds += answer.lead_time
        if answer.shown is not None:
            prefilled += 1
            shown = read_boxes(list(answer.shown), control).boxes
            edits += compare(shown, read_boxes(list(answer.result), control).boxes)
    return Savings(count, prefilled, edits, timed, seconds)


def total_savings(answers: AnnotationStore, project_id: int, control: RectangleControl) -> Savings:
    """The totals of all answers of a project."""
    by_task = answers.by_task(project_id)
    return add_up((answer for found in by_task.values() for answer in found), control)
