"""What a handler gets: the job, and how it reports, keeps notes and is stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from backend.errors import JobCancelled, JobInterrupted, JobLost, StoreError
from backend.progress import Progress
from backend.store.job_claims import Claim
from backend.store.jobs import Job, JobProgress, cut, tail

logger = logging.getLogger(__name__)


class JobContext:
    """One running job, seen from its handler. Safe to use from several threads.

    Args:
        claim: the job that this process runs.
        stopping: whether this process is shutting down.
        on_progress: called with (doing, done, total), besides the table.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        stopping: Callable[[], bool],
        on_progress: Progress | None = None,
    ) -> None:
        self._claim = claim
        self._stopping = stopping
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._progress = JobProgress(log=claim.job.log)
        self._notes = dict(claim.job.notes)
        self._cancelled = False
        self._lost = False
        self._quiet = False

    @property
    def job(self) -> Job:
        """The job as it was when it began."""
        return self._claim.job

    @property
    def notes(self) -> Mapping[str, Any]:
        """The notes of this attempt and of those before it."""
        return self._notes

    def note(self, **values: Any) -> None:
        """Add to the notes, stored at once: an attempt after a kill sees them.

        Raises:
            JobLost: the job is another process's by now.
            StoreError: they could not be stored.
        """
        with self._lock:
            self._notes.update(values)
            self._claim.note(self._notes)

    def progress(self, doing: str, done: int, total: int) -> None:
        """Report `done` of `total` steps of the phase `doing`.

        Stored at once when a phase begins or ends, else by the next heartbeat.

        Raises:
            JobStopped: see `check`.
        """
        with self._lock:
            before = self._progress
            begins = doing != before.doing or before.phase_started_at is None
            after = replace(before, doing=cut(doing, 60), done=done, total=total)
            if begins:
                now = datetime.now(timezone.utc)
                after = replace(after, phase_started_at=now, phase_started_with=done)
            self._progress = after
        if begins or before.done < total <= done:
            self.beat()
        if self._on_progress is not None:
            self._on_progress(doing, done, total)
        self.check()

    def log(self, line: str) -> None:
        """Add a line to the job's log, of which the last lines are kept; stored soon."""
        with self._lock:
            self._progress = replace(self._progress, log=tail([*self._progress.log, line]))

    def stay_quiet(self) -> None:
        """Log the end of this job at DEBUG: nothing happened that people need to read."""
        self._quiet = True

    @property
    def is_quiet(self) -> bool:
        """See `stay_quiet`."""
        return self._quiet

    def check(self) -> None:
        """Go on, or stop here.

        Raises:
            JobCancelled: the job was cancelled.
            JobInterrupted: the worker is shutting down.
            JobLost: the job is another process's by now.
        """
        if self._lost:
            raise JobLost
        if self._cancelled:
            raise JobCancelled
        if self._stopping():
            raise JobInterrupted

    def hold(self) -> None:
        """Make sure that the job is still this process's: ask the store, not the last heartbeat.

        A process that was stopped for a while does not know what it missed. Called before what
        cannot be taken back.

        Raises:
            JobLost: the job is another process's by now.
            StoreError: the store could not be asked.
        """
        with self._lock:
            try:
                self._cancelled = self._claim.report(self._progress)
            except JobLost:
                self._lost = True
                raise

    def beat(self) -> None:
        """Store the progress, keep the lease, notice a cancel. Called about once a second."""
        with self._lock:
            try:
                self._cancelled = self._claim.report(self._progress)
            except JobLost:
                self._lost = True
            except StoreError as error:
                logger.warning("%s could not report: %s", self.job, error)

    def end(self, state: str, *, result: str = "{}", error: str = "") -> None:
        """Store how the job ended: done, failed or cancelled, or queued to give it back."""
        with self._lock:
            if state == "queued":
                self._claim.give_back(self._progress)
            else:
                self._claim.end(state, self._progress, result=result, error=error)

    def excuse(self) -> None:
        """Do not count this attempt: the process ends before the handler does."""
        self._claim.excuse()
