"""The queue of jobs: submit, claim, and requeue what was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from backend.errors import QueueError, StoreError
from backend.job_kinds import exclusive_key
from backend.store import tables
from backend.store.database import Database
from backend.store.job_claims import Claim, running, stands_in_the_way, take, unblocked
from backend.store.job_owners import new_owner
from backend.store.job_sweeping import Sweeper
from backend.store.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, JobRecords, job_of

LEASE_SECONDS = 30.0

c = tables.jobs.c


class JobQueue(JobRecords):
    """The jobs of one database. Safe to use from several threads, processes and machines.

    Args:
        database: holds the table of jobs, which alone decides.
        lease_seconds: a job whose process sent no heartbeat for so long goes to another one.

    Raises:
        StoreError: (from each method) the database failed.
    """

    def __init__(self, database: Database, *, lease_seconds: float = LEASE_SECONDS) -> None:
        super().__init__(database)
        self._sweeper = Sweeper(database, lease_seconds)

    # --- asking for jobs ----------------------------------------------------------------------

    def submit(
        self,
        kind: str,
        project_id: int,
        payload: Mapping[str, Any] | None = None,
        *,
        delay: float = 0.0,
    ) -> Job:
        """Ask for a job, to be begun in `delay` seconds or later.

        At most one new job of a kind and project waits: asking again returns the waiting one,
        with its own payload, due at the earlier of both moments. One that runs already, or was
        interrupted, is not taken for it: it may have missed what just happened.

        Args:
            kind: which handler runs it; at most 20 characters.
            project_id: the project in Label Studio.
            payload: the arguments of the handler, as JSON.
            delay: seconds.
        """
        now = _now()
        due_at = now + timedelta(seconds=delay)
        values = _new_job(kind, project_id, payload, now) | {"due_at": due_at}
        while True:
            waiting = self._waiting(project_id, kind, due_at)
            if waiting is not None:
                return waiting
            job = self._insert(values)
            if job is not None:  # otherwise another process was quicker
                return job

    # --- running them -------------------------------------------------------------------------

    def claim(self, job_id: int) -> Claim | None:
        """Claim a job that is due, for this process.

        None when it is not queued any more, not due yet, or another one blocks it.
        """
        return self._take(and_(c.id == job_id, c.due_at <= _now()))

    def claim_due(self, limit: int) -> Iterator[Claim]:
        """Claim up to so many of the jobs that are due and not blocked, the oldest first."""
        if not limit:
            return
        query = select(c.id).where(c.state == QUEUED, c.due_at <= _now(), unblocked())
        with self._database.begin() as connection:
            due = connection.execute(query.order_by(c.id)).scalars().all()
        # Of two with the same key the second is blocked by then, and leaves its place to another.
        claims = (claim for job_id in due if (claim := self.claim(job_id)) is not None)
        yield from islice(claims, limit)

    def claim_now(
        self, kind: str, project_id: int, payload: Mapping[str, Any] | None = None
    ) -> Claim:
        """Make a job that this process has claimed from the start.

        A waiting one of this kind becomes it. An interrupted one keeps its notes only if
        it was asked for the same; a half-done job that was asked for something else starts over.

        Raises:
            QueueError: a job of the same exclusive key blocks it.
        """
        self.sweep()
        values = _new_job(kind, project_id, payload, _now())
        text = values["payload"]
        notes = case((c.payload == text, c.notes), else_="{}")
        of_kind = and_(c.project_id == project_id, c.kind == kind, c.state == QUEUED)
        while True:
            # An interrupted one is older than a new one.
            waiting = select(func.min(c.id)).where(of_kind).scalar_subquery()
            claim = self._take(c.id == waiting, payload=text, notes=notes)
            if claim is not None:
                return claim
            self._refuse_if_blocked(values["exclusive"])
            owner = new_owner()
            started = {"owner": owner, "attempts": 1, "started_at": values["created_at"]}
            job = self._insert(values | running(owner) | started)
            if job is not None:
                return Claim(self._database, job, owner)

    def sweep(self) -> None:
        """Requeue jobs whose process is gone."""
        self._sweeper.sweep()

    def prune(self, keep_days: float = 30.0, *, kinds: Sequence[str] = ()) -> int:
        """Delete jobs that ended more than so many days ago, of these kinds or any.

        Returns:
            How many.
        """
        old = c.finished_at < _now() - timedelta(days=keep_days)
        if kinds:
            old = and_(old, c.kind.in_(kinds))
        with self._database.begin() as connection:
            return connection.execute(
                delete(tables.jobs).where(c.state.in_((DONE, FAILED, CANCELLED)), old)
            ).rowcount

    # --- the statements -----------------------------------------------------------------------

    def _waiting(self, project_id: int, kind: str, due_at: datetime) -> Job | None:
        """The new job that waits, due at `due_at` at the latest."""
        found = self._select(
            c.project_id == project_id, c.kind == kind, c.state == QUEUED, c.started_at.is_(None)
        )
        if not found or found[0].due_at <= due_at:
            return found[0] if found else None
        earlier = update(tables.jobs).where(c.id == found[0].id, c.state == QUEUED)
        with self._database.begin() as connection:
            connection.execute(earlier.values(due_at=due_at))
        return self.get(found[0].id)

    def _insert(self, values: Mapping[str, Any]) -> Job | None:
        """None where an index of the table refuses it."""
        try:
            with self._database.begin() as connection:
                query = insert(tables.jobs).values(values).returning(tables.jobs)
                return job_of(connection.execute(query).one())
        except StoreError as error:
            if isinstance(error.__cause__, IntegrityError):
                return None
            raise

    def _take(self, which: ColumnElement[bool], **values: Any) -> Claim | None:
        try:
            return take(self._database, which, **values)
        except StoreError as error:
            if isinstance(error.__cause__, IntegrityError):
                return None
            raise

    def _refuse_if_blocked(self, exclusive: str) -> None:
        found = self._select(c.exclusive == exclusive, stands_in_the_way(c), limit=1)
        if not found:
            return
        job = found[0]
        if job.state == RUNNING:
            raise QueueError(
                f"{job} is running for project {job.project_id} right now: wait for it, "
                f"or stop it with `python -m backend jobs --cancel {job.id}`"
            )
        raise QueueError(
            f"{job} of project {job.project_id} was interrupted and has to be finished first: "
            f"start a worker, or drop it with `python -m backend jobs --cancel {job.id}`"
        )


def _new_job(
    kind: str, project_id: int, payload: Mapping[str, Any] | None, now: datetime
) -> dict[str, Any]:
    """The columns of a job that was just asked for."""
    return {
        "project_id": project_id,
        "kind": kind,
        "state": QUEUED,
        "payload": json.dumps(dict(payload or {}), sort_keys=True),
        "exclusive": exclusive_key(kind, project_id),
        "due_at": now,
        "owner": "",
        "attempts": 0,
        "cancel_requested": False,
        "doing": "",
        "done": 0,
        "total": 0,
        "phase_started_with": 0,
        "notes": "{}",
        "result": "{}",
        "error": "",
        "log": "",
        "created_at": now,
    }


def _now() -> datetime:
    return datetime.now(timezone.utc)
