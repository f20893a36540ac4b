"""The last ranked pool of each project, as a row; `ranking/ranked_pool.py` packs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select

from backend.job_kinds import POLL
from backend.store import tables
from backend.store.database import Database, utc
from backend.store.jobs import DONE


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


def save_pool_row(database: Database, row: Mapping[str, Any]) -> None:
    """Keep a row in place of the project's last one."""
    with database.begin() as connection:
        database.upsert(connection, tables.pools, [row])


def pool_row(database: Database, project_id: int) -> Row[Any] | None:
    """The row of a project; None: it was never ranked."""
    query = select(tables.pools).where(tables.pools.c.project_id == project_id)
    with database.begin() as connection:
        return connection.execute(query).first()


def pool_stamp(database: Database, project_id: int) -> Stamp | None:
    """A cheap sign of whether something changed; None: the project was never ranked."""
    pools, watched, answers = tables.pools.c, tables.watched.c, tables.answers.c
    jobs = tables.jobs.c
    count = select(func.count()).where(answers.project_id == project_id)
    looked = select(func.max(jobs.started_at)).where(
        jobs.project_id == project_id, jobs.kind == POLL, jobs.state == DONE
    )
    query = (
        select(
            pools.ranked_at,
            watched.read_until,
            count.scalar_subquery(),
            looked.scalar_subquery(),
        )
        .select_from(tables.pools.outerjoin(tables.watched, pools.project_id == watched.project_id))
        .where(pools.project_id == project_id)
    )
    with database.begin() as connection:
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
