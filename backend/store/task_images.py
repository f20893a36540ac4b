"""Which image a task shows, by its last scoring."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, or_, select

from backend.store import tables
from backend.store.database import Database

c = tables.scores.c


@dataclass(frozen=True)
class TaskImage:
    """The image of a task, as it was last scored; `image_hash` is the SHA-256 of the file."""

    task_id: int
    project_id: int
    image_uri: str
    image_hash: str


_COLUMNS = (c.task_id, c.project_id, c.image_uri, c.image_hash)


def task_image(database: Database, task_id: int) -> TaskImage | None:
    """What a task shows by its last scoring; None: it was never scored.

    Raises:
        StoreError: the store failed.
    """
    # Twice: the first is answered from the primary key's index alone, beside rows that are large
    # for their boxes.
    keys = select(c.project_id, c.detector).where(c.task_id == task_id)
    with database.begin() as connection:
        found = connection.execute(keys).all()
        if not found:
            return None
        rows = [and_(c.project_id == key.project_id, c.detector == key.detector) for key in found]
        query = select(*_COLUMNS).where(c.task_id == task_id, or_(*rows))
        row = connection.execute(query.order_by(c.scored_at.desc()).limit(1)).first()
    return None if row is None else TaskImage(*row)


def images_of(connection: Connection, project_id: int) -> list[TaskImage]:
    """All images that the tasks of a project were scored with."""
    query = select(*_COLUMNS).where(c.project_id == project_id).distinct()
    return [TaskImage(*row) for row in connection.execute(query)]
