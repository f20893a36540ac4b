"""The worker: Huey's consumer, which runs jobs on threads of this process until it is stopped.

A timer beside it sweeps, because messages can be lost and workers can be killed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping

from huey.consumer import Consumer, ConsumerStopped

from backend.errors import HardestFirstError
from backend.jobs.queue import JobQueue
from backend.jobs.runner import Handler, Runner

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
TICK_SECONDS = 5.0
# Docker kills ten seconds after SIGTERM.
_STOP_SECONDS = 8.0
# Huey looks into an idle file as rarely as this. It waits at a Redis, and sleeps only while that
# is away.
_POLL_SECONDS = 1.0
_OUTAGE_SECONDS = 10.0


def run_worker(
    queue: JobQueue,
    handlers: Mapping[str, Handler],
    *,
    threads: int = 4,
    on_tick: Callable[[], None] | None = None,
) -> None:
    """Run jobs until SIGTERM, SIGINT or SIGHUP. To be called on the main thread.

    Running jobs are then stopped and go back to the queue, this attempt uncounted. The
    process ends hard, with exit status 1, if one of them does not listen for 8 seconds: the
    next worker begins it again.

    Args:
        queue: the jobs.
        handlers: kind of job -> what runs it.
        threads: how many jobs run at the same time.
        on_tick: called about every 5 seconds on the sweep's thread; it should only submit jobs.
    """
    ending = threading.Event()
    signals: list[int] = []
    _catch(signals)
    with Runner(handlers) as runner:

        def run(job_id: int) -> None:
            claim = None if ending.is_set() else queue.claim(job_id)
            if claim is not None:
                runner.run(claim)

        queue.messages.deliver_to(run)
        huey = queue.messages.huey
        consumer = huey.create_consumer(
            workers=threads,
            periodic=False,
            max_delay=_OUTAGE_SECONDS if huey.storage.blocking else _POLL_SECONDS,
        )
        timer = threading.Thread(
            target=_keep_time, args=(queue, ending, on_tick), name="job-timer", daemon=True
        )
        timer.start()
        _consume(consumer, signals)
        ending.set()
        stuck = runner.stop(_STOP_SECONDS)
    if stuck:
        names = ", ".join(str(job) for job in stuck)
        logger.warning("%s did not stop within %.0f s; a worker begins anew", names, _STOP_SECONDS)
        logging.shutdown()
        # Nothing is lost by it, and the interpreter's own end would wait for the handler.
        os._exit(1)
    timer.join(_STOP_SECONDS)


def _catch(signals: list[int]) -> None:
    """Have the signals that end a worker noted in a list, and do nothing else."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: signals.append(got))


def _consume(consumer: Consumer, signals: list[int]) -> None:
    """Huey's own loop, but one signal is like another, and none restarts the process."""
    consumer.start()
    _catch(signals)  # again: Huey has set its own
    checked = time.monotonic()
    try:
        while not signals:
            checked = consumer.loop(checked)
    except ConsumerStopped:
        return
    consumer.stop()


def _keep_time(
    queue: JobQueue, ending: threading.Event, on_tick: Callable[[], None] | None
) -> None:
    ticked = -TICK_SECONDS
    while not ending.is_set():
        try:
            queue.sweep()
            if on_tick is not None and time.monotonic() - ticked >= TICK_SECONDS:
                ticked = time.monotonic()
                on_tick()
        except HardestFirstError as error:
            logger.warning("the sweep of the jobs failed: %s", error)
        except Exception:  # the next sweep may well succeed, and the worker needs it
            logger.exception("the sweep of the jobs failed")
        ending.wait(SWEEP_SECONDS)
