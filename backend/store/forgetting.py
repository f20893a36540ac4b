"""Removes all rows of one project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from backend.errors import QueueError
from backend.store import tables
from backend.store.jobs import QUEUED, RUNNING, job_of
from backend.store.pins import kept_name
from backend.store.scores import Store
from backend.store.sent_versions import stranger_name
from backend.store.task_images import TaskImage, images_of

_OF_PROJECTS = tuple(table for table in tables.metadata.sorted_tables if "project_id" in table.c)
# Bound values in a statement are limited.
_AT_ONCE = 10_000


@dataclass(frozen=True)
class Forgotten:
    """What the removed rows named.

    Args:
        images: of the project's tasks.
        weights: content hashes of the models that were trained on it.
    """

    images: Sequence[TaskImage]
    weights: Sequence[str]


def stored_of(store: Store, project_id: int) -> dict[str, int]:
    """How many rows each table holds of a project; empty: nothing is stored of it."""
    with store.begin() as connection:
        counts = {
            table.name: connection.scalar(
                select(func.count()).select_from(table).where(table.c.project_id == project_id)
            )
            for table in _OF_PROJECTS
        }
    return {name: count for name, count in counts.items() if count}


def forget_rows(store: Store, project_id: int) -> Forgotten:
    """Remove a project from the store. The rows go all or none, jobs that wait among them.

    Raises:
        QueueError: a job of the project runs.
        StoreError: the store failed; it is as it was.
    """
    with store.begin() as connection:
        _drop_jobs(connection, project_id)
        images = images_of(connection, project_id)
        c = tables.rounds.c
        trained = connection.execute(
            select(c.content_hash, c.detector).where(c.project_id == project_id)
        ).all()
        published = select(tables.publications.c.model_version).where(
            tables.publications.c.project_id == project_id
        )
        connection.execute(delete(tables.ranks).where(tables.ranks.c.model_version.in_(published)))
        names = [kept_name(project_id), stranger_name(project_id)]
        connection.execute(delete(tables.kept).where(tables.kept.c.name.in_(names)))
        for table in _OF_PROJECTS:
            connection.execute(delete(table).where(table.c.project_id == project_id))
        _drop_embeddings(connection, {image.image_hash for image in images})
        _drop_detectors(connection, {row.detector for row in trained})
    return Forgotten(images, [row.content_hash for row in trained if row.content_hash])


def _drop_jobs(connection: Connection, project_id: int) -> None:
    """Those that wait go first: none of them can then begin before the others are looked at."""
    c = tables.jobs.c
    mine = c.project_id == project_id
    connection.execute(delete(tables.jobs).where(mine, c.state == QUEUED))
    row = connection.execute(select(tables.jobs).where(mine, c.state == RUNNING)).first()
    if row is not None:
        job = job_of(row)
        raise QueueError(
            f"{job} is running for project {project_id} right now: wait for it, or stop it with "
            f"`python -m backend jobs --cancel {job.id}`, then forget the project"
        )


def _drop_embeddings(connection: Connection, hashes: set[str]) -> None:
    """Those of images that no other project shows."""
    for part in _parts(sorted(hashes)):
        shown = tables.scores.c.image_hash
        others = set(connection.scalars(select(shown).where(shown.in_(part)).distinct()))
        gone = [image_hash for image_hash in part if image_hash not in others]
        c = tables.embeddings.c
        connection.execute(delete(tables.embeddings).where(c.image_hash.in_(gone)))


def _drop_detectors(connection: Connection, versions: Iterable[str]) -> None:
    """Those that were trained on the project: nobody else has them."""
    c = tables.detectors.c
    connection.execute(delete(tables.detectors).where(c.version.in_(sorted(versions))))


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
