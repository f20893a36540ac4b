"""The unlabelled tasks of a project, in order: ranked ones, with the random share dealt in.

Reads the store only: no model runs, nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backend.label_studio.records import TaskRef
from backend.loop.answer_store import AnswerStore
from backend.loop.random_share import deal, is_random_pick, shuffled
from backend.loop.ranking import RankedTask, RankOptions, load_embeddings, rank_tasks
from backend.loop.scoring import crop_view
from backend.loop.store import ScoreColumns, Store
from backend.settings import Settings


@dataclass(frozen=True)
class Pool:
    """The tasks of one project, as one detector and one encoder see them.

    Args:
        project_id: the project.
        tasks: all its tasks.
        detector: whose scores are ranked by.
        encoder: whose embeddings the picks are spread by.
    """

    project_id: int
    tasks: Sequence[TaskRef]
    detector: str
    encoder: str


class PoolRanker:
    """Orders pools by the settings' strategy.

    Args:
        settings: strategy, weights, shares.
        store: where scores and embeddings are.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._answers = AnswerStore(store)

    def rank(self, pool: Pool) -> list[RankedTask]:
        """The unlabelled tasks that are scored, first place first."""
        settings = self._settings
        options = RankOptions(
            strategy=settings.strategy,
            weights=settings.strategy_weights,
            diversity_weight=settings.diversity_weight,
            limit=settings.queue_limit,
            seed=pool.project_id,
        )
        by_chance = self.random_picks(pool)
        open_ids = {task.id for task in pool.tasks if not task.is_labeled}
        ranked = self._rank(pool, options, open_ids - by_chance)
        dealt = self._in_random_order(pool, options, open_ids & by_chance)
        order = deal(ranked, dealt, settings.validation_share)
        return [replace(task, rank=place) for place, task in enumerate(order, start=1)]

    def random_picks(self, pool: Pool) -> set[int]:
        """The tasks of the random share: those marked so before, and those the hash tells."""
        told = {
            task.id
            for task in pool.tasks
            if not task.total_annotations and self.is_told(pool.project_id, task)
        }
        return told | self._answers.held_out(pool.project_id)

    def is_told(self, project_id: int, task: TaskRef) -> bool:
        """Whether the hash tells a task to the random share, whatever else is known of it."""
        name = self._settings.sequence_field
        key = (name and task.data.get(name)) or task.id
        return is_random_pick(project_id, key, self._settings.validation_share)

    def _rank(self, pool: Pool, options: RankOptions, ids: set[int]) -> list[RankedTask]:
        columns = self._columns(pool, ids)
        if not len(columns.task_ids):
            return []
        if not options.spreads:
            return rank_tasks(columns, options)
        labelled = self._columns(pool, {task.id for task in pool.tasks if task.is_labeled})
        # Together: rows that are centred may be compared within one call only.
        rows = self._embeddings(pool, [*columns.image_hashes, *labelled.image_hashes])
        unlabelled = len(columns.image_hashes)
        return rank_tasks(
            columns,
            options,
            embeddings=rows[:unlabelled],
            labelled=rows[unlabelled:] if len(rows) > unlabelled else None,
            sequence_keys=self._sequence_keys(pool, columns),
        )

    def _in_random_order(self, pool: Pool, options: RankOptions, ids: set[int]) -> list[RankedTask]:
        columns = self._columns(pool, ids)
        if not len(columns.task_ids):
            return []
        # Their scores are told like those of the others; their places are not theirs.
        plain = replace(options, strategy="combined") if options.spreads else options
        scored = {task.task_id: task for task in rank_tasks(columns, plain)}
        order = shuffled(pool.project_id, list(scored))
        return [replace(scored[task_id], picked_at_random=True) for task_id in order]

    def _columns(self, pool: Pool, ids: set[int]) -> ScoreColumns:
        return self._store.score_columns(pool.project_id, pool.detector, list(ids))

    def _embeddings(self, pool: Pool, image_hashes: Sequence[str]) -> NDArray[np.float32]:
        view = crop_view(pool.detector)
        return load_embeddings(self._store, pool.encoder, view, image_hashes)

    def _sequence_keys(self, pool: Pool, columns: ScoreColumns) -> list[str | None] | None:
        name = self._settings.sequence_field
        if not name:
            return None
        keys = {task.id: str(task.data[name]) for task in pool.tasks if task.data.get(name)}
        return [keys.get(task_id) for task_id in columns.task_ids.tolist()]
