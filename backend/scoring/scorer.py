"""Scores a pool: fetch, decode, detect, embed, store. What is stored is not done again.

Each batch is stored before the next begins: a run killed at any point goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections, features_name
from backend.errors import ImageError
from backend.images.source import ImageSource, image_uri
from backend.label_studio.label_map import data_field
from backend.label_studio.records import TaskRef
from backend.metrics import IMAGES_SCORED, IMAGES_SKIPPED, timed
from backend.selection.class_weights import class_weights, weigh_image
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, ScoredTask, Store
from backend.uncertainty import ImageScores, score_image
from backend.vision.models import Models, Observation
from backend.vision.pipeline import observe_all

logger = logging.getLogger(__name__)

# Images that are stored in one transaction.
_BATCH = 16


@dataclass
class ScoringReport:
    """What a scoring run did: tasks scored now, tasks found scored, and why others were not."""

    scored: int = 0
    reused: int = 0
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(eq=False)
class _Due:
    """One image to be scored. A task may be in a batch twice, with two images."""

    task_id: int
    uri: str
    was_scored: bool  # from the same address, perhaps of another image
    image_hash: str = ""  # known once it is loaded
    stored: ScoredTask | None = None  # where this very image was scored, and not embedded


@dataclass(frozen=True)
class _Seen:
    due: _Due
    observation: Observation
    embedded: bool


class Scorer:
    """Scores tasks with one pair of models. One thread at a time.

    Args:
        models: the detector and the encoder.
        store: where scores and embeddings go.
        source: where the pixels come from.
        learned: class name -> how many boxes the detector was trained on; None where its training
            is not here, or not known: no class then counts more than another.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        source: ImageSource,
        *,
        learned: Mapping[str, int] | None = None,
    ) -> None:
        self._models = models
        self._store = store
        self._source = source
        self._class_weights = (
            class_weights([learned[name] for name in self.class_names]) if learned else None
        )
        store.save_detector(self.detector_version, self.class_names)

    @property
    def models(self) -> Models:
        """The detector and the encoder."""
        return self._models

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
        return self._models.encoder.name

    def score(
        self,
        project_id: int,
        tasks: Sequence[TaskRef],
        *,
        label_config: str,
        embed: bool = True,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> ScoringReport:
        """Score those of `tasks` that are not stored yet, and embed what was only scored.

        One task's unreadable image is reported and the others go on. Without `embed` the encoder
        does not run, for callers who wait for an answer; ranking leaves such tasks out.

        Raises:
            LabelConfigError: the label config names no image.
            LabelStudioError: Label Studio went away; what was scored is stored.
            StoreError: the store cannot be written.
        """
        report = ScoringReport()
        todo = self._not_stored(project_id, tasks, data_field(label_config), report, embed=embed)
        done = len(tasks) - len(todo)
        on_progress(done, len(tasks))

        def load(due: _Due) -> bytes:
            with timed("fetch"):
                data = self._source.fetch(due.uri, task_id=due.task_id)
            due.image_hash = hashlib.sha256(data).hexdigest()
            return data

        def embedded(due: _Due) -> bool:
            return not embed or self._is_embedded(self.encoder_name, IMAGE_VIEW, due)

        def detections(due: _Due) -> Detections | None:
            due.stored = self._stored(project_id, due) if due.was_scored else None
            return None if due.stored is None else due.stored.detections

        batch: list[_Seen] = []
        outcomes = observe_all(self._models, todo, load, embedded=embedded, detections=detections)
        for due, outcome in outcomes:
            done += 1
            if isinstance(outcome, Observation):
                batch.append(_Seen(due, outcome, embed or outcome.embedding is not None))
                report.scored += 1
            elif isinstance(outcome, ImageError):
                _skip(report, project_id, due.task_id, outcome)
            else:
                self._save(project_id, batch)
                raise outcome
            if len(batch) == _BATCH:
                self._save(project_id, batch)
                batch = []
            on_progress(done, len(tasks))
        self._save(project_id, batch)
        return report

    def left_to_score(
        self, project_id: int, tasks: Sequence[TaskRef], *, label_config: str
    ) -> tuple[list[TaskRef], ScoringReport]:
        """The tasks that `score` would score and embed now, and a report on the others.

        Raises:
            LabelConfigError: the label config names no image.
            StoreError: the store cannot be read.
        """
        report = ScoringReport()
        todo = self._not_stored(project_id, tasks, data_field(label_config), report, embed=True)
        due = {item.task_id for item in todo}
        return [task for task in tasks if task.id in due], report

    def _not_stored(
        self,
        project_id: int,
        tasks: Sequence[TaskRef],
        image_field: str,
        report: ScoringReport,
        *,
        embed: bool,
    ) -> list[_Due]:
        detector, task_ids = self.detector_version, [task.id for task in tasks]
        scored = self._store.scored_uris(project_id, detector, task_ids=task_ids)
        ready = scored
        if embed:
            ready = self._store.scored_uris(project_id, detector, embedded=True, task_ids=task_ids)
        todo: list[_Due] = []
        for task in tasks:
            try:
                uri = image_uri(task, image_field)
            except ImageError as error:
                _skip(report, project_id, task.id, error)
                continue
            if ready.get(task.id) == uri:
                report.reused += 1
            else:
                todo.append(_Due(task.id, uri, was_scored=scored.get(task.id) == uri))
        return todo

    def _stored(self, project_id: int, due: _Due) -> ScoredTask | None:
        """The scores of this very image, where they and its objects' vector are complete."""
        detector = self.detector_version
        stored = self._store.scored_tasks(project_id, detector, [due.task_id]).get(due.task_id)
        if stored is None or not stored.is_complete or stored.image_hash != due.image_hash:
            return None
        has_objects = not self._models.detector.has_features or self._is_embedded(
            features_name(detector), OBJECT_VIEW, due
        )
        return stored if has_objects else None

    def _is_embedded(self, encoder: str, view: str, due: _Due) -> bool:
        return bool(self._store.embedded(encoder, view, [due.image_hash]))

    def _save(self, project_id: int, batch: Sequence[_Seen]) -> None:
        if not batch:
            return
        with timed("store"):
            self._store_batch(project_id, batch)
        IMAGES_SCORED.inc(sum(seen.due.stored is None for seen in batch))

    def _store_batch(self, project_id: int, batch: Sequence[_Seen]) -> None:
        images = {
            seen.due.image_hash: seen.observation.embedding
            for seen in batch
            if seen.observation.embedding is not None
        }
        objects = {
            seen.due.image_hash: seen.observation.object_vector
            for seen in batch
            if seen.observation.object_vector is not None
        }
        self._store.save_embeddings(self.encoder_name, IMAGE_VIEW, images)
        self._store.save_embeddings(features_name(self.detector_version), OBJECT_VIEW, objects)
        # Scores last: they say whether the image's embeddings are stored too.
        self._store.save_scores(project_id, [self._scored(seen) for seen in batch])

    def _scored(self, seen: _Seen) -> ScoredTask:
        if seen.due.stored is not None:
            return replace(seen.due.stored, embedded=seen.embedded)
        detections = seen.observation.detections
        scores, class_weight = score_detections(
            detections, floor=self._models.detector.floor, class_weights=self._class_weights
        )
        return ScoredTask(
            task_id=seen.due.task_id,
            image_uri=seen.due.uri,
            image_hash=seen.due.image_hash,
            detector=self.detector_version,
            detections=detections,
            scores=scores,
            class_weight=class_weight,
            embedded=seen.embedded,
        )


def score_detections(
    found: Detections, *, floor: float, class_weights: NDArray[np.float64] | None
) -> tuple[ImageScores, float]:
    """An image's public scores (see `score_image`), and its weight by class (see `weigh_image`).

    Args:
        found: what the detector saw in the image.
        floor: the score from which a box counts.
        class_weights: (C,) of the classes the detector learned; None: nothing is weighted.
    """
    scores = score_image(found.class_scores, peak_score=found.peak_score, floor=floor)
    if class_weights is None:
        return scores, 1.0
    return scores, weigh_image(found.class_scores, class_weights, floor=floor)


def _skip(report: ScoringReport, project_id: int, task_id: int, error: ImageError) -> None:
    report.skipped[task_id] = str(error)
    IMAGES_SKIPPED.inc()
    logger.info("not scored: %s", error, extra={"project": project_id, "task": task_id})
