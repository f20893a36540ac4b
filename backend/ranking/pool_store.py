"""Ranked pools in the store: the last one of each project."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import func, select

from backend.ranking.candidates import RankOptions
from backend.ranking.ranked_pool import RankedPool
from backend.store import tables
from backend.store.database import Database, utc
from backend.store.scores import ScoreColumns
from backend.uncertainty import MEASURES


@dataclass(frozen=True)
class Stamp:
    """Changes whenever the pool, or which of its tasks are labelled, may have changed.

    Args:
        ranked_at: of the pool.
        read_until: annotations that changed in Label Studio up to this moment have been read.
        answers: how many there are.
        labels_read_at: when the worker last read which tasks are labelled. Not compared: most
            polls find nothing new.
    """

    ranked_at: datetime
    read_until: datetime | None
    answers: int
    labels_read_at: datetime = field(compare=False)


class PoolStore:
    """Ranked pools in the store. Safe for several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, pool: RankedPool) -> None:
        """Keep a pool in place of the project's last one."""
        row = {
            "project_id": pool.project_id,
            "ranked_at": pool.ranked_at,
            "detector": pool.detector,
            "encoder": pool.encoder,
            "options": json.dumps({**vars(pool.options), "weights": dict(pool.options.weights)}),
            "validation_share": pool.validation_share,
            "tasks": _pack(pool),
        }
        with self._database.begin() as connection:
            self._database.upsert(connection, tables.pools, [row])

    def load(self, project_id: int) -> RankedPool | None:
        """The last ranked pool of a project; None: it was never ranked by today's measures."""
        query = select(tables.pools).where(tables.pools.c.project_id == project_id)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else _unpack(row)

    def stamp(self, project_id: int) -> Stamp | None:
        """A cheap sign of whether something changed; None: the project was never ranked."""
        pools, watched, answers = tables.pools.c, tables.watched.c, tables.answers.c
        jobs = tables.jobs.c
        count = select(func.count()).where(answers.project_id == project_id)
        looked = select(func.max(jobs.started_at)).where(
            jobs.project_id == project_id, jobs.kind == "poll", jobs.state == "done"
        )
        query = (
            select(
                pools.ranked_at,
                watched.read_until,
                count.scalar_subquery(),
                looked.scalar_subquery(),
            )
            .select_from(
                tables.pools.outerjoin(tables.watched, pools.project_id == watched.project_id)
            )
            .where(pools.project_id == project_id)
        )
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        ranked_at, read_until, answered, looked_at = row
        return Stamp(
            ranked_at=utc(ranked_at),
            read_until=read_until and utc(read_until),
            answers=answered,
            # An order begins by listing all tasks.
            labels_read_at=max(utc(moment) for moment in (ranked_at, looked_at) if moment),
        )


def _pack(pool: RankedPool) -> bytes:
    packed = io.BytesIO()
    columns = pool.columns
    arrays: dict[str, Any] = {
        "task_ids": columns.task_ids,
        "image_hashes": np.array(columns.image_hashes, dtype="S"),
        "standing": pool.standing,
        "order": pool.order,
        "class_weight": columns.class_weight,
        **columns.scores,
    }
    np.savez(packed, **arrays)
    return zlib.compress(packed.getvalue(), level=1)


def _unpack(row: Any) -> RankedPool | None:
    with np.load(io.BytesIO(zlib.decompress(row.tasks)), allow_pickle=False) as found:
        if not MEASURES.keys() <= set(found.files):
            return None
        columns = ScoreColumns(
            task_ids=found["task_ids"],
            image_hashes=tuple([text.decode() for text in found["image_hashes"].tolist()]),
            scores={name: found[name] for name in MEASURES},
            # Pools ranked before there were class weights have none.
            class_weight=found.get("class_weight", np.ones(len(found["task_ids"]))),
        )
        standing, order = found["standing"], found["order"]
    return RankedPool(
        project_id=row.project_id,
        detector=row.detector,
        encoder=row.encoder,
        ranked_at=utc(row.ranked_at),
        options=RankOptions(**json.loads(row.options)),
        validation_share=row.validation_share,
        columns=columns,
        standing=standing,
        order=order,
    )
