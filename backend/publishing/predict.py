"""Answers `/predict`: predictions of tasks, from the store where they are scored already."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from backend.errors import HardestFirstError, LabelConfigError, StoreError
from backend.label_studio.label_map import LabelMap, data_field
from backend.label_studio.protocol import is_number
from backend.label_studio.records import TaskRef
from backend.label_studio.results import to_results
from backend.label_studio.versions import UNPUBLISHED
from backend.scoring.batching import ScoringWorker
from backend.settings import Settings
from backend.store.pins import Assignments
from backend.store.rounds import RoundStore
from backend.store.scores import Publication, ScoredTask, Store
from backend.uncertainty import combine

logger = logging.getLogger(__name__)

# Label Studio waits 100 s for /predict; the rest is for sending the answer.
PREDICT_SECONDS = 85.0


class Predictor:
    """Answers predict requests. Thread-safe; one serves the whole process.

    Args:
        settings: thresholds and weights.
        store: where scores are.
        worker: scores what the store does not know.
    """

    def __init__(self, settings: Settings, store: Store, worker: ScoringWorker) -> None:
        self._settings = settings
        self._store = store
        self._worker = worker
        self._rounds = RoundStore(store)
        self._assignments = Assignments(store)

    def close(self) -> None:
        """Stop the worker and release the store."""
        self._worker.stop()
        self._store.close()

    def published_version(self, project_id: int) -> str:
        """The model version of the order that Label Studio serves. Never touches the model."""
        live = self._store.publication(project_id)
        return UNPUBLISHED if live is None else live.model_version

    def predict(
        self,
        project_id: int,
        tasks: Sequence[Mapping[str, Any]],
        label_config: str,
        *,
        deadline: float | None = None,
    ) -> list[dict[str, Any] | list[Any]]:
        """One answer for each task, in their order, by `deadline` (`time.monotonic`).

        Without one it has `PREDICT_SECONDS` from now.

        An answer is a prediction (`result`, `score` 0..1 with the lowest served first,
        `model_version`), or an empty list for a task whose image failed or is not ready in time:
        Label Studio then keeps no prediction, and the other tasks' stand.

        Raises:
            LabelConfigError: the label config has no rectangles to fill.
        """
        live = self._store.publication(project_id)
        refs = [_task_ref(task) for task in tasks]
        if None in refs:
            example = tasks[refs.index(None)]
            logger.warning("tasks without a number or data are left unanswered: %.200r", example)
        asked = [ref for ref in refs if ref is not None]
        known = {} if live is None else self._scored(project_id, live.detector, asked, label_config)
        missing = [ref for ref in asked if ref.id not in known]
        if missing:
            until = time.monotonic() + PREDICT_SECONDS if deadline is None else deadline
            known.update(self._score_missing(project_id, missing, label_config, until))
        named = {
            version: self._naming(version, label_config)
            for version in {scored.detector for scored in known.values()}
        }
        places = {} if live is None else self._store.ranks_of(live.model_version, list(known))
        return [
            self._answer(known[ref.id], live, places, named[known[ref.id].detector])
            if ref is not None and ref.id in known
            else []
            for ref in refs
        ]

    def _scored(
        self, project_id: int, detector: str, refs: Sequence[TaskRef], label_config: str
    ) -> dict[int, ScoredTask]:
        """The stored scores of these tasks, without those of an image that a task showed before."""
        try:
            image_field = data_field(label_config)
        except LabelConfigError:  # said when they are to be scored
            return {}
        found = self._store.scored_tasks(project_id, detector, [ref.id for ref in refs])
        images = {ref.id: ref.data.get(image_field) for ref in refs}
        return {
            task_id: scored
            for task_id, scored in found.items()
            if scored.image_uri == images[task_id] and scored.is_complete
        }

    def _score_missing(
        self, project_id: int, missing: Sequence[TaskRef], label_config: str, deadline: float
    ) -> dict[int, ScoredTask]:
        """What the serving detector has scored, or scores now. Failures are logged, by task."""
        serving = self._rounds.serving(project_id)
        extra = {"project": project_id}
        try:
            base = self._worker.base_detector(_left(deadline))
        except HardestFirstError as error:
            logger.error("%d tasks unanswered: %s", len(missing), error, extra=extra)
            return {}
        detector = base if serving is None else serving.detector
        known = self._scored(project_id, detector, missing, label_config)
        fresh = [ref for ref in missing if ref.id not in known]
        if fresh:
            report = self._worker.score(
                project_id, fresh, label_config=label_config, timeout=_left(deadline)
            )
            for task_id, reason in report.skipped.items():
                logger.warning("no prediction: %s", reason, extra={**extra, "task": task_id})
            known.update(self._scored(project_id, detector, fresh, label_config))
        return known

    def _naming(self, detector: str, label_config: str) -> tuple[tuple[str, ...], LabelMap]:
        names = self._store.class_names(detector)
        if names is None:
            raise StoreError(
                f"The store holds scores of detector {detector} without its class names: "
                "run `python -m backend score` for this project."
            )
        return names, LabelMap.build(label_config, names)

    def _answer(
        self,
        scored: ScoredTask,
        live: Publication | None,
        places: Mapping[int, int],
        naming: tuple[tuple[str, ...], LabelMap],
    ) -> dict[str, Any]:
        class_names, label_map = naming
        return {
            "result": to_results(
                scored.detections,
                class_names,
                label_map,
                threshold=self._settings.model_score_threshold,
            ),
            "score": self._rank_score(scored, live, places),
            "model_version": UNPUBLISHED if live is None else live.model_version,
        }

    def _rank_score(
        self, scored: ScoredTask, live: Publication | None, places: Mapping[int, int]
    ) -> float:
        """The place of this task in the served order, 0..1, lowest first.

        A task that came after the order was published is put right behind those that are more
        uncertain, or were pinned; half a place keeps it apart from the published
        ones.
        """
        weights = self._settings.strategy_weights if live is None else live.strategy_weights
        scores = {name: [value] for name, value in scored.scores.items()}
        uncertainty = float(combine(scores, weights)[0])
        if live is None:
            return uncertainty
        place = places.get(scored.task_id)
        if place is not None:
            return (place - 0.5) / live.ranked
        before = self._store.more_uncertain(live.model_version, uncertainty)
        return max(before, len(self._assignments.of(live.project_id).first)) / live.ranked


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _task_ref(task: Mapping[str, Any]) -> TaskRef | None:
    """The task of a request, or None where it is no task; the others are still answered."""
    task_id, data = task.get("id"), task.get("data")
    if not is_number(task_id) or not isinstance(data, dict):
        return None
    return TaskRef(id=task_id, data=data)
