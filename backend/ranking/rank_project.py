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
from backend.ranking.kept_groups import KeptGroups, marks_of
from backend.ranking.order import load_embeddings
from backend.ranking.ranked_pool import RankedPool, TaskRole, load_pool
from backend.selection.near_duplicates import UNREAD
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
        before = load_pool(self._store, pool.project_id)
        found = load_embeddings(
            self._store,
            pool.encoder,
            pool.detector,
            columns.image_hashes,
            before.whitenings if before and before.sees_as(pool.detector, pool.encoder) else {},
        )
        options = replace(options, duplicate_threshold=found.near)
        standing = self._roles(pool, columns)
        groups = self._groups(pool, columns, options, found.rows, standing, before)
        represents = groups.leaders == np.arange(len(standing))
        standing[represents & (standing == TaskRole.DUPLICATE)] = TaskRole.REPRESENTATIVE
        ranked = RankedPool(
            project_id=pool.project_id,
            detector=pool.detector,
            encoder=pool.encoder,
            ranked_at=ranked_at,
            options=options,
            validation_share=self._settings.validation_share,
            columns=columns,
            standing=standing,
            order=np.empty(0, dtype=np.int32),
            groups=groups,
            whitenings=found.whitenings,
        )
        return ranked.ordered(options, found.rows)

    def _roles(self, pool: Pool, columns: ScoreColumns) -> NDArray[np.uint8]:
        """(N,) the role of each task, DUPLICATE for all that are to be ranked."""
        standing = np.full(len(columns.task_ids), TaskRole.DUPLICATE, dtype=np.uint8)
        standing[np.isin(columns.task_ids, list(self.random_picks(pool)))] = TaskRole.BY_CHANCE
        labelled = [task.id for task in pool.tasks if task.is_labeled]
        standing[np.isin(columns.task_ids, labelled)] = TaskRole.LABELLED
        return standing

    def _groups(
        self,
        pool: Pool,
        columns: ScoreColumns,
        options: RankOptions,
        embeddings: NDArray[np.float16],
        standing: NDArray[np.uint8],
        before: RankedPool | None,
    ) -> KeptGroups:
        """The near-duplicates; what the last ranking found is not compared again.

        Also where the strategy does not spread: another one may be asked for.
        """
        ranked = np.flatnonzero(standing == TaskRole.DUPLICATE)
        labelled = np.flatnonzero(standing == TaskRole.LABELLED)
        useful = utilities(columns, options)
        marks = marks_of(embeddings, useful, standing == TaskRole.LABELLED)
        carried: NDArray[np.intp] = np.full(len(standing), UNREAD, dtype=np.intp)
        if (
            before is not None
            and before.groups is not None
            and before.options.duplicate_threshold == options.duplicate_threshold
        ):
            carried = before.groups.carried_to(columns.task_ids, marks)
        # As `find_representatives` counts: rows that are ranked from 0, labelled ones from -1 down.
        number = np.full(len(standing), UNREAD, dtype=np.intp)
        number[ranked], number[labelled] = np.arange(len(ranked)), -1 - np.arange(len(labelled))
        known = carried != UNREAD
        earlier = np.full(len(standing), UNREAD, dtype=np.intp)
        earlier[known] = number[carried[known]]
        leaders = np.full(len(standing), UNREAD, dtype=np.int32)
        leaders[labelled] = labelled
        if len(ranked):
            found = find_representatives(
                embeddings[ranked],
                useful[ranked],
                labelled=embeddings[labelled],
                duplicate_threshold=options.duplicate_threshold,
                keys=self._sequence_keys(pool, columns.task_ids[ranked]),
                earlier=earlier[ranked],
                new_labelled=~known[labelled],
            )
            read = found != UNREAD
            rows = np.concatenate([ranked, labelled[::-1]])  # -1 - m counts from the end
            leaders[ranked[read]] = rows[found[read]]
        return KeptGroups(columns.task_ids, marks, leaders)

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
