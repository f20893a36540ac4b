"""Runs claimed jobs in this process: keeps their leases, and stores how they ended."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from structlog.contextvars import bound_contextvars
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from backend.errors import (
    HardestFirstError,
    JobCancelled,
    JobInterrupted,
    JobLost,
    QueueError,
    StoreError,
)
from backend.job_kinds import POLL
from backend.jobs.context import JobContext
from backend.metrics import JOB_SECONDS
from backend.progress import Progress
from backend.store.job_claims import Claim
from backend.store.job_queue import JobQueue
from backend.store.jobs import CANCELLED, DONE, FAILED, QUEUED, Job, cut

logger = logging.getLogger(__name__)

# A handler returns what becomes the job's result, as JSON takes it.
Handler = Callable[[JobContext], Mapping[str, Any] | None]

HEARTBEAT_SECONDS = 1.0
_ERROR_BYTES = 2000


@dataclass(frozen=True)
class _End:
    state: str
    result: str = "{}"
    error: str = ""


class Runner:
    """Runs jobs, each on the thread that calls `run`. Use it as a context manager.

    Args:
        handlers: kind of job -> what runs it.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._contexts: set[JobContext] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="job-heartbeat", daemon=True)

    def __enter__(self) -> Runner:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._heart.join()

    def run(self, claim: Claim, *, on_progress: Progress | None = None) -> bool:
        """Run a job and store how it ended.

        Returns:
            False: another process took it over, and stores how it ends.
        """
        context = JobContext(claim, stopping=self._stopping.is_set, on_progress=on_progress)
        job = claim.job
        with bound_contextvars(job=job.id, project=job.project_id), self._beating(context):
            # Polls come every minute and mostly find nothing.
            level = logging.DEBUG if job.kind == POLL else logging.INFO
            logger.log(level, "%s of project %s begins", job, job.project_id)
            started = time.monotonic()
            try:
                end = self._handle(context)
                JOB_SECONDS.labels(job.kind, end.state).observe(time.monotonic() - started)
                _store(context, end)
                outcome = end.error or end.result
                level = logging.DEBUG if context.is_quiet and end.state == DONE else logging.INFO
                logger.log(level, "%s: %s: %s", claim.job, end.state, outcome)
            except JobLost:
                logger.warning("%s went to another process meanwhile", claim.job)
                return False
            except StoreError as error:
                # Its lease ends now, so that a worker takes it up again.
                logger.error("how %s ended could not be stored: %s", claim.job, error)
            except KeyboardInterrupt:
                with suppress(JobLost, StoreError):
                    _store(context, _End(CANCELLED))
                raise
        return True

    def stop(self, timeout: float) -> tuple[Job, ...]:
        """Requeue running jobs; returns those that do not stop within `timeout` s."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        while (left := self._running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for context in left:
            try:
                context.excuse()
            except (StoreError, JobLost) as error:
                logger.warning("%s: %r", context.job, error)
        return tuple(context.job for context in left)

    def _handle(self, context: JobContext) -> _End:
        job = context.job
        handler = self._handlers.get(job.kind)
        if handler is None:
            return _End(FAILED, error=f"no worker of this version runs jobs of the kind {job.kind}")
        try:
            context.check()
            return _End(DONE, result=json.dumps(dict(handler(context) or {})))
        except JobCancelled:
            return _End(CANCELLED)
        except JobInterrupted:
            return _End(QUEUED)
        except HardestFirstError as error:
            return _End(FAILED, error=cut(str(error), _ERROR_BYTES))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # such as asyncio.CancelledError: a job has to end
            logger.exception("%s failed", job)
            name = type(error).__name__
            return _End(FAILED, error=f"unexpected {name}; the worker's log holds the details")

    @contextmanager
    def _beating(self, context: JobContext) -> Iterator[None]:
        with self._lock:
            self._contexts.add(context)
        try:
            yield
        finally:
            with self._lock:
                self._contexts.discard(context)

    def _running(self) -> tuple[JobContext, ...]:
        with self._lock:
            return tuple(self._contexts)

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            for context in self._running():
                try:
                    context.beat()
                except Exception:  # the other jobs' leases hang on this thread
                    logger.exception("%s: the heartbeat failed", context.job)


def _store(context: JobContext, end: _End) -> None:
    """A long job's end is worth waiting for a database that is away for a moment."""
    for attempt in Retrying(
        retry=retry_if_exception_type(StoreError),
        wait=wait_exponential(max=4),
        stop=stop_after_delay(20),
        reraise=True,
    ):
        with attempt:
            context.end(end.state, result=end.result, error=end.error)


def run_now(
    queue: JobQueue,
    kind: str,
    project_id: int,
    payload: Mapping[str, Any] | None,
    handlers: Mapping[str, Handler],
    *,
    on_progress: Progress | None = None,
) -> Job:
    """Run a job in this process, right now, and return it as it ended.

    It is a job like any other: a waiting one of its kind becomes it, workers leave it alone, and
    `cancel` stops it. Ctrl-C cancels it. If this process dies otherwise, a worker finishes the
    job: a half-done order must not stay half done.

    Args:
        queue: where the job is kept.
        kind: a key of `handlers`.
        project_id: the project in Label Studio.
        payload: the arguments of the handler, as JSON.
        handlers: kind of job -> what runs it.
        on_progress: called with (doing, done, total).

    Raises:
        QueueError: a job of the same exclusive key runs, or has to be finished first; or this
            process was stopped for so long that the job went to another one.
    """
    claim = queue.claim_now(kind, project_id, payload)
    with Runner(handlers) as runner:
        if not runner.run(claim, on_progress=on_progress):
            raise QueueError(
                f"{claim.job} went to another process, because this one was stopped for too long: "
                f"see `python -m backend jobs {project_id}` for how it ended"
            )
    return queue.get(claim.job.id)
