"""Annotations as last read, the tasks of the hold-out, and which projects are watched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import delete, func, select, update

from backend.store import tables
from backend.store.database import Database, utc


@dataclass(frozen=True)
class StoredAnnotation:
    """One annotation.

    Args:
        annotation_id: its number in Label Studio.
        task_id: its task.
        annotator: who made it; None: unknown.
        was_cancelled: the task was skipped.
        ground_truth: marked as such in Label Studio.
        lead_time: seconds spent on it; None: unknown.
        result: its regions.
        shown: the regions of the prediction it began from; None: it began from none.
        updated_at: when it last changed.
    """

    annotation_id: int
    task_id: int
    annotator: int | None
    was_cancelled: bool
    ground_truth: bool
    lead_time: float | None
    result: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, Any]] | None
    updated_at: datetime | None


class AnnotationStore:
    """Annotations in the store. Safe for several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- answers ------------------------------------------------------------------------------

    def replace(self, project_id: int, task_id: int, answers: Sequence[StoredAnnotation]) -> None:
        """Store these as all annotations of a task, in place of those before."""
        c = tables.answers.c
        with self._database.begin() as connection:
            connection.execute(
                delete(tables.answers).where(c.project_id == project_id, c.task_id == task_id)
            )
            rows = [_row(project_id, answer) for answer in answers]
            self._database.upsert(connection, tables.answers, rows)

    def of_task(self, project_id: int, task_id: int) -> list[StoredAnnotation]:
        """The annotations of one task, oldest first."""
        c = tables.answers.c
        query = (
            select(tables.answers)
            .where(c.project_id == project_id, c.task_id == task_id)
            .order_by(c.annotation_id)
        )
        with self._database.begin() as connection:
            return [_answer(row) for row in connection.execute(query)]

    def by_task(self, project_id: int) -> dict[int, list[StoredAnnotation]]:
        """Task id -> its annotations, oldest first; tasks ascend."""
        c = tables.answers.c
        query = (
            select(tables.answers)
            .where(c.project_id == project_id)
            .order_by(c.task_id, c.annotation_id)
        )
        found: dict[int, list[StoredAnnotation]] = {}
        with self._database.begin() as connection:
            for row in connection.execute(query):
                found.setdefault(row.task_id, []).append(_answer(row))
        return found

    def answered_tasks(self, project_id: int) -> set[int]:
        """The tasks with an annotation that is no skip."""
        c = tables.answers.c
        query = (
            select(c.task_id)
            .where(c.project_id == project_id, c.was_cancelled.is_(False))
            .distinct()
        )
        with self._database.begin() as connection:
            return set(connection.scalars(query))

    def in_order_of_answering(self, project_id: int, since: datetime) -> list[int]:
        """The tasks whose first annotation or skip came at `since` or later, the earliest first."""
        c = tables.answers.c
        query = (
            select(c.task_id)
            .where(c.project_id == project_id)
            .group_by(c.task_id)
            .having(func.min(c.updated_at) >= since)
            .order_by(func.min(c.annotation_id))  # Label Studio numbers them as they come
        )
        with self._database.begin() as connection:
            return list(connection.scalars(query))

    def annotators(self, project_id: int) -> set[int | None]:
        """The accounts that annotated; None: one that is unknown."""
        c = tables.answers.c
        query = select(c.annotator).where(c.project_id == project_id).distinct()
        with self._database.begin() as connection:
            return set(connection.scalars(query))

    def forget_absent(self, project_id: int, task_ids: Iterable[int]) -> int:
        """Delete the annotations of tasks that are not among `task_ids`; returns how many tasks."""
        c = tables.answers.c
        there = set(task_ids)
        with self._database.begin() as connection:
            known = set(
                connection.scalars(select(c.task_id).where(c.project_id == project_id).distinct())
            )
            for task_id in known - there:
                connection.execute(
                    delete(tables.answers).where(c.project_id == project_id, c.task_id == task_id)
                )
        return len(known - there)

    # --- the hold-out ---------------------------------------------------------------------------

    def hold_out(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Mark tasks as picked at random. A mark stays."""
        now = datetime.now(timezone.utc)
        rows = [
            {"project_id": project_id, "task_id": task_id, "marked_at": now} for task_id in task_ids
        ]
        with self._database.begin() as connection:
            self._database.insert_new(connection, tables.held_out, rows)

    def held_out(self, project_id: int) -> set[int]:
        """The tasks that were picked at random."""
        c = tables.held_out.c
        with self._database.begin() as connection:
            return set(connection.scalars(select(c.task_id).where(c.project_id == project_id)))

    # --- watched projects -----------------------------------------------------------------------

    def watch(self, project_id: int) -> None:
        """Watch this project from now on; doing it again changes nothing."""
        row = {"project_id": project_id, "polled_at": None, "read_until": None}
        with self._database.begin() as connection:
            self._database.insert_new(connection, tables.watched, [row])

    def due(self, before: datetime) -> list[int]:
        """The watched projects that were last polled before a moment, or never."""
        c = tables.watched.c
        with self._database.begin() as connection:
            rows = list(connection.execute(select(c.project_id, c.polled_at)))
        return [
            row.project_id for row in rows if row.polled_at is None or utc(row.polled_at) < before
        ]

    def unwatch(self, project_id: int) -> bool:
        """Watch this project no longer; returns whether it was watched."""
        c = tables.watched.c
        with self._database.begin() as connection:
            gone = connection.execute(delete(tables.watched).where(c.project_id == project_id))
            return gone.rowcount > 0

    def polled(self, project_id: int) -> datetime | None:
        """Note that a project was polled just now; returns when it was before, None: never."""
        c = tables.watched.c
        with self._database.begin() as connection:
            before = connection.scalar(select(c.polled_at).where(c.project_id == project_id))
        self._set(project_id, polled_at=datetime.now(timezone.utc))
        return None if before is None else utc(before)

    def read_until(self, project_id: int) -> datetime | None:
        """Up to when changed tasks have been read; None: never."""
        c = tables.watched.c
        with self._database.begin() as connection:
            found = connection.scalar(select(c.read_until).where(c.project_id == project_id))
        return None if found is None else utc(found)

    def set_read_until(self, project_id: int, moment: datetime) -> None:
        """See `read_until`."""
        self._set(project_id, read_until=moment)

    def _set(self, project_id: int, **values: Any) -> None:
        with self._database.begin() as connection:
            connection.execute(
                update(tables.watched)
                .where(tables.watched.c.project_id == project_id)
                .values(**values)
            )

    # --- single values ----------------------------------------------------------------------------

    def kept(self, name: str, fresh: str) -> str:
        """The value kept under a name; the first caller's `fresh` becomes it."""
        c = tables.kept.c
        with self._database.begin() as connection:
            self._database.insert_new(connection, tables.kept, [{"name": name, "value": fresh}])
            return str(connection.scalar(select(c.value).where(c.name == name)))

    def keep(self, name: str, value: str) -> None:
        """Keep a value under a name, in place of the one of before."""
        with self._database.begin() as connection:
            self._database.upsert(connection, tables.kept, [{"name": name, "value": value}])

    def find(self, name: str) -> str | None:
        """The value kept under a name; None: there is none."""
        c = tables.kept.c
        with self._database.begin() as connection:
            found: str | None = connection.scalar(select(c.value).where(c.name == name))
        return found


def _row(project_id: int, answer: StoredAnnotation) -> dict[str, Any]:
    return {
        **answer.__dict__,
        "project_id": project_id,
        "result": json.dumps(answer.result),
        "shown": None if answer.shown is None else json.dumps(answer.shown),
    }


def _answer(row: Any) -> StoredAnnotation:
    values = dict(row._mapping)
    del values["project_id"]
    values["result"] = json.loads(values["result"])
    values["shown"] = None if values["shown"] is None else json.loads(values["shown"])
    values["updated_at"] = None if values["updated_at"] is None else utc(values["updated_at"])
    return StoredAnnotation(**values)
