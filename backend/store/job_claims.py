"""A leased job: heartbeat, notes, completion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, update

from backend.errors import JobLost
from backend.store import tables
from backend.store.database import Database
from backend.store.job_owners import new_owner
from backend.store.jobs import CANCELLED, QUEUED, RUNNING, Job, JobProgress, job_of

c = tables.jobs.c


class Claim:
    """One running job. Every write holds only as long as the job is still this claim's.

    Args:
        database: where the job is.
        job: as it was when it was claimed.
        owner: the name of this claim.

    Raises:
        JobLost: (from each method) another process has the job by now, or it ended.
        StoreError: (from each method) the database failed.
    """

    def __init__(self, database: Database, job: Job, owner: str) -> None:
        self.job = job
        self._database = database
        self._owner = owner

    def report(self, progress: JobProgress) -> bool:
        """Renew the lease and store the progress. Returns whether a cancel was requested."""
        return bool(self._write(heartbeat_at=_now(), **progress.columns()))

    def note(self, notes: Mapping[str, Any]) -> None:
        """Store what a later attempt needs to resume."""
        self._write(notes=json.dumps(dict(notes)))

    def end(
        self, state: str, progress: JobProgress, *, result: str = "{}", error: str = ""
    ) -> None:
        """The job is done, failed or cancelled. `result` is JSON."""
        self._write(
            state=state,
            owner="",
            finished_at=_now(),
            result=result,
            error=error,
            **progress.columns(),
        )

    def give_back(self, progress: JobProgress) -> None:
        """Return the job to the queue, this attempt uncounted."""
        self._write(**requeued(), attempts=c.attempts - 1, **progress.columns())

    def excuse(self) -> None:
        """Do not count this attempt, should the process end before the job does."""
        self._write(attempts=c.attempts - 1)

    def _write(self, **values: Any) -> Any:
        mine = and_(c.id == self.job.id, c.owner == self._owner, c.state == RUNNING)
        with self._database.begin() as connection:
            row = connection.execute(
                update(tables.jobs).where(mine).values(values).returning(c.cancel_requested)
            ).first()
        if row is None:
            raise JobLost
        return row.cancel_requested


def take(database: Database, which: ColumnElement[bool], **values: Any) -> Claim | None:
    """Claim the one queued job that `which` names, if nothing blocks it; set `values`.

    One statement, so that of several processes one gets it. In PostgreSQL two jobs of one
    exclusive key may both find nothing running: then the index `one_job_runs` refuses the second,
    as an IntegrityError.
    """
    owner = new_owner()
    claim = (
        update(tables.jobs)
        .where(which, c.state == QUEUED, unblocked())
        .values(running(owner) | {"attempts": c.attempts + 1} | values)
        .returning(tables.jobs)
    )
    with database.begin() as connection:
        row = connection.execute(claim).first()
    return None if row is None else Claim(database, job_of(row), owner)


def running(owner: str) -> dict[str, Any]:
    """The columns of a job that begins."""
    now = _now()
    return {
        "state": RUNNING,
        "owner": owner,
        "heartbeat_at": now,
        "started_at": func.coalesce(c.started_at, now),
        "doing": "",
        "done": 0,
        "total": 0,
        "phase_started_at": None,
        "phase_started_with": 0,
    }


def requeued() -> dict[str, Any]:
    """The columns of a running job that goes back to the queue, or ends if it was cancelled."""
    return {
        "state": case((c.cancel_requested, CANCELLED), else_=QUEUED),
        "finished_at": case((c.cancel_requested, _now()), else_=None),
        "owner": "",
    }


def unblocked() -> ColumnElement[bool]:
    """That no job of the same exclusive key runs, or has to be finished first."""
    other = tables.jobs.alias("other")
    return ~exists().where(
        other.c.exclusive == c.exclusive, other.c.id != c.id, stands_in_the_way(other.c)
    )


def stands_in_the_way(columns: Any) -> ColumnElement[bool]:
    """That a job runs, or was interrupted: what it left half done, it finishes first."""
    return or_(
        columns.state == RUNNING, and_(columns.state == QUEUED, columns.started_at.is_not(None))
    )


def _now() -> datetime:
    return datetime.now(timezone.utc)
