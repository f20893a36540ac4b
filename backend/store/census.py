"""How many jobs and answers the store holds: what `/metrics` asks it each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import distinct, func, select

from backend.store import tables
from backend.store.database import Database


@dataclass(frozen=True)
class Census:
    """The counts at one moment.

    Args:
        jobs: (kind, state) -> jobs.
        answers: project -> its annotations, skipped ones included.
        labelled: project -> its tasks with an annotation that is no skip.
    """

    jobs: Mapping[tuple[str, str], int]
    answers: Mapping[int, int]
    labelled: Mapping[int, int]


def take_census(database: Database) -> Census:
    """Count.

    Raises:
        StoreError: the database failed.
    """
    job, answer = tables.jobs.c, tables.answers.c
    jobs = select(job.kind, job.state, func.count()).group_by(job.kind, job.state)
    answers = select(answer.project_id, func.count()).group_by(answer.project_id)
    labelled = (
        select(answer.project_id, func.count(distinct(answer.task_id)))
        .where(answer.was_cancelled.is_(False))
        .group_by(answer.project_id)
    )
    with database.begin() as connection:
        return Census(
            jobs={(kind, state): count for kind, state, count in connection.execute(jobs)},
            answers={row.project_id: row[1] for row in connection.execute(answers)},
            labelled={row.project_id: row[1] for row in connection.execute(labelled)},
        )
