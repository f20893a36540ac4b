"""The one thread that owns the models: requests queue to it and are scored in batches."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from backend.errors import BusyError, HardestFirstError, ImageError, LabelConfigError
from backend.images.source import image_uri
from backend.label_studio.label_map import data_field
from backend.label_studio.records import TaskRef
from backend.scoring.models import Scorers
from backend.scoring.scorer import ScoringReport

logger = logging.getLogger(__name__)


# What all waiting tasks may take up together, about: 50,000 ordinary ones. Callers leave after
# their time, their tasks stay, and an address may hold a whole image (`data:`).
_MAX_WAITING_BYTES = 256_000_000
_BYTES_PER_TASK = 2_500
_FULL = (
    "too many images wait to be scored already: ask again later, or run `python -m backend score`"
)


@dataclass(frozen=True)
class _Asked:
    """One image to be scored. Who asks for the same again waits for the same."""

    project_id: int
    label_config: str
    image_field: str
    task_id: int
    uri: str

    @property
    def task(self) -> TaskRef:
        """Without what else the task's data holds: nothing here reads it."""
        return TaskRef(id=self.task_id, data={self.image_field: self.uri})

    @property
    def bytes(self) -> int:
        """How much memory it takes up while it waits, about."""
        return _BYTES_PER_TASK + len(self.uri) + len(self.label_config)


@dataclass(frozen=True, eq=False)
class _Request:
    asked: _Asked
    # None when scored, else the reason why not.
    done: Future[str | None] = field(default_factory=Future)


class ScoringWorker:
    """Scores tasks for many callers at once, on one thread.

    Args:
        scorers: the models; loaded on the worker's thread when it starts.
        max_batch: how many waiting tasks are taken at once.
        max_waiting_bytes: what waiting tasks may take up in memory; more are turned away.
    """

    def __init__(
        self,
        scorers: Scorers,
        *,
        max_batch: int = 64,
        max_waiting_bytes: int = _MAX_WAITING_BYTES,
    ) -> None:
        self._scorers = scorers
        self._loaded: Future[str] = Future()
        self._max_batch = max_batch
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: dict[_Asked, _Request] = {}  # those in hand too
        self._waiting_bytes = 0
        self._lock = threading.Lock()  # for these two
        self._stopping = threading.Event()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scoring-worker", daemon=True)

    def start(self) -> None:
        """Begin to load the models in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand, turn away what waits, and end the thread."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout=30)

    @property
    def waiting(self) -> int:
        """How many tasks wait to be taken up, about."""
        return self._queue.qsize()

    def base_detector(self, timeout: float) -> str:
        """The version of the detector that MODEL names; waits for it at most `timeout` seconds.

        Raises:
            HardestFirstError: it cannot be loaded.
            BusyError: it is not loaded in time.
        """
        try:
            return self._loaded.result(timeout)
        except FutureTimeoutError:  # not the builtin before Python 3.11
            raise BusyError(
                f"the models are still loading after {timeout:.0f} s: ask again in a minute"
            ) from None

    def score(
        self, project_id: int, tasks: Sequence[TaskRef], *, label_config: str, timeout: float
    ) -> ScoringReport:
        """Score tasks into the store and wait for it, at most `timeout` seconds.

        What is not ready by then stays queued: it is in the store when it is asked for again.
        """
        report = ScoringReport()
        try:
            image_field = data_field(label_config)
        except LabelConfigError as error:
            report.skipped = {task.id: str(error) for task in tasks}
            return report
        requests: list[_Request] = []
        for task in tasks:
            try:
                uri = image_uri(task, image_field)
            except ImageError as error:
                report.skipped[task.id] = str(error)
            else:
                asked = _Asked(project_id, label_config, image_field, task.id, uri)
                requests.append(self._request(asked))
        wait([request.done for request in requests], timeout=timeout)
        late = f"not scored within {timeout:.0f} s; it is still queued"
        for request in requests:
            reason = request.done.result() if request.done.done() else late
            if reason is None:
                report.scored += 1
            else:
                report.skipped[request.asked.task_id] = reason
        return report

    def _request(self, asked: _Asked) -> _Request:
        """The request that waits for this image: one that is there, or a new one."""
        with self._lock:
            request = self._waiting.get(asked)
            if request is None:
                request = _Request(asked)
                if self._waiting_bytes + asked.bytes > self._max_waiting_bytes:
                    request.done.set_result(_FULL)
                    return request
                self._waiting[asked] = request
                self._waiting_bytes += asked.bytes
                self._queue.put(request)
            return request

    def _finish(self, batch: Iterable[_Request], reason: str | None) -> None:
        for request in batch:
            with self._lock:
                del self._waiting[request.asked]
                self._waiting_bytes -= request.asked.bytes
            request.done.set_result(reason)

    def _run(self) -> None:
        try:
            base = self._scorers.base()
        except Exception as error:
            logger.error("the models cannot be loaded: %s", error)
            self._loaded.set_exception(error)
            while (batch := self._next_batch()) is not None:
                self._finish(batch, f"the models cannot be loaded: {error}")
            return
        self._loaded.set_result(base.detector_version)
        while (batch := self._next_batch()) is not None:
            for alike in _alike(batch):
                self._score(alike)
        self._scorers.close()

    def _next_batch(self) -> list[_Request] | None:
        """What waits, at most a batch of it; None: the end."""
        batch: list[_Request] = []
        with suppress(Empty):
            while len(batch) < self._max_batch or self._stopping.is_set():
                request = self._queue.get(block=not batch and not self._stopping.is_set())
                if request is not None:
                    batch.append(request)
        if self._stopping.is_set():
            self._finish(batch, "the backend is shutting down")
            return None
        return batch

    def _score(self, batch: Sequence[_Request]) -> None:
        """Score tasks of one project; what goes wrong is theirs alone."""
        first = batch[0].asked
        skipped: Mapping[int, str] = {}
        try:
            with self._scorers.lent(first.project_id) as scorer:
                skipped = scorer.score(
                    first.project_id,
                    [request.asked.task for request in batch],
                    label_config=first.label_config,
                    embed=False,  # people wait: the next order embeds them
                ).skipped
        except HardestFirstError as error:
            skipped = dict.fromkeys((request.asked.task_id for request in batch), str(error))
        except Exception:
            # The worker must outlive any one batch: the next request needs it.
            logger.exception("scoring a batch failed")
            reason = "scoring failed; the backend's log holds the details"
            skipped = dict.fromkeys((request.asked.task_id for request in batch), reason)
        for request in batch:
            self._finish([request], skipped.get(request.asked.task_id))


def _alike(batch: Sequence[_Request]) -> list[list[_Request]]:
    """Of one project and label config each, and no task twice: what is skipped goes by task."""
    groups: dict[tuple[int, str, int], list[_Request]] = {}
    times: Counter[tuple[int, str, int]] = Counter()
    for request in batch:
        asked = request.asked
        task = (asked.project_id, asked.label_config, asked.task_id)
        groups.setdefault((*task[:2], times[task]), []).append(request)
        times[task] += 1
    return list(groups.values())
