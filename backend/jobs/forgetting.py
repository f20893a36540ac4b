"""Removes all that is stored of one project: rows, weights, and cached files of its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, delete, func, select

from backend.errors import QueueError
from backend.images.cache import ImageCache
from backend.images.source import drop_cached
from backend.jobs.records import QUEUED, RUNNING, job_of
from backend.learning.curve import curve_file
from backend.ranking.pins import kept_name
from backend.scoring.model_files import ModelFiles
from backend.scoring.thumbnails import TaskImage, drop_thumbnail
from backend.settings import Settings
from backend.store import tables
from backend.store.scores import Store
from backend.store.sent_versions import stranger_name

_OF_PROJECTS = tuple(table for table in tables.metadata.sorted_tables if "project_id" in table.c)
# Bound values in a statement are limited.
_AT_ONCE = 10_000


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


def forget(settings: Settings, store: Store, project_id: int) -> None:
    """Remove a project from the store and from DATA_DIR. Label Studio is not asked, nor changed.

    The rows go all or none, jobs that wait among them. What other projects use too stays.

    Raises:
        QueueError: a job of the project runs.
        StoreError: the store failed; it is as it was.
    """
    from backend.vision.yolo import forget_detector

    with store.begin() as connection:
        _drop_jobs(connection, project_id)
        images = _images(connection, project_id)
        rounds = tables.rounds.c
        trained = list(
            connection.execute(
                select(rounds.content_hash, rounds.detector).where(rounds.project_id == project_id)
            )
        )
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
    # Files last: none is missed while a row still names it.
    for row in trained:
        if row.content_hash:
            forget_detector(row.content_hash, settings.export_dir)
    ModelFiles(settings.trained_dir, project_id).remove()
    curve_file(settings, project_id).unlink(missing_ok=True)
    cache = ImageCache(settings.image_cache_dir, settings.image_cache_mb * 1_000_000)
    for image in images:
        drop_cached(cache, settings.label_studio_url, image.image_uri)
        drop_thumbnail(settings, image)


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


def _images(connection: Connection, project_id: int) -> list[TaskImage]:
    c = tables.scores.c
    query = select(c.task_id, c.project_id, c.image_uri, c.image_hash).where(
        c.project_id == project_id
    )
    return [TaskImage(*row) for row in connection.execute(query.distinct())]


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
