"""Scores a project at the first request for its queue."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from fastapi import HTTPException, status

from backend.api.existence import check_exists
from backend.api.security.access import Caller
from backend.api.services import Services
from backend.job_kinds import PUBLISH, SCORE
from backend.store.job_queue import JobQueue
from backend.store.jobs import FAILED, QUEUED, RUNNING, Job

# How long a caller waits for a new job before it gets 202.
_WAIT_S = 1.5
_LOOK_EVERY_S = 0.05
# One that failed would fail again at once: a caller that asks in a loop gets 503 instead.
_PAUSE = timedelta(minutes=1)


def first_scoring(services: Services, caller: Caller, project_id: int) -> Job:
    """The job that scores a project for the first time: the one under way, or a new one.

    It changes nothing in Label Studio. A new one is waited for, for a second or two.

    Raises:
        HTTPException: 403, the caller may start none; 503, the last one failed just now.
        BusyError: others wait for Label Studio already.
        LabelStudioError: there is no such project, or Label Studio does not say so in time.
    """
    under_way = services.queue.list(project_id, (QUEUED, RUNNING), limit=1, kinds=(SCORE, PUBLISH))
    if under_way:
        return under_way[0]
    _refuse_after_failure(services.queue.latest(project_id, SCORE))
    if not caller.may_write:
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"project {project_id} was never scored, and this key may only read: "
            "ask with a key that may write",
        )
    check_exists(services.settings, project_id)
    job = services.queue.submit(SCORE, project_id)
    return _waited_for(services.queue, job)


def _refuse_after_failure(job: Job | None) -> None:
    if job is None or job.state != FAILED or job.finished_at is None:
        return
    left = job.finished_at + _PAUSE - datetime.now(timezone.utc)
    if left > timedelta():
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            f"scoring project {job.project_id} failed ({job}): {job.error}",
            headers={"Retry-After": str(int(left.total_seconds()) + 1)},
        )


def _waited_for(queue: JobQueue, job: Job) -> Job:
    deadline = time.monotonic() + _WAIT_S
    while job.state in (QUEUED, RUNNING) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
        job = queue.get(job.id)
    return job
