"""Finds running jobs whose process is gone, and puts them back into the queue."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, and_, select, update

from backend.store import tables
from backend.store.database import Database
from backend.store.job_claims import requeued
from backend.store.job_owners import is_gone
from backend.store.jobs import FAILED, RUNNING

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
# A lease ends after at least so many sweeps.
_STEPS = 6

c = tables.jobs.c


class Sweeper:
    """Adds up how long each running job's heartbeat has not moved.

    A process of this machine is gone when it does not exist any more. Any other is gone when its
    heartbeat did not move for the lease, by this process's own clock: the clocks of two machines
    differ, and a clock jumps when its machine wakes up. Time in which the store took no writes
    does not count, because no heartbeat could be stored then.

    Args:
        database: where the jobs are.
        lease_seconds: how long a heartbeat may not move.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        # Job id -> (owner and heartbeat as last seen, seconds for which they were seen so).
        self._seen: dict[int, tuple[tuple[str, datetime], float]] = {}
        self._last = time.monotonic()

    def sweep(self) -> None:
        """Take back what nobody works on. The third time, the job has failed."""
        query = select(c.id, c.owner, c.heartbeat_at, c.attempts).where(c.state == RUNNING)
        seen = {}
        lost = []
        with self._database.begin() as connection:
            # Waits until the store takes writes, as every heartbeat has to.
            connection.execute(update(tables.jobs).where(c.id < 0).values(owner=""))
            step = self._step()
            for row in connection.execute(query).all():
                beat = (row.owner, row.heartbeat_at)
                before, silent = self._seen.get(row.id, (beat, -step))
                silent = silent + step if before == beat else 0.0
                seen[row.id] = (beat, silent)
                gone = is_gone(row.owner) or silent > self._lease_seconds
                if gone and _take_back(connection, row):
                    lost.append(row.id)
        self._seen = seen
        for job_id in lost:
            logger.warning("the process that ran job %d is gone", job_id)

    def _step(self) -> float:
        """Seconds since the last sweep; of a longer pause, in which others waited too, a part."""
        now = time.monotonic()
        step = min(now - self._last, self._lease_seconds / _STEPS)
        self._last = now
        return step


def _take_back(connection: Connection, row: Any) -> bool:
    """False: the job ended, or sent a heartbeat, since this row was read."""
    same = and_(
        c.id == row.id,
        c.state == RUNNING,
        c.owner == row.owner,
        c.heartbeat_at == row.heartbeat_at,
    )
    query = update(tables.jobs).where(same).values(_taken_back(row.attempts))
    return bool(connection.execute(query).rowcount)


def _taken_back(attempts: int) -> dict[str, Any]:
    if attempts < MAX_ATTEMPTS:
        return requeued()
    why = (
        f"its process was killed or lost {attempts} times while running it: look for the cause "
        "in the log of the worker and of the system (memory, most often), then ask for it again"
    )
    now = datetime.now(timezone.utc)
    return {"state": FAILED, "error": why, "finished_at": now, "owner": ""}
