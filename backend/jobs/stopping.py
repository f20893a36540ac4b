"""Why a running job has to stop.

These are no errors to show, and no `Exception`: a handler that goes on past one bad image must
not go on past these.
"""

from __future__ import annotations


class JobStopped(BaseException):
    """The root: catch it only to clean up, and raise it again."""


class JobCancelled(JobStopped):
    """The job was cancelled."""


class JobInterrupted(JobStopped):
    """The worker is shutting down; the job goes back to the queue."""


class JobLost(JobStopped):
    """The job was given to another process, because this one was not heard of for too long."""
