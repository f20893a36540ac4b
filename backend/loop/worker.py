"""The one thread that owns the models: requests queue to it and are scored in batches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from backend.errors import HardestFirstError
from backend.label_studio.records import TaskRef
from backend.loop.scorers import Scorers
from backend.loop.scoring import ScoringReport

logger = logging.getLogger(__name__)


@dataclass
class _Request:
    project_id: int
    label_config: str
    task: TaskRef
    # None when scored, else the reason why not.
    done: Future[str | None] = field(default_factory=Future)


class ScoringWorker:
    """Scores tasks for many callers at once, on one thread.

    Args:
        scorers: the models; loaded on the worker's thread when it starts.
        max_batch: how many waiting tasks are taken at once.
    """

    def __init__(self, scorers: Scorers, *, max_batch: int = 64) -> None:
        self._scorers = scorers
        self._loaded: Future[str] = Future()
        self._max_batch = max_batch
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scoring-worker", daemon=True)

    def start(self) -> None:
        """Begin to load the models in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=30)

    @property
    def waiting(self) -> int:
        """How many tasks wait to be taken up, about."""
        return self._queue.qsize()

    def base_detector(self, timeout: float) -> str:
        """The version of the detector that MODEL names; waits for it at most `timeout` seconds.

        Raises:
            HardestFirstError: it cannot be loaded, or is not loaded in time.
        """
        try:
            return self._loaded.result(timeout)
        except FutureTimeoutError:  # not the builtin before Python 3.11
            raise HardestFirstError(
                f"the models are still loading after {timeout:.0f} s: ask again in a minute"
            ) from None

    def score(
        self, project_id: int, tasks: Sequence[TaskRef], *, label_config: str, timeout: float
    ) -> ScoringReport:
        """Score tasks into the store and wait for it, at most `timeout` seconds.

        What is not ready by then stays queued: it is in the store when it is asked for again.
        """
        requests = [_Request(project_id, label_config, task) for task in tasks]
        for request in requests:
            self._queue.put(request)
        wait([request.done for request in requests], timeout=timeout)
        report = ScoringReport()
        for request in requests:
            if not request.done.done():
                reason: str | None = f"not scored within {timeout:.0f} s; it is still queued"
            else:
                reason = request.done.result()
            if reason is None:
                report.scored += 1
            else:
                report.skipped[request.task.id] = reason
        return report

    def _run(self) -> None:
        try:
            base = self._scorers.base()
        except Exception as error:
            logger.error("the models cannot be loaded: %s", error)
            self._loaded.set_exception(error)
            while (batch := self._next_batch()) is not None:
                _finish(batch, f"the models cannot be loaded: {error}")
            return
        self._loaded.set_result(base.detector_version)
        while (batch := self._next_batch()) is not None:
            try:
                self._score(batch)
            except HardestFirstError as error:
                _finish(batch, str(error))
            except Exception:
                # The worker must outlive any one batch: the next request needs it.
                logger.exception("scoring a batch failed")
                _finish(batch, "scoring failed; the backend's log holds the details")
        self._scorers.close()

    def _next_batch(self) -> list[_Request] | None:
        batch: list[_Request] = []
        try:
            while len(batch) < self._max_batch:
                request = self._queue.get_nowait() if batch else self._queue.get()
                if request is None:
                    _finish(batch, "the backend is shutting down")
                    return None
                batch.append(request)
        except Empty:
            pass
        return batch

    def _score(self, batch: list[_Request]) -> None:
        for key in {(request.project_id, request.label_config) for request in batch}:
            mine = [r for r in batch if (r.project_id, r.label_config) == key]
            project_id, label_config = key
            tasks = [request.task for request in mine]
            with self._scorers.lent(project_id) as scorer:
                report = scorer.score(project_id, tasks, label_config=label_config)
            for request in mine:
                request.done.set_result(report.skipped.get(request.task.id))


def _finish(batch: Sequence[_Request], reason: str) -> None:
    for request in batch:
        if not request.done.done():
            request.done.set_result(reason)
