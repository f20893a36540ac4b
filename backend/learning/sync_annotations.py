"""Reads new and changed annotations of Label Studio into the store.

Events only trigger a read: they may come twice, out of order, or never. What counts is what Label
Studio holds when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

from backend.label_studio.client import Studio
from backend.label_studio.records import AnnotationRef, ProjectInfo
from backend.label_studio.task_reading import TASKS_A_REQUEST
from backend.store.annotations import AnnotationStore, StoredAnnotation

# A change becomes visible a little after the moment it carries.
_OVERLAP = timedelta(seconds=5)
_NEXT_MOMENT = timedelta(microseconds=1)  # Label Studio's moments are whole microseconds
_NEVER = datetime.min.replace(tzinfo=timezone.utc)


class AnnotationReader:
    """Keeps the stored annotations of projects up to date.

    Args:
        studio: where they are made.
        answers: where they are stored.
    """

    def __init__(self, studio: Studio, answers: AnnotationStore) -> None:
        self._studio = studio
        self._answers = answers

    def read(
        self,
        project: ProjectInfo,
        *,
        listed_by: datetime | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Read the annotations of all tasks that changed since the last read.

        Each batch is stored as it comes: a run that was killed resumes there.

        Args:
            project: the project.
            listed_by: when the changes were listed the last time, or later; None: unknown. What
                changed at the same moment is read again until it is known to be complete.
            on_progress: called with (tasks read, tasks that changed).

        Returns:
            How many tasks were read.

        Raises:
            LabelStudioError: Label Studio does not answer; what was read is stored.
        """
        last = self._answers.read_until(project.id)
        since = None if last is None else last - _OVERLAP
        began = datetime.now(timezone.utc)
        found = list(self._studio.changed_tasks(project.id, since))
        self._answers.polled(project.id)
        changed = sorted(found, key=lambda task: task.updated_at or _NEVER)
        for start in range(0, len(changed), TASKS_A_REQUEST):
            on_progress(start, len(changed))
            batch = changed[start : start + TASKS_A_REQUEST]
            self._read_tasks(project.id, [task.id for task in batch])
            # Oldest change first: what is behind us is read, wherever this run ends.
            self._answers.set_read_until(project.id, batch[-1].updated_at or _NEVER)
        on_progress(len(changed), len(changed))
        waited = listed_by is not None and began - listed_by >= _OVERLAP
        if waited and last is not None and changed and changed[-1].updated_at == last:
            # `last` was visible by then: all that changed up to `last` is by now, and was read.
            self._answers.set_read_until(project.id, last + _OVERLAP + _NEXT_MOMENT)
        if project.labelled_count < len(self._answers.answered_tasks(project.id)):
            there = (task.id for task in self._studio.tasks(project.id))
            self._answers.forget_absent(project.id, there)
        return len(changed)

    def _read_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        by_task: dict[int, list[AnnotationRef]] = {task_id: [] for task_id in task_ids}
        for found in self._studio.annotations_of(project_id, task_ids):
            by_task[found.task_id].append(found)
        for task_id, answered in by_task.items():
            stored = self._answers.of_task(project_id, task_id)
            before = {answer.annotation_id: answer for answer in stored}
            rows = [self._answer(found, before.get(found.id)) for found in answered]
            if rows != stored:
                self._answers.replace(project_id, task_id, rows)

    def _answer(self, found: AnnotationRef, before: StoredAnnotation | None) -> StoredAnnotation:
        # The prediction is read once, while it is there: replaced orders go after a while.
        if before is not None:
            shown = before.shown
        elif found.parent_prediction is not None:
            shown = self._studio.prediction(found.parent_prediction)
        else:
            shown = None
        return StoredAnnotation(
            annotation_id=found.id,
            task_id=found.task_id,
            annotator=found.annotator,
            was_cancelled=found.was_cancelled,
            ground_truth=found.ground_truth,
            lead_time=found.lead_time,
            result=found.result,
            shown=shown,
            updated_at=found.updated_at,
        )
