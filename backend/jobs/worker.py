"""The worker: polls the table of jobs, and runs what is due on threads of this process."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from backend.errors import HardestFirstError
from backend.jobs.runner import Handler, Runner
from backend.store.job_queue import JobQueue

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SWEEP_SECONDS = 2.0
TICK_SECONDS = 5.0
_RETRY_SECONDS = 5.0
_THREADS = 4
# Docker kills ten seconds after SIGTERM. Jobs get most of that time, and the rest of the end
# must do without a store that hangs.
_STOP_SECONDS = 8.0
_END_SECONDS = 9.0
_SIGNAL_SECONDS = 0.2


def run_worker(
    queue: JobQueue,
    handlers: Mapping[str, Handler],
    *,
    on_tick: Callable[[], None] | None = None,
) -> None:
    """Run jobs, up to four at a time, until SIGTERM, SIGINT or SIGHUP. Needs the main thread.

    Running jobs are then stopped and go back to the queue, this attempt uncounted. The
    process ends hard, with exit status 1, if one of them does not listen for 8 seconds, or if the
    store does not answer for 9: the next worker begins them again.

    Args:
        queue: the jobs.
        handlers: kind of job -> what runs it.
        on_tick: called about every 5 seconds; it should only submit jobs.
    """
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: signals.append(got))
    guard = threading.Timer(_END_SECONDS, _end_hard, ("the store does not answer",))
    guard.daemon = True
    with Runner(handlers) as runner:
        dispatcher = _Dispatcher(queue, runner, on_tick)
        dispatcher.start()
        # An event cannot be set from a signal handler: the main thread may hold its lock.
        while not signals:
            time.sleep(_SIGNAL_SECONDS)
        guard.start()
        dispatcher.end()
        stuck = runner.stop(_STOP_SECONDS)
        if stuck:
            names = ", ".join(str(job) for job in stuck)
            _end_hard(f"{names} did not stop within {_STOP_SECONDS:.0f} s")
    dispatcher.join()
    guard.cancel()


def _end_hard(why: str) -> None:
    """Nothing is lost by it, and the interpreter's own end would wait for the threads."""
    logger.warning("%s: this worker ends now, and the next one repeats what it ran", why)
    os._exit(1)


class _Dispatcher(threading.Thread):
    """Claims jobs that are due as threads become free, and sweeps: workers can be killed."""

    def __init__(self, queue: JobQueue, runner: Runner, on_tick: Callable[[], None] | None) -> None:
        super().__init__(name="job-dispatcher", daemon=True)
        self._queue = queue
        self._runner = runner
        self._on_tick = on_tick
        self._next_sweep = self._next_tick = time.monotonic()
        self._running: set[Future[bool]] = set()
        self._ending = threading.Event()
        self._wake = threading.Event()

    def end(self) -> None:
        """Claim no more jobs."""
        self._ending.set()
        self._wake.set()

    def run(self) -> None:
        """Until `end`."""
        with ThreadPoolExecutor(_THREADS, "job") as pool:
            while not self._ending.is_set():
                pause = POLL_SECONDS
                try:
                    self._keep_time()
                    self._begin_jobs(pool)
                except HardestFirstError as error:
                    logger.warning("the jobs could not be polled: %s", error)
                    pause = _RETRY_SECONDS
                except Exception:  # the next time may well succeed, and the worker needs it
                    logger.exception("the jobs could not be polled")
                    pause = _RETRY_SECONDS
                self._wake.wait(pause)
                self._wake.clear()

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._queue.sweep()
        if self._on_tick is not None and now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._on_tick()

    def _begin_jobs(self, pool: ThreadPoolExecutor) -> None:
        self._running = {future for future in self._running if not future.done()}
        for claim in self._queue.claim_due(_THREADS - len(self._running)):
            future = pool.submit(self._runner.run, claim)
            self._running.add(future)
            future.add_done_callback(self._over)
            if self._ending.is_set():
                return

    def _over(self, future: Future[bool]) -> None:
        if (error := future.exception()) is not None:
            logger.error("a job ended unexpectedly", exc_info=error)
        self._wake.set()  # another job may wait for a thread, or for this one's end
