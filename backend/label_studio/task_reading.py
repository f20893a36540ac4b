"""Reads tasks and annotations.

Never `GET /api/tasks/ID`: a task without predictions makes Label Studio call the backend.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime, timezone
from typing import Any

from backend.errors import LabelStudioError, RefusedError
from backend.label_studio.connection import Connection
from backend.label_studio.records import AnnotationRef, TaskRef

# Their ids travel in the address, and Label Studio sends all predictions of a task along.
TASKS_A_REQUEST = 100

# The only form the Data Manager reads; it takes it for UTC.
_MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"


class TaskReading(Connection):
    """What `Studio` reads of tasks, annotations and single predictions."""

    def tasks(
        self,
        project_id: int,
        *,
        after: int = 0,
        page_size: int = 1000,
        filters: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[TaskRef]:
        """The tasks of a project, ids ascending; about 1 ms each.

        Each page asks for the ids above the last one seen, so tasks deleted or added meanwhile
        neither hide nor repeat others, and a later call with `after` costs only what is new.

        Args:
            project_id: the project.
            after: only tasks with a greater id.
            page_size: tasks a request.
            filters: more conditions, in the Data Manager's own form; all must hold.
        """
        while True:
            above = _filter("id", "greater", "Number", after)
            found, total = self._task_page(project_id, [above, *filters], page_size)
            yield from found
            if not found or total <= len(found):
                return
            after = found[-1].id

    def tasks_by_id(self, project_id: int, task_ids: Sequence[int]) -> dict[int, TaskRef]:
        """Task id -> the task, for those that are in the project.

        Raises:
            LabelStudioError: Label Studio answered with other tasks than it was asked for.
        """
        found = {}
        for start in range(0, len(task_ids), TASKS_A_REQUEST):
            asked = list(task_ids[start : start + TASKS_A_REQUEST])
            these = _filter("id", "in_list", "List", asked)
            for task in self.tasks(project_id, page_size=len(asked), filters=[these]):
                self._refuse_others({task.id} - set(asked))
                found[task.id] = task
        return found

    def ids_in_order(
        self,
        project_id: int,
        *,
        ordering: Sequence[str],
        filters: Sequence[Mapping[str, Any]],
        limit: int,
    ) -> list[int]:
        """Ids of the first tasks that a tab with this ordering and these filters shows, in order.

        Locks nothing.
        """
        found, _ = self._task_page(project_id, filters, limit, ordering=ordering)
        return [task.id for task in found]

    def changed_tasks(
        self, project_id: int, since: datetime | None, *, page_size: int = 1000
    ) -> Iterator[TaskRef]:
        """The tasks that changed at or after a moment, ids ascending.

        A task changes when an annotation of it is made, edited, skipped or deleted, and when its
        data is edited. Drafts, locks, published orders and their deletion do not change it; a
        prediction that Label Studio asked a backend for does. A deleted task is simply absent.

        Args:
            project_id: the project.
            since: to the microsecond, by Label Studio's clock: the greatest `updated_at` seen so
                far, less a few seconds, for changes become visible a little after their moment.
                None: all tasks.
            page_size: tasks a request.

        Raises:
            ValueError: `since` has no time zone.
            LabelStudioError: Label Studio answered with tasks that did not change since.
        """
        if since is None:
            yield from self.tasks(project_id, page_size=page_size)
            return
        if since.tzinfo is None:
            raise ValueError(f"{since} has no time zone")
        moment = since.astimezone(timezone.utc).strftime(_MOMENT)
        recent = _filter("updated_at", "greater_or_equal", "Datetime", moment)
        for task in self.tasks(project_id, page_size=page_size, filters=[recent]):
            if task.updated_at is None or task.updated_at < since:
                raise LabelStudioError(
                    f"Label Studio at {self.url} ignores the filter on the time of change (task "
                    f"{task.id} changed at {task.updated_at}, asked for {moment} and later): use a "
                    "version of Label Studio that this backend was tested with"
                )
            yield task

    def annotations_of(self, project_id: int, task_ids: Iterable[int]) -> list[AnnotationRef]:
        """The annotations of some tasks, by task and then by age: skipped ones too, drafts not.

        About 7 ms a task in requests of 100, and 150 ms for one alone. (Label Studio's own list of
        a task's annotations leaves out the skipped ones.)

        Raises:
            LabelStudioError: Label Studio answered with other tasks than it was asked for.
        """
        wanted = sorted(set(task_ids))
        found: list[AnnotationRef] = []
        for start in range(0, len(wanted), TASKS_A_REQUEST):
            asked = wanted[start : start + TASKS_A_REQUEST]
            found += self._annotations_of(project_id, asked)
        return sorted(found, key=lambda annotation: (annotation.task_id, annotation.id))

    def prediction(self, prediction_id: int) -> list[dict[str, Any]] | None:
        """The regions of one prediction; None: it was deleted, or never was."""
        path = f"/api/predictions/{prediction_id}/"
        try:
            return self._get(
                path,
                f"reading prediction {prediction_id}",
                read=lambda row: [*(row["result"] or [])],
            )
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def _task_page(
        self,
        project_id: int,
        filters: Sequence[Mapping[str, Any]],
        page_size: int,
        *,
        ordering: Sequence[str] = (),
    ) -> tuple[list[TaskRef], int]:
        """Some tasks, and how many there are in all."""
        params = {
            "project": project_id,
            "fields": "task_only",
            "resolve_uri": "false",
            "page_size": page_size,
            "query": _query(filters, ordering),
        }
        return self._get(
            "/api/tasks/",
            "listing tasks",
            project_id,
            params,
            read=lambda page: ([*map(TaskRef.of, page["tasks"])], int(page["total"])),
        )

    def _annotations_of(self, project_id: int, task_ids: Sequence[int]) -> list[AnnotationRef]:
        """The annotations of so many tasks as go into one request."""
        params = {
            "project": project_id,
            "fields": "all",
            "resolve_uri": "false",
            "page_size": len(task_ids),
            "query": _query([_filter("id", "in_list", "List", list(task_ids))], ()),
        }

        def read(page: Any) -> tuple[set[int], list[AnnotationRef]]:
            rows = page["tasks"]
            annotations = [AnnotationRef.of(found) for row in rows for found in row["annotations"]]
            return {row["id"] for row in rows}, annotations

        there, found = self._get(
            "/api/tasks/", "reading annotations", project_id, params, read=read
        )
        self._refuse_others(there - set(task_ids))
        return found

    def _refuse_others(self, others: Set[int]) -> None:
        if others:
            raise LabelStudioError(
                f"Label Studio at {self.url} ignores the filter on task ids (it sent task "
                f"{min(others)}): use a version of Label Studio that this backend was tested with"
            )


def _query(filters: Sequence[Mapping[str, Any]], ordering: Sequence[str]) -> str:
    items: dict[str, Any] = {}
    if filters:
        items["filters"] = {"conjunction": "and", "items": list(filters)}
    if ordering:
        items["ordering"] = list(ordering)
    return json.dumps(items, separators=(",", ":"))


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {
        "filter": f"filter:tasks:{column}",
        "operator": operator,
        "type": kind,
        "value": value,
    }
