"""Scores, embeddings and published orders in the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, delete, func, select, update

from backend.detections import Detections
from backend.errors import StoreError
from backend.store import tables
from backend.store.database import Database, utc
from backend.store.encoding import pack_detections, pack_vector, unpack_detections, unpack_rows
from backend.uncertainty import MEASURES, ImageScores

# SQLite allows 32,766 bound values in a statement; longer id lists are asked for in parts.
_IDS_PER_QUERY = 10_000

# What a vector of an image is of: the whole of it, or its objects as the detector sees them.
IMAGE_VIEW = "image"
OBJECT_VIEW = "objects"


@dataclass(frozen=True)
class ScoredTask:
    """A task's scores as stored.

    `scores` are public: 0..1, lower = more uncertain. `image_hash` is the SHA-256 of the file.
    `class_weight` is 1 where the detector has not learned from this project. `embedded`: whether
    the image and its objects have their embeddings too.
    """

    task_id: int
    image_uri: str
    image_hash: str
    detector: str
    detections: Detections
    scores: ImageScores
    class_weight: float = 1.0
    embedded: bool = True

    @property
    def is_complete(self) -> bool:
        """Whether it has every measure: one that was added since may be missing."""
        return self.scores.keys() >= MEASURES.keys()


@dataclass(frozen=True)
class ScoreColumns:
    """The scores of N tasks as columns, without their boxes: what ranking reads.

    `scores` has an (N,) float64 array for each measure, 0..1, lower = more uncertain.
    `class_weight`, (N,), is that of `backend.selection.class_weights`: above 0, at most 1, higher =
    rarer classes.
    """

    task_ids: NDArray[np.int64]
    image_hashes: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float64]]
    class_weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        task_ids: Sequence[int],
        image_hashes: Sequence[str],
        scores: Sequence[ImageScores],
        class_weight: Sequence[float],
    ) -> ScoreColumns:
        """The columns of N rows."""
        return cls(
            np.array(task_ids, dtype=np.int64),
            tuple(image_hashes),
            {name: np.array([row[name] for row in scores], dtype=np.float64) for name in MEASURES},
            np.array(class_weight, dtype=np.float64),
        )

    def take(self, rows: NDArray[np.intp]) -> ScoreColumns:
        """These rows, in this order."""
        return ScoreColumns(
            task_ids=self.task_ids[rows],
            image_hashes=tuple([self.image_hashes[row] for row in rows.tolist()]),
            scores={name: column[rows] for name, column in self.scores.items()},
            class_weight=self.class_weight[rows],
        )


@dataclass(frozen=True)
class RankRow:
    """One place of a published order. Rank 1 is served first."""

    rank: int
    task_id: int
    uncertainty_score: float


@dataclass(frozen=True)
class Publication:
    """One order that was sent to Label Studio; see `store/sent_versions.py` for its states."""

    model_version: str
    project_id: int
    state: str
    detector: str
    encoder: str
    strategy: str
    diversity_weight: float
    strategy_weights: Mapping[str, float]
    ranked: int
    created_at: datetime


class Store(Database):
    """The database. Safe to use from several threads and processes.

    Raises:
        StoreError: it cannot be opened, read or written; one line with the remedy.
    """

    # --- scores -------------------------------------------------------------------------------

    def save_scores(self, project_id: int, scored: Sequence[ScoredTask]) -> None:
        """Store these scores; a task scored again by the same detector is replaced."""
        now = datetime.now(timezone.utc)
        rows = [_score_row(project_id, task, now) for task in scored]
        with self.begin() as connection:
            self.upsert(connection, tables.scores, rows)

    def scored_uris(
        self,
        project_id: int,
        detector: str,
        *,
        embedded: bool = False,
        task_ids: Sequence[int] | None = None,
    ) -> dict[int, str]:
        """Task id -> the image URI it was scored from, for all tasks this detector has scored.

        With `embedded`, only those that are embedded too. With `task_ids`, those of them at least:
        a few are looked up, many are read with the whole project.
        """
        c = tables.scores.c
        query = select(c.task_id, c.image_uri).where(*_scored(project_id, detector))
        if embedded:
            query = query.where(c.embedded)
        if task_ids is not None and len(task_ids) <= _IDS_PER_QUERY:
            query = query.where(c.task_id.in_(task_ids))
        with self.begin() as connection:
            return _pairs(connection.execute(query))

    def score_columns(
        self, project_id: int, detector: str, task_ids: Sequence[int]
    ) -> ScoreColumns:
        """The scores of those of `task_ids` that are scored and embedded, by ascending id."""
        c = tables.scores.c
        wanted = set(task_ids)
        query = (
            select(c.task_id, c.image_hash, c.measures, c.class_weight)
            .where(*_scored(project_id, detector), c.embedded)
            .order_by(c.task_id)
        )
        with self.begin() as connection:
            rows = [row for row in connection.execute(query) if row.task_id in wanted]
        return ScoreColumns.of(
            [row.task_id for row in rows],
            [row.image_hash for row in rows],
            json.loads(f"[{','.join(row.measures for row in rows)}]"),
            [row.class_weight for row in rows],
        )

    def scored_tasks(
        self, project_id: int, detector: str, task_ids: Sequence[int]
    ) -> dict[int, ScoredTask]:
        """Task id -> its scores and boxes, for those of `task_ids` this detector has scored."""
        c = tables.scores.c
        found: dict[int, ScoredTask] = {}
        with self.begin() as connection:
            for part in _parts(task_ids):
                query = select(tables.scores).where(
                    c.project_id == project_id, c.detector == detector, c.task_id.in_(part)
                )
                for row in connection.execute(query):
                    found[row.task_id] = _scored_task(row)
        return found

    def save_detector(self, version: str, class_names: Sequence[str]) -> None:
        """Store the class names of a detector, so that its boxes can be named without it."""
        row = {"version": version, "class_names": json.dumps(list(class_names))}
        with self.begin() as connection:
            self.upsert(connection, tables.detectors, [row])

    def class_names(self, detector: str) -> tuple[str, ...] | None:
        """The class names of a detector, or None when it never scored anything here."""
        query = select(tables.detectors.c.class_names).where(tables.detectors.c.version == detector)
        with self.begin() as connection:
            names = connection.scalar(query)
        return None if names is None else tuple(json.loads(names))

    def drop_scores(self, project_id: int, keep_detectors: Iterable[str]) -> None:
        """Delete the scores of a project by detectors other than these."""
        c = tables.scores.c
        with self.begin() as connection:
            connection.execute(
                delete(tables.scores).where(
                    c.project_id == project_id, c.detector.not_in(list(keep_detectors))
                )
            )

    # --- embeddings ---------------------------------------------------------------------------

    def save_embeddings(
        self, encoder: str, view: str, vectors: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Keep image hash -> (D,) unit vector."""
        rows = [
            {"image_hash": key, "encoder": encoder, "view": view, "vector": pack_vector(vector)}
            for key, vector in vectors.items()
        ]
        with self.begin() as connection:
            self.upsert(connection, tables.embeddings, rows)

    def embedded(self, encoder: str, view: str, image_hashes: Sequence[str]) -> set[str]:
        """Which of these images have a vector already."""
        c = tables.embeddings.c
        found: set[str] = set()
        with self.begin() as connection:
            for part in _parts(image_hashes):
                query = select(c.image_hash).where(
                    c.encoder == encoder, c.view == view, c.image_hash.in_(part)
                )
                found.update(connection.scalars(query))
        return found

    def vectors(
        self, encoder: str, view: str, image_hashes: Sequence[str]
    ) -> NDArray[np.float16] | None:
        """(N, D) unit rows, one for each of N image hashes; None where none of them has one.

        Raises:
            StoreError: some have one and others not.
        """
        rows = np.empty((0, 0), dtype=np.float16)
        missing: set[str] = set()
        for start in range(0, len(image_hashes), _IDS_PER_QUERY):
            part = image_hashes[start : start + _IDS_PER_QUERY]
            packed = self._packed(encoder, view, part)
            missing.update(set(part) - packed.keys())
            if packed and not rows.size:
                dim = len(next(iter(packed.values()))) // rows.itemsize
                rows = np.empty((len(image_hashes), dim), dtype=np.float16)
            if not missing:
                rows[start : start + len(part)] = unpack_rows([packed[key] for key in part])
        if not rows.size:
            return None
        if missing:
            raise StoreError(
                f"{len(missing)} images have no embedding by {encoder}: "
                "run `python -m backend score` for this project."
            )
        return rows

    def _packed(self, encoder: str, view: str, image_hashes: Sequence[str]) -> dict[str, bytes]:
        c = tables.embeddings.c
        query = select(c.image_hash, c.vector).where(
            c.encoder == encoder, c.view == view, c.image_hash.in_(set(image_hashes))
        )
        with self.begin() as connection:
            return _pairs(connection.execute(query))

    # --- publications -------------------------------------------------------------------------

    def save_publication(self, publication: Publication, order: Sequence[RankRow]) -> None:
        """Record an order before it is sent. Its state is what the publication says."""
        row = {
            **publication.__dict__,
            "strategy_weights": json.dumps(dict(publication.strategy_weights)),
        }
        with self.begin() as connection:
            connection.execute(tables.publications.insert(), [row])
            if order:
                entries = [
                    {"model_version": publication.model_version, **r.__dict__} for r in order
                ]
                connection.execute(tables.ranks.insert(), entries)

    def mark_live(self, project_id: int, model_version: str) -> None:
        """Mark this order as the one Label Studio serves; the one before is superseded."""
        c = tables.publications.c
        with self.begin() as connection:
            of_project = update(tables.publications).where(c.project_id == project_id)
            connection.execute(
                of_project.where(
                    c.state.in_(("live", "shown")), c.model_version != model_version
                ).values(state="superseded")
            )
            connection.execute(
                of_project.where(c.model_version == model_version).values(
                    state="live", replaced_at=None
                )
            )

    def publication(self, project_id: int, model_version: str | None = None) -> Publication | None:
        """The named publication of a project, or its live one; None when there is none."""
        c = tables.publications.c
        query = select(tables.publications).where(c.project_id == project_id)
        if model_version is None:
            query = query.where(c.state == "live")
        else:
            query = query.where(c.model_version == model_version)
        with self.begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else _publication(row)

    def publication_detectors(self, project_id: int) -> set[str]:
        """The detectors behind the orders of a project that are kept."""
        c = tables.publications.c
        query = select(c.detector).where(c.project_id == project_id, c.ranked > 0)
        with self.begin() as connection:
            return set(connection.scalars(query))

    def ranks(self, model_version: str, *, limit: int | None = None) -> list[RankRow]:
        """The order of a publication, first place first."""
        c = tables.ranks.c
        query = (
            select(c.rank, c.task_id, c.uncertainty_score)
            .where(c.model_version == model_version)
            .order_by(c.rank)
            .limit(limit)
        )
        with self.begin() as connection:
            return [RankRow(*row) for row in connection.execute(query)]

    def ranks_of(self, model_version: str, task_ids: Sequence[int]) -> dict[int, int]:
        """Task id -> its rank in a publication, for those that have one."""
        c = tables.ranks.c
        found: dict[int, int] = {}
        with self.begin() as connection:
            for part in _parts(task_ids):
                query = select(c.task_id, c.rank).where(
                    c.model_version == model_version, c.task_id.in_(part)
                )
                found.update(_pairs(connection.execute(query)))
        return found

    def more_uncertain(self, model_version: str, uncertainty_score: float) -> int:
        """How many tasks of a publication are more uncertain than this public score."""
        c = tables.ranks.c
        query = select(func.count()).where(
            c.model_version == model_version, c.uncertainty_score < uncertainty_score
        )
        with self.begin() as connection:
            return connection.scalar(query) or 0


