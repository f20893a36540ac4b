"""One round: list a project's tasks, score what is new, rank the unlabelled, publish the order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import HardestFirstError
from backend.label_studio.client import Studio
from backend.label_studio.images import browser_url
from backend.label_studio.label_map import LabelMap, data_field
from backend.label_studio.publish import Published, fresh_version
from backend.label_studio.publish import RankedTask as TaskToPublish
from backend.label_studio.publish import publish as publish_order
from backend.label_studio.records import ProjectInfo, TaskRef
from backend.label_studio.results import to_results
from backend.label_studio.tabs import show_tab
from backend.loop.ranking import RankedTask, RankOptions, load_embeddings, rank_tasks
from backend.loop.scoring import Scorer, ScoringReport
from backend.loop.store import Publication, RankRow, ScoreColumns, Store
from backend.settings import Settings

logger = logging.getLogger(__name__)

# (what is done, how much of it is done, how much there is)
Progress = Callable[[str, int, int], None]


def _silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


@dataclass
class RoundReport:
    """What one round did.

    `queue` holds the first places; the scores in it are 0..1, lower = more uncertain.
    `image_urls` says, by task id, where a browser finds the image.
    """

    project_id: int
    strategy: str
    scored: int = 0
    reused: int = 0
    ranked: int = 0
    model_version: str | None = None
    skipped: dict[int, str] = field(default_factory=dict)
    queue: list[RankedTask] = field(default_factory=list)
    image_urls: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def queue_rows(self) -> list[dict[str, Any]]:
        """The queue as `--json` prints it; `image_id` is the task id."""
        return [
            {
                "rank": task.rank,
                "image_id": task.task_id,
                "uncertainty_score": round(task.uncertainty_score, 6),
                "scores": {k: round(v, 6) for k, v in asdict(task.scores).items()},
                "thumbnail": self.image_urls.get(task.task_id),
            }
            for task in self.queue
        ]

    def as_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "project_id": self.project_id,
            "strategy": self.strategy,
            "model_version": self.model_version,
            "scored": self.scored,
            "skipped": [
                {"image_id": task_id, "reason": reason} for task_id, reason in self.skipped.items()
            ],
            "queue": self.queue_rows(),
        }


class Round:
    """Runs rounds for any project of one Label Studio.

    Args:
        settings: strategy, weights, thresholds.
        studio: where tasks come from and orders go to.
        store: what is kept.
        scorer: the models.
    """

    def __init__(self, settings: Settings, studio: Studio, store: Store, scorer: Scorer) -> None:
        self._settings = settings
        self._studio = studio
        self._store = store
        self._scorer = scorer

    def run(
        self, project_id: int, *, publish: bool = True, on_progress: Progress = _silent
    ) -> RoundReport:
        """Score, rank and, unless told not to, publish.

        Scoring is stored batch by batch and the switch to the new order is one call: killed at
        any point, Label Studio is left at the old order or at the new one.

        Raises:
            LabelConfigError: the label config has no rectangles.
            LabelStudioError: Label Studio does not answer, refuses, or the order did not arrive.
            HardestFirstError: there is nothing to rank.
        """
        project = self._studio.project(project_id)
        label_map = LabelMap.build(project.label_config, self._scorer.class_names)
        adopt_published(self._store, project)
        tasks = list(self._studio.tasks(project_id))
        scoring = self._scorer.score(
            project_id,
            tasks,
            label_config=project.label_config,
            on_progress=partial(on_progress, "scoring"),
        )
        unlabelled = [task for task in tasks if not task.is_labeled]
        columns = self._store.score_columns(
            project_id, self._scorer.detector_version, [task.id for task in unlabelled]
        )
        order = self._rank(project_id, columns, tasks)
        report = self._report(project_id, scoring, order, tasks, label_map)
        if publish:
            self._check_rankable(project, tasks, order, scoring)
            chosen = order if self._settings.publish == "all" else report.queue
            report.model_version = self._publish(
                project, chosen, label_map, partial(on_progress, "publishing")
            )
        return report

    def _rank(
        self, project_id: int, columns: ScoreColumns, tasks: Sequence[TaskRef]
    ) -> list[RankedTask]:
        settings = self._settings
        options = RankOptions(
            strategy=settings.strategy,
            weights=settings.strategy_weights,
            diversity_weight=settings.diversity_weight,
            limit=settings.queue_limit,
            seed=project_id,
        )
        if not len(columns.task_ids):
            return []
        if not options.spreads:
            return rank_tasks(columns, options)
        labelled = self._store.score_columns(
            project_id,
            self._scorer.detector_version,
            [task.id for task in tasks if task.is_labeled],
        )
        return rank_tasks(
            columns,
            options,
            embeddings=self._embeddings(columns.image_hashes),
            labelled=self._embeddings(labelled.image_hashes) if labelled.image_hashes else None,
            sequence_keys=self._sequence_keys(columns, tasks),
        )

    def _embeddings(self, image_hashes: Sequence[str]) -> NDArray[np.float32]:
        return load_embeddings(
            self._store, self._scorer.encoder_name, self._scorer.crop_view, image_hashes
        )

    def _sequence_keys(
        self, columns: ScoreColumns, tasks: Sequence[TaskRef]
    ) -> list[str | None] | None:
        name = self._settings.sequence_field
        if not name:
            return None
        keys = {task.id: str(task.data[name]) for task in tasks if task.data.get(name)}
        return [keys.get(task_id) for task_id in columns.task_ids.tolist()]

    def _report(
        self,
        project_id: int,
        scoring: ScoringReport,
        order: Sequence[RankedTask],
        tasks: Sequence[TaskRef],
        label_map: LabelMap,
    ) -> RoundReport:
        queue = list(order[: self._settings.queue_limit])
        return RoundReport(
            project_id=project_id,
            strategy=self._settings.strategy,
            scored=scoring.scored,
            reused=scoring.reused,
            ranked=len(order),
            skipped=scoring.skipped,
            queue=queue,
            image_urls=image_urls(self._studio, queue, tasks, label_map.data_field),
            warnings=list(label_map.warnings()),
        )

    def _check_rankable(
        self,
        project: ProjectInfo,
        tasks: Sequence[TaskRef],
        order: Sequence[RankedTask],
        scoring: ScoringReport,
    ) -> None:
        if order:
            return
        if not tasks:
            remedy = "import images first"
        elif all(task.is_labeled for task in tasks):
            remedy = "every task is labelled; import more images, or you are done"
        else:
            reason = next(iter(scoring.skipped.values()), "unknown")
            remedy = f"none of its unlabelled images could be scored, the first because: {reason}"
        raise HardestFirstError(f"Project {project.id} has nothing to rank: {remedy}")

    def _publish(
        self,
        project: ProjectInfo,
        order: Sequence[RankedTask],
        label_map: LabelMap,
        on_progress: Callable[[int, int], None],
    ) -> str:
        version = fresh_version(self._scorer.detector_version)
        # Kept before it is sent: should this run die after the switch, the next one adopts it.
        self._keep(project.id, version, order)
        published = publish_order(
            self._studio,
            project.id,
            self._to_publish(project.id, order, label_map),
            version=version,
            on_progress=on_progress,
        )
        self._keep_live(project.id, version, order, published)
        show_tab(self._studio, project.id, published.version)
        return published.version

    def _to_publish(
        self, project_id: int, order: Sequence[RankedTask], label_map: LabelMap
    ) -> list[TaskToPublish]:
        scored = self._store.scored_tasks(
            project_id, self._scorer.detector_version, [task.task_id for task in order]
        )
        return [
            TaskToPublish(
                task.task_id,
                to_results(
                    scored[task.task_id].detections,
                    self._scorer.class_names,
                    label_map,
                    threshold=self._settings.model_score_threshold,
                ),
            )
            for task in order
        ]

    def _keep(self, project_id: int, version: str, order: Sequence[RankedTask]) -> None:
        self._store.save_publication(
            Publication(
                model_version=version,
                project_id=project_id,
                state="preparing",
                detector=self._scorer.detector_version,
                encoder=self._scorer.encoder_name,
                strategy=self._settings.strategy,
                diversity_weight=self._settings.diversity_weight,
                strategy_weights=self._settings.strategy_weights,
                ranked=len(order),
                created_at=datetime.now(timezone.utc),
            ),
            [
                RankRow(place, task.task_id, task.uncertainty_score)
                for place, task in enumerate(order, start=1)
            ],
        )

    def _keep_live(
        self, project_id: int, version: str, order: Sequence[RankedTask], published: Published
    ) -> None:
        if published.version != version:
            # Tasks were deleted while the order was sent: it was sent anew without them.
            vanished = set(published.vanished)
            remaining = [task for task in order if task.task_id not in vanished]
            self._keep(project_id, published.version, remaining)
        self._store.mark_live(project_id, published.version)
        kept = [published.version, published.replaced, *published.left_over]
        self._store.drop_publications(project_id, keep=kept)
        detectors = self._store.publication_detectors(project_id)
        self._store.drop_scores(project_id, keep_detectors=detectors)


def adopt_published(store: Store, project: ProjectInfo) -> None:
    """Mark live what Label Studio serves, should the run that published it have died right then."""
    served = store.publication(project.id, project.model_version)
    if served is not None and served.state == "preparing":
        store.mark_live(project.id, served.model_version)


def published_queue(studio: Studio, store: Store, project_id: int, limit: int) -> RoundReport:
    """What Label Studio serves next: the published order, less what is labelled by now.

    Raises:
        HardestFirstError: nothing is published for this project.
    """
    project = studio.project(project_id)
    adopt_published(store, project)
    live = store.publication(project_id)
    if live is None:
        raise HardestFirstError(
            f"Project {project_id} has no published order: "
            f"run `python -m backend score {project_id}` first."
        )
    tasks = {task.id: task for task in studio.tasks(project_id) if not task.is_labeled}
    open_ranks = [row for row in store.ranks(live.model_version) if row.task_id in tasks][:limit]
    scored = store.scored_tasks(project_id, live.detector, [row.task_id for row in open_ranks])
    queue = [
        RankedTask(row.rank, row.task_id, row.uncertainty_score, scored[row.task_id].scores)
        for row in open_ranks
    ]
    report = RoundReport(
        project_id=project_id,
        strategy=live.strategy,
        ranked=live.ranked,
        model_version=live.model_version,
        queue=queue,
        image_urls=image_urls(studio, queue, tasks.values(), data_field(project.label_config)),
    )
    if project.model_version != live.model_version:
        report.warnings.append(
            f"Label Studio serves {project.model_version or 'no version'!r} instead of this order: "
            f"run `python -m backend doctor {project_id}`"
        )
    return report


def image_urls(
    studio: Studio, queue: Sequence[RankedTask], tasks: Iterable[TaskRef], field_name: str
) -> dict[int, str]:
    """Task id -> where a browser that is logged in to Label Studio finds its image."""
    data = {task.id: task.data for task in tasks}
    return {
        place.task_id: browser_url(studio.url, place.task_id, str(data[place.task_id][field_name]))
        for place in queue
    }
