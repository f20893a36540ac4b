"""Scores a pool: fetch, decode, detect, embed, store. What is stored is not done again.

Loader threads fetch and decode ahead while the calling thread runs the models batch by batch, so
the models do not wait for pixels. Each batch is stored before the next begins: a run killed at any
point goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from backend.errors import ImageError
from backend.label_studio.client import TaskRef
from backend.label_studio.images import ImageSource
from backend.label_studio.label_map import data_field
from backend.loop.store import IMAGE_VIEW, ScoredTask, Store
from backend.uncertainty import score_image
from backend.vision.picture import Picture, decode

if TYPE_CHECKING:
    from backend.vision.detector import Prepared
    from backend.vision.models import Models

logger = logging.getLogger(__name__)

# Pixels of the longer side that are decoded: enough for the detector and for crops.
_LOADERS = 4
_BATCH = 16

Progress = Callable[[int, int], None]


@dataclass
class ScoringReport:
    """What a scoring run did: tasks scored now, tasks found scored, and why others were not."""

    scored: int = 0
    reused: int = 0
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Loaded:
    task: TaskRef
    uri: str
    image_hash: str
    picture: Picture
    prepared: Prepared


class Scorer:
    """Scores tasks with one pair of models. One thread at a time.

    Args:
        models: the detector and the encoder.
        store: where scores and embeddings go.
        source: where the pixels come from.
    """

    def __init__(self, models: Models, store: Store, source: ImageSource) -> None:
        self._models = models
        self._store = store
        self._source = source
        store.save_detector(models.detector.version, models.detector.class_names)

    @property
    def detector_version(self) -> str:
        """What identifies the detector in the store."""
        return self._models.detector.version

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the detector can see."""
        return self._models.detector.class_names

    @property
    def encoder_name(self) -> str:
        """What identifies the encoder in the store."""
        return self._models.encoder_name

    @property
    def crop_view(self) -> str | None:
        """The view of the store that holds the object crops; None where there are none."""
        if not self._models.embeds_crops:
            return None
        return f"crops:{self.detector_version}"

    def score(
        self,
        project_id: int,
        tasks: Sequence[TaskRef],
        *,
        label_config: str,
        on_progress: Progress = lambda done, total: None,
    ) -> ScoringReport:
        """Score those of `tasks` that are not stored yet.

        One task's unreadable image is reported and the others go on.

        Raises:
            LabelConfigError: the label config names no image.
            LabelStudioError: Label Studio went away; what was scored is stored.
            StoreError: the store cannot be written.
        """
        image_field = data_field(label_config)
        report = ScoringReport()
        stored = self._store.scored_uris(project_id, self.detector_version)
        todo: list[tuple[TaskRef, str]] = []
        for task in tasks:
            try:
                uri = self._source.uri(task, image_field)
            except ImageError as error:
                report.skipped[task.id] = str(error)
                continue
            if stored.get(task.id) == uri:
                report.reused += 1
            else:
                todo.append((task, uri))
        done = len(tasks) - len(todo)
        on_progress(done, len(tasks))
        for batch in _batches(self._load_ahead(todo, report), _BATCH):
            images = [image for image in batch if image is not None]
            if images:
                self._store_batch(project_id, images)
            report.scored += len(images)
            done += len(batch)
            on_progress(done, len(tasks))
        return report

    def _load_ahead(
        self, todo: Sequence[tuple[TaskRef, str]], report: ScoringReport
    ) -> Iterator[_Loaded | None]:
        """Loaded images in order, None for one that failed; a bounded number are held ready."""
        pending: deque[tuple[TaskRef, Future[_Loaded]]] = deque()
        waiting = iter(todo)
        with ThreadPoolExecutor(_LOADERS, thread_name_prefix="loader") as pool:
            try:
                while True:
                    for task, uri in islice(waiting, 2 * _BATCH - len(pending)):
                        pending.append((task, pool.submit(self._load, task, uri)))
                    if not pending:
                        return
                    task, future = pending.popleft()
                    try:
                        yield future.result()
                    except ImageError as error:
                        report.skipped[task.id] = str(error)
                        yield None
            finally:
                for _, future in pending:
                    future.cancel()

    def _load(self, task: TaskRef, uri: str) -> _Loaded:
        data = self._source.fetch(task, uri)
        picture = decode(data, long_side=self._models.decode_side)
        return _Loaded(
            task=task,
            uri=uri,
            image_hash=hashlib.sha256(data).hexdigest(),
            picture=picture,
            prepared=self._models.detector.prepare(picture),
        )

    def _store_batch(self, project_id: int, images: Sequence[_Loaded]) -> None:
        detector = self._models.detector
        seen = detector.detect([image.prepared for image in images])
        self._embed(images, seen)
        # Scores last: a stored score is the sign that the image's embeddings are stored too.
        self._store.save_scores(
            project_id,
            [
                ScoredTask(
                    task_id=image.task.id,
                    image_uri=image.uri,
                    image_hash=image.image_hash,
                    detector=detector.version,
                    detections=detections,
                    scores=score_image(
                        detections.class_scores,
                        peak_score=detections.peak_score,
                        floor=detector.floor,
                    ),
                )
                for image, detections in zip(images, seen, strict=True)
            ],
        )