def _scored(project_id: int, detector: str) -> tuple[ColumnElement[bool], ...]:
    """Rows with every measure: those from before a measure was added are scored again."""
    c = tables.scores.c
    every = (c.measures.contains(f'"{name}"', autoescape=True) for name in MEASURES)
    return (c.project_id == project_id, c.detector == detector, *every)


def _score_row(project_id: int, task: ScoredTask, now: datetime) -> dict[str, Any]:
    width, height = task.detections.image_size
    return {
        "project_id": project_id,
        "task_id": task.task_id,
        "detector": task.detector,
        "image_uri": task.image_uri,
        "image_hash": task.image_hash,
        "width": width,
        "height": height,
        "boxes": len(task.detections),
        "classes": task.detections.class_scores.shape[1],
        "peak_score": float(task.detections.peak_score),
        "detections": pack_detections(task.detections),
        "measures": json.dumps(task.scores),
        "class_weight": task.class_weight,
        "embedded": task.embedded,
        "scored_at": now,
    }


def _scored_task(row: Any) -> ScoredTask:
    return ScoredTask(
        task_id=row.task_id,
        image_uri=row.image_uri,
        image_hash=row.image_hash,
        detector=row.detector,
        detections=unpack_detections(
            row.detections,
            boxes=row.boxes,
            classes=row.classes,
            peak_score=row.peak_score,
            image_size=(row.width, row.height),
        ),
        scores=json.loads(row.measures),
        class_weight=row.class_weight,
        embedded=row.embedded,
    )


def _publication(row: Any) -> Publication:
    values = {name: getattr(row, name) for name in Publication.__dataclass_fields__}
    values["strategy_weights"] = json.loads(values["strategy_weights"])
    return Publication(**{**values, "created_at": utc(values["created_at"])})


def _pairs(rows: Iterable[Any]) -> dict[Any, Any]:
    return {row[0]: row[1] for row in rows}


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _IDS_PER_QUERY):
        yield list(values[start : start + _IDS_PER_QUERY])
