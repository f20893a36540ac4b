"""The unlabelled tasks of a project, in order: ranked ones, with the hold-out dealt in.

Reads the store only: no model runs, nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from backend.diversity import find_representatives
from backend.label_studio.records import TaskRef
from backend.metrics import timed
from backend.ranking.candidates import RankOptions, utilities
from backend.ranking.holdout import is_random_pick
from backend.ranking.order import load_embeddings
from backend.ranking.ranked_pool import RankedPool, TaskRole
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.scores import ScoreColumns, Store


@dataclass(frozen=True)
class Pool:
    """The tasks of one project, as one detector and one encoder see them.

    Args:
        project_id: the project.
        tasks: all its tasks.
        detector: whose scores rank the tasks.
        encoder: whose embeddings spread the picks.
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
        self._answers = AnnotationStore(store)

    def rank(self, pool: Pool) -> RankedPool:
        """The unlabelled tasks that are scored, in order."""
        settings = self._settings
        options = RankOptions(
            strategy=settings.strategy,
            weights=settings.strategy_weights,
            diversity_weight=settings.diversity_weight,
            limit=settings.queue_limit,
            seed=pool.project_id,
        )
        with timed("rank"):
            return self._rank(pool, options)

    def _rank(self, pool: Pool, options: RankOptions) -> RankedPool:
        ranked_at = datetime.now(timezone.utc)
        task_ids = [task.id for task in pool.tasks]
        columns = self._store.score_columns(pool.project_id, pool.detector, task_ids)
        # Of all tasks together: rows that are whitened may be compared within one call only.
        found = load_embeddings(self._store, pool.encoder, pool.detector, columns.image_hashes)
        options = replace(options, duplicate_threshold=found.near)
        ranked = RankedPool(
            project_id=pool.project_id,
            detector=pool.detector,
            encoder=pool.encoder,
            ranked_at=ranked_at,
            options=options,
            validation_share=self._settings.validation_share,
            columns=columns,
            standing=self._standing(pool, columns, options, found.rows),
            order=np.empty(0, dtype=np.int32),
        )
        return ranked.ordered(options, found.rows)

    def _standing(
        self,
        pool: Pool,
        columns: ScoreColumns,
        options: RankOptions,
        embeddings: NDArray[np.float16],
    ) -> NDArray[np.uint8]:
        standing = np.full(len(columns.task_ids), TaskRole.DUPLICATE, dtype=np.uint8)
        standing[np.isin(columns.task_ids, list(self.random_picks(pool)))] = TaskRole.BY_CHANCE
        labelled = [task.id for task in pool.tasks if task.is_labeled]
        standing[np.isin(columns.task_ids, labelled)] = TaskRole.LABELLED
        ranked = np.flatnonzero(standing == TaskRole.DUPLICATE)
        if len(ranked):
            # Also where the strategy does not spread: another one may be asked for.
            represents = find_representatives(
                embeddings[ranked],
                utilities(columns, options)[ranked],
                labelled=embeddings[standing == TaskRole.LABELLED],
                duplicate_threshold=options.duplicate_threshold,
                keys=self._sequence_keys(pool, columns.task_ids[ranked]),
            )
            standing[ranked[represents]] = TaskRole.REPRESENTATIVE
        return standing

    def random_picks(self, pool: Pool) -> set[int]:
        """The tasks of the hold-out: those marked so before, and those the hash picks."""
        hashed = {
            task.id
            for task in pool.tasks
            if not task.total_annotations and self.picked_by_hash(pool.project_id, task)
        }
        return hashed | self._answers.held_out(pool.project_id)

    def picked_by_hash(self, project_id: int, task: TaskRef) -> bool:
        """Whether the hash puts a task into the hold-out, whatever else is known of it."""
        name = self._settings.sequence_field
        key = (name and task.data.get(name)) or task.id
        return is_random_pick(project_id, key, self._settings.validation_share)

    def _sequence_keys(self, pool: Pool, task_ids: NDArray[np.int64]) -> list[str | None] | None:
        name = self._settings.sequence_field
        if not name:
            return None
        keys = {task.id: str(task.data[name]) for task in pool.tasks if task.data.get(name)}
        return [keys.get(task_id) for task_id in task_ids.tolist()]
