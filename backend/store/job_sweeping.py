"""Finds running jobs whose process is gone, and puts them back into the queue."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import and_, select, update

from backend.store import tables
from backend.store.database import Database
from backend.store.job_claims import requeued
from backend.store.job_owners import is_gone
from backend.store.jobs import FAILED, RUNNING

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3

c = tables.jobs.c


class Sweeper:
    """Remembers when it last saw each running job's heartbeat move.

    A process of this machine is gone when it does not exist any more. Any other is gone when its
    heartbeat stood still for the lease, by this process's own clock: the clocks of two machines
    differ, and a clock jumps when its machine wakes up.

    Args:
        database: where the jobs are.
        lease_seconds: how long a heartbeat may stand still.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        # Job id -> (owner and heartbeat as last seen, when they were first seen so).
        self._seen: dict[int, tuple[tuple[str, datetime], float]] = {}

    def sweep(self) -> None:
        """Take back what nobody works on. The third time, the job has failed."""
        query = select(c.id, c.owner, c.heartbeat_at, c.attempts).where(c.state == RUNNING)
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        now = time.monotonic()
        seen = {}
        for row in rows:
            beat = (row.owner, row.heartbeat_at)
            known = self._seen.get(row.id)
            since = known[1] if known is not None and known[0] == beat else now
            seen[row.id] = (beat, since)
            if is_gone(row.owner) or now - since > self._lease_seconds:
                self._take_back(row)
        self._seen = seen

    def _take_back(self, row: Any) -> None:
        """Unless it ended, or sent a heartbeat, since this row was read."""
        same = and_(
            c.id == row.id,
            c.state == RUNNING,
            c.owner == row.owner,
            c.heartbeat_at == row.heartbeat_at,
        )
        with self._database.begin() as connection:
            query = update(tables.jobs).where(same).values(_taken_back(row.attempts))
            if connection.execute(query).rowcount:
                logger.warning("the process that ran job %d is gone", row.id)


def _taken_back(attempts: int) -> dict[str, Any]:
    if attempts < MAX_ATTEMPTS:
        return requeued()
    why = (
        f"its process was killed or lost {attempts} times while running it: look for the cause "
        "in the log of the worker and of the system (memory, most often), then ask for it again"
    )
    now = datetime.now(timezone.utc)
    return {"state": FAILED, "error": why, "finished_at": now, "owner": ""}
