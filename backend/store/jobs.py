"""What is known of jobs: each as it was, and the looking up and cancelling of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, select, update

from backend.errors import QueueError
from backend.store import tables
from backend.store.database import Database, utc

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)

LOG_LINES = 50
LOG_BYTES = 8000
_LINE_BYTES = 500

c = tables.jobs.c


@dataclass(frozen=True)
class Job:
    """One job, as it was when it was read.

    `state` is queued, running, done, failed or cancelled. `exclusive`: jobs that share it never
    run at the same time. `attempts` counts how often it was begun and not given back in order.
    `doing` names its phase, of which `done` of `total` steps are behind it; `seconds_left` is for
    that phase, None while nothing can be said. `notes` is what a repeated attempt has to know,
    `result` what it returned, `error` the line that says why it failed, `log` its last lines.
    """

    id: int
    project_id: int
    kind: str
    state: str
    payload: Mapping[str, Any]
    exclusive: str
    attempts: int
    cancel_requested: bool
    doing: str
    done: int
    total: int
    seconds_left: float | None
    notes: Mapping[str, Any]
    result: Mapping[str, Any]
    error: str
    log: tuple[str, ...]
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it; moments are ISO 8601 in UTC."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        return f"job {self.id} ({self.kind})"


@dataclass(frozen=True)
class JobProgress:
    """How far a running job is, and its last lines."""

    doing: str = ""
    done: int = 0
    total: int = 0
    phase_started_at: datetime | None = None
    phase_started_with: int = 0
    log: tuple[str, ...] = ()

    def columns(self) -> dict[str, Any]:
        """As the table keeps it."""
        return {**vars(self), "log": "\n".join(self.log)}


def job_of(row: Row[Any]) -> Job:
    """The job of one row of the table."""
    return Job(
        id=row.id,
        project_id=row.project_id,
        kind=row.kind,
        state=row.state,
        payload=json.loads(row.payload),
        exclusive=row.exclusive,
        attempts=row.attempts,
        cancel_requested=row.cancel_requested,
        doing=row.doing,
        done=row.done,
        total=row.total,
        seconds_left=_seconds_left(row),
        notes=json.loads(row.notes),
        result=json.loads(row.result),
        error=row.error,
        log=tuple(row.log.split("\n")) if row.log else (),
        created_at=utc(row.created_at),
        due_at=utc(row.due_at),
        started_at=row.started_at and utc(row.started_at),
        finished_at=row.finished_at and utc(row.finished_at),
    )


def _seconds_left(row: Row[Any]) -> float | None:
    """At the rate since the phase began."""
    steps = row.done - row.phase_started_with
    if row.state != RUNNING or row.phase_started_at is None or steps <= 0:
        return None
    elapsed = (datetime.now(timezone.utc) - utc(row.phase_started_at)).total_seconds()
    return float(max(0.0, elapsed) / steps * max(0, row.total - row.done))


class JobRecords:
    """The jobs of one database, to look up and to cancel.

    Args:
        database: holds the table of jobs.

    Raises:
        StoreError: (from each method) the database failed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job_id: int) -> Job:
        """One job.

        Raises:
            QueueError: there is no such job.
        """
        found = self._select(c.id == job_id)
        if not found:
            raise QueueError(f"there is no job {job_id}: `python -m backend jobs` lists them")
        return found[0]

    def list(
        self,
        project_id: int | None = None,
        states: Sequence[str] = (),
        limit: int = 50,
        *,
        kinds: Sequence[str] = (),
        among: Collection[int] | None = None,
    ) -> tuple[Job, ...]:
        """The newest jobs first: of one project or all, in these states and kinds or any.

        With `among`, of these projects only.
        """
        where = [] if project_id is None else [c.project_id == project_id]
        if among is not None:
            where.append(c.project_id.in_(among))
        if states:
            where.append(c.state.in_(states))
        if kinds:
            where.append(c.kind.in_(kinds))
        return self._select(*where, limit=limit)

    def latest(self, project_id: int, kind: str) -> Job | None:
        """The newest job of a kind, finished or not."""
        found = self._select(c.project_id == project_id, c.kind == kind, limit=1)
        return found[0] if found else None

    def recent_failures(self, project_id: int, kind: str) -> tuple[int, datetime | None]:
        """How many failed since the last one that was done, and when the last of them did."""
        mine = and_(c.project_id == project_id, c.kind == kind)
        last_done = select(func.coalesce(func.max(c.id), 0)).where(mine, c.state == DONE)
        query = select(func.count(), func.max(c.finished_at)).where(
            mine, c.state == FAILED, c.id > last_done.scalar_subquery()
        )
        with self._database.begin() as connection:
            count, last = connection.execute(query).one()
        return count, last and utc(last)

    def cancel(self, job_id: int) -> Job:
        """Cancel a queued job at once, or ask a running one to stop; a finished one stays.

        Raises:
            QueueError: there is no such job.
        """
        query = (
            update(tables.jobs)
            .where(c.id == job_id, c.state.in_((QUEUED, RUNNING)))
            .values(
                cancel_requested=True,
                state=case((c.state == QUEUED, CANCELLED), else_=c.state),
                finished_at=case((c.state == QUEUED, datetime.now(timezone.utc)), else_=None),
            )
        )
        with self._database.begin() as connection:
            connection.execute(query)
        return self.get(job_id)

    def _select(self, *where: ColumnElement[bool], limit: int | None = None) -> tuple[Job, ...]:
        query = select(tables.jobs).where(*where).order_by(c.id.desc()).limit(limit)
        with self._database.begin() as connection:
            return tuple(job_of(row) for row in connection.execute(query))


def tail(lines: Iterable[str]) -> tuple[str, ...]:
    """The last lines: at most `LOG_LINES`, and `LOG_BYTES` as UTF-8."""
    kept: list[str] = []
    size = 0
    for line in reversed([cut(line, _LINE_BYTES) for line in lines][-LOG_LINES:]):
        size += len(line.encode()) + 1
        if size > LOG_BYTES:
            break
        kept.append(line)
    return tuple(reversed(kept))


def cut(text: str, size: int) -> str:
    """One line that any database takes: no line ends, no NUL, valid UTF-8 of `size` bytes."""
    line = " ".join(text.replace("\0", "").splitlines())
    return line.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
