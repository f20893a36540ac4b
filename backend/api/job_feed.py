"""Streams the progress of jobs to any number of listeners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from weakref import WeakValueDictionary

from backend.errors import HardestFirstError
from backend.store.job_queue import JobQueue
from backend.store.jobs import QUEUED, RUNNING, Job

logger = logging.getLogger(__name__)

PAUSE_S = 1.0


class JobFeed:
    """Reads each job with listeners once a pause, however many listen. For one event loop.

    Args:
        queue: where the jobs are.
        pause: seconds between two reads.
    """

    def __init__(self, queue: JobQueue, *, pause: float = PAUSE_S) -> None:
        self._queue = queue
        self._pause = pause
        # Held by its listeners: it goes with the last of them.
        self._readings: WeakValueDictionary[int, _Reading] = WeakValueDictionary()

    async def follow(self, job_id: int) -> AsyncIterator[Job]:
        """The job as it is, then again whenever it has changed, at last as it ended.

        Ends early when the job cannot be read any more: asked again, it says why.
        """
        reading = self._readings.get(job_id)
        if reading is None:
            reading = self._readings[job_id] = _Reading(self._queue, job_id, self._pause)
        last: Job | None = None
        while True:
            try:
                job = await reading.latest()
            except HardestFirstError as error:
                logger.warning("job %s is not followed any more: %s", job_id, error)
                return
            # The estimated time left changes with every read: that alone is no news.
            timeless = replace(job, seconds_left=None)
            if timeless != last:
                yield job
                last = timeless
            if job.state not in (QUEUED, RUNNING):
                return
            await asyncio.sleep(self._pause)


class _Reading:
    """One job's last read, shared."""

    def __init__(self, queue: JobQueue, job_id: int, pause: float) -> None:
        self._queue = queue
        self._job_id = job_id
        self._pause = pause
        self._task: asyncio.Task[Job] | None = None
        self._asked_at = 0.0

    async def latest(self) -> Job:
        now = asyncio.get_running_loop().time()
        if self._task is None or now - self._asked_at >= self._pause:
            self._asked_at = now
            # Not on FastAPI's threads: those may all be busy with predictions.
            read = asyncio.to_thread(self._queue.get, self._job_id)
            self._task = asyncio.create_task(read)
        # A listener that goes away does not cancel the read of the others.
        return await asyncio.shield(self._task)
