"""An order: list a project's tasks, score what is new, rank the unlabelled, publish the ranks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from backend.engines.engine import Engine, embedded
from backend.errors import NothingToRankError
from backend.label_studio.client import Studio
from backend.label_studio.label_map import LabelMap
from backend.label_studio.records import ProjectInfo, TaskRef
from backend.publishing.attempt import Attempt
from backend.publishing.extent import cut_to_extent
from backend.publishing.live_queue import (
    OrderReport,
    adopt_published,
    config_hash,
    image_urls,
    published_queue,
)
from backend.publishing.send import Draft, OrderSender, Sent, new_publication
from backend.ranking.order import RankedTask
from backend.ranking.rank_project import Pool, PoolRanker
from backend.ranking.ranked_pool import save_pool
from backend.scoring.models import Scorers
from backend.scoring.scorer import ScoringReport
from backend.scoring.serving_model import model_behind, notes_on_model
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.pins import Assignments, with_pins_first
from backend.store.scores import RankRow, Store

logger = logging.getLogger(__name__)


class OrderMaker:
    """Makes orders for any project of one Label Studio.

    Args:
        settings: strategy, weights, thresholds.
        studio: where tasks come from and orders go to.
        store: what is kept.
        scorers: the models.
        engine: where the models are run.
    """

    def __init__(
        self,
        settings: Settings,
        studio: Studio,
        store: Store,
        scorers: Scorers,
        engine: Engine = embedded,
    ) -> None:
        self._settings = settings
        self._studio = studio
        self._store = store
        self._scorers = scorers
        self._engine = engine
        self._answers = AnnotationStore(store)
        self._ranker = PoolRanker(settings, store)
        self._assignments = Assignments(store)
        self._sender = OrderSender(studio, store, threshold=settings.model_score_threshold)

    def run(self, project_id: int, attempt: Attempt, *, publish: bool = True) -> OrderReport:
        """Score, rank and, unless `publish` is false, publish.

        Scoring is stored batch by batch and the switch to the new order is one call: killed at
        any point, Label Studio is left at the old order or at the new one.

        Args:
            project_id: the project.
            attempt: if Label Studio serves what an earlier one sent, nothing is done again.
            publish: otherwise nothing changes in Label Studio.

        Raises:
            LabelConfigError: the label config has no rectangles.
            LabelStudioError: Label Studio does not answer, refuses, or the order did not arrive.
            HardestFirstError: there is nothing to rank.
        """
        project = self._studio.project(project_id)
        adopt_published(self._store, project)
        if attempt.sent_before and project.model_version == attempt.sent_before:
            return published_queue(
                self._studio, self._store, project_id, self._settings.queue_limit
            )
        tasks = list(self._studio.tasks(project_id))
        self._answers.forget_absent(project_id, (task.id for task in tasks))
        with self._scorers.lent(project_id) as scorer:
            label_map = LabelMap.build(project.label_config, scorer.class_names)
            scoring = self._engine(
                scorer,
                project_id,
                tasks,
                label_config=project.label_config,
                on_progress=partial(attempt.on_progress, "scoring"),
            )
        pool = Pool(project_id, tasks, scorer.detector_version, scorer.encoder_name)
        ranked = self._ranker.rank(pool)
        save_pool(self._store, ranked)
        placed = ranked.tasks()
        first = self._assignments.of(project_id).open(tasks)
        rows = with_pins_first(first, _rows(placed))
        order = _in_places(placed, rows, first)
        report = self._report(project, scorer.detector_version, scoring, order, tasks, label_map)
        if publish:
            self._check_rankable(project, tasks, rows, scoring)
            rows, note = cut_to_extent(rows, self._settings, pinned=len(first))
            self._hold_out(pool, [task for task in order if task.rank <= len(rows)])
            made_of = new_publication(
                project_id,
                detector=scorer.detector_version,
                encoder=scorer.encoder_name,
                strategy=self._settings.strategy,
                settings=self._settings,
            )
            sent = self._send(Draft(made_of, rows, scorer.class_names, label_map), attempt)
            report.model_version = sent.version
            report.warnings += filter(None, (note, sent.note))
        return report

    def _send(self, draft: Draft, attempt: Attempt) -> Sent:
        sent = self._sender.send(draft, attempt)
        project_id = draft.publication.project_id
        self._assignments.ranked(project_id)
        detectors = self._store.publication_detectors(project_id)
        self._store.drop_scores(project_id, keep_detectors=detectors)
        return sent

    def _hold_out(self, pool: Pool, order: Sequence[RankedTask]) -> None:
        """Keep which tasks of an order were picked at random, whatever the share becomes later."""
        picked = [task.task_id for task in order if task.picked_at_random]
        if not self._store.publication_detectors(pool.project_id):
            # Annotations from before the first order count as a random sample of the pool.
            picked += [
                task.id
                for task in pool.tasks
                if task.total_annotations and self._ranker.picked_by_hash(pool.project_id, task)
            ]
        self._answers.hold_out(pool.project_id, picked)

    def _report(
        self,
        project: ProjectInfo,
        detector: str,
        scoring: ScoringReport,
        order: Sequence[RankedTask],
        tasks: Sequence[TaskRef],
        label_map: LabelMap,
    ) -> OrderReport:
        queue = list(order[: self._settings.queue_limit])
        data = {task.id: task.data for task in tasks}
        field = label_map.data_field
        addresses = {row.task_id: str(data[row.task_id][field]) for row in queue}
        return OrderReport(
            project_id=project.id,
            strategy=self._settings.strategy,
            scored_by=model_behind(self._store, project.id, detector),
            label_config=config_hash(project.label_config),
            last_task=max((task.id for task in tasks), default=0),
            scored=scoring.scored,
            reused=scoring.reused,
            ranked=len(order),
            skipped=scoring.skipped,
            queue=queue,
            image_urls=image_urls(self._studio, addresses),
            warnings=[*label_map.warnings(), *notes_on_model(self._settings, self._store)],
        )

    def _check_rankable(
        self,
        project: ProjectInfo,
        tasks: Sequence[TaskRef],
        rows: Sequence[RankRow],
        scoring: ScoringReport,
    ) -> None:
        if rows:
            return
        if not tasks:
            remedy = "import images first"
        elif all(task.is_labeled for task in tasks):
            remedy = "every task is labelled; import more images, or you are done"
        else:
            remedy = _why_none(list(scoring.skipped.values()))
        raise NothingToRankError(f"Project {project.id} has nothing to rank: {remedy}")


def _why_none(reasons: Sequence[str]) -> str:
    """Why no image could be scored. What is wrong with all of them is wrong with none of them."""
    if len(reasons) < 2:
        reason = next(iter(reasons), "unknown")
        return f"none of its unlabelled images could be scored, the first because: {reason}"
    cause = reasons[0].rpartition(": ")[0] or reasons[0]
    return (
        f"none of its {len(reasons)} unlabelled images could be scored. The first: {cause}. Where "
        "that holds for all, see that LABEL_STUDIO_URL is Label Studio's own address, set "
        "LABEL_STUDIO_PUBLIC_URL if people open it at another one, and name other servers of "
        "images in ALLOWED_IMAGE_HOSTS if they are private"
    )


def _rows(order: Sequence[RankedTask]) -> list[RankRow]:
    return [RankRow(task.rank, task.task_id, task.uncertainty_score) for task in order]


def _in_places(
    order: Sequence[RankedTask], rows: Sequence[RankRow], first: Sequence[int]
) -> list[RankedTask]:
    """The scored tasks with the ranks of `rows`; pinned tasks do not count as random picks."""
    places = {row.task_id: row.rank for row in rows}
    chosen = set(first)
    placed = [
        replace(
            task,
            rank=places[task.task_id],
            picked_at_random=task.picked_at_random and task.task_id not in chosen,
        )
        for task in order
    ]
    return sorted(placed, key=lambda task: task.rank)
