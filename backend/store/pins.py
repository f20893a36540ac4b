"""Pinned tasks: served before the ranking, for everyone, until replaced.

A pinned image comes before all ranked ones in every order, until it is labelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from backend.label_studio.records import TaskRef
from backend.store import tables
from backend.store.database import Database
from backend.store.scores import RankRow

# The score of a pinned image that was never scored: it is served before all others anyway.
_UNSCORED = 0.0


@dataclass(frozen=True)
class Assignment:
    """The pinned tasks of a project.

    Args:
        first: pinned now, in this order; labelled ones may be among them.
        led: all that were pinned since the last ranking; once unpinned, they go back to their
            ranks in it.
    """

    first: tuple[int, ...] = ()
    led: frozenset[int] = frozenset()

    def open(self, tasks: Iterable[TaskRef]) -> list[int]:
        """Those of `first` that are among `tasks` and not labelled, in order."""
        there = {task.id for task in tasks if not task.is_labeled}
        return [task_id for task_id in self.first if task_id in there]


class Assignments:
    """The assignments in the store. Safe for several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, project_id: int) -> Assignment:
        """The assignment of a project; an empty one if there is none."""
        with self._database.begin() as connection:
            return self._load(connection, project_id)

    def put_first(self, project_id: int, task_ids: Sequence[int]) -> None:
        """Pin these images in place of those before; none: no image is pinned."""
        with self._database.begin() as connection:
            led = self._load(connection, project_id).led
            self._save(connection, project_id, Assignment(tuple(task_ids), led | {*task_ids}))

    def ranked(self, project_id: int) -> None:
        """Note that the project was ranked: images that were unpinned have their ranks in it."""
        with self._database.begin() as connection:
            found = self._load(connection, project_id)
            if found.led:
                self._save(connection, project_id, Assignment(found.first, frozenset(found.first)))

    def projects_of(self, task_ids: Iterable[int]) -> dict[int, int]:
        """Task id -> its project, for those that were scored."""
        c = tables.scores.c
        query = select(c.task_id, c.project_id).where(c.task_id.in_(list(task_ids))).distinct()
        with self._database.begin() as connection:
            return {row.task_id: row.project_id for row in connection.execute(query)}

    def _load(self, connection: Connection, project_id: int) -> Assignment:
        query = select(tables.kept.c.value).where(tables.kept.c.name == kept_name(project_id))
        text = connection.scalar(query)
        if text is None:
            return Assignment()
        found = json.loads(text)
        return Assignment(tuple(found["first"]), frozenset(found["led"]))

    def _save(self, connection: Connection, project_id: int, assignment: Assignment) -> None:
        value = json.dumps({"first": assignment.first, "led": sorted(assignment.led)})
        row = {"name": kept_name(project_id), "value": value}
        self._database.upsert(connection, tables.kept, [row])


def with_pins_first(first: Sequence[int], order: Sequence[RankRow]) -> list[RankRow]:
    """`first` in its order, scored or not, then the others of `order` in theirs.

    >>> [row.task_id for row in with_pins_first([3, 9], [RankRow(1, 2, 0.1), RankRow(2, 3, 0.5)])]
    [3, 9, 2]
    """
    known = {row.task_id: row for row in order}
    before = set(first)
    rows = [known.get(task_id, RankRow(0, task_id, _UNSCORED)) for task_id in first]
    rows += [row for row in order if row.task_id not in before]
    return [replace(row, rank=place) for place, row in enumerate(rows, start=1)]


def kept_name(project_id: int) -> str:
    """Under which name a project's assignment is in the table `kept`."""
    return f"put first in project {project_id}"
