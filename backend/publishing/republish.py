"""Publishes a project's order with its pinned tasks first. Runs no model."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from math import inf

from backend.label_studio.client import Studio
from backend.label_studio.label_map import LabelMap
from backend.publishing.attempt import Attempt
from backend.publishing.extent import cut_to_extent
from backend.publishing.live_queue import adopt_published
from backend.publishing.send import Draft, OrderSender, new_publication, renewed
from backend.ranking.ranked_pool import RankedPool, load_pool
from backend.settings import Settings
from backend.store.pins import Assignment, Assignments, with_pins_first
from backend.store.scores import Publication, RankRow, Store


@dataclass(frozen=True)
class Republished:
    """What was published.

    Args:
        model_version: the version that is live now; "" if there was nothing to publish.
        ranked: images in the order.
        put_first: how many of them are pinned.
        note: what people should know, in one line; "" for nothing.
    """

    model_version: str
    ranked: int
    put_first: int
    note: str = ""


class Republisher:
    """Publishes orders again from the store.

    Args:
        settings: the score from which boxes are shown.
        studio: where orders go.
        store: scores, ranks and assignments.
    """

    def __init__(self, settings: Settings, studio: Studio, store: Store) -> None:
        self._settings = settings
        self._studio = studio
        self._store = store
        self._assignments = Assignments(store)
        self._sender = OrderSender(studio, store, threshold=settings.model_score_threshold)

    def run(self, project_id: int, attempt: Attempt) -> Republished:
        """Publish the pinned images, then the others in the order they had.

        Images that are no longer pinned go back to where the last ranking has them.

        Args:
            project_id: the project.
            attempt: if Label Studio serves what an earlier one sent, nothing is done again.

        Raises:
            LabelConfigError: the label config has no rectangles.
            LabelStudioError: Label Studio does not answer, refuses, or the order did not arrive.
        """
        project = self._studio.project(project_id)
        adopt_published(self._store, project)
        assignment = self._assignments.of(project_id)
        tasks = list(self._studio.tasks(project_id))
        first = assignment.open(tasks)
        live, pool = self._store.publication(project_id), load_pool(self._store, project_id)
        if live is not None and attempt.sent_before == project.model_version == live.model_version:
            return Republished(live.model_version, live.ranked, len(first))
        unlabelled = {task.id for task in tasks if not task.is_labeled}
        order = self._former_order(live, pool, assignment)
        rows = with_pins_first(first, [row for row in order if row.task_id in unlabelled])
        if not rows:
            return Republished("", 0, 0)
        if live is None:
            rows, _ = cut_to_extent(rows, self._settings, pinned=len(first))
        made_of = self._made_of(project_id, live, pool)
        names = self._store.class_names(made_of.detector) or ()
        label_map = LabelMap.build(project.label_config, names) if names else None
        sent = self._sender.send(Draft(made_of, rows, names, label_map), attempt)
        return Republished(sent.version, len(rows), len(first), sent.note)

    def _former_order(
        self, live: Publication | None, pool: RankedPool | None, assignment: Assignment
    ) -> list[RankRow]:
        """The order as it would be without pins."""
        if pool is None:
            return [] if live is None else self._store.ranks(live.model_version)
        ranked = [RankRow(t.rank, t.task_id, t.uncertainty_score) for t in pool.tasks()]
        if live is None:
            return ranked
        places = {row.task_id: row.rank for row in ranked}
        back = [row for row in ranked if row.task_id in assignment.led]
        served = self._store.ranks(live.model_version)
        stay = [row for row in served if row.task_id not in assignment.led]
        return list(merge(stay, back, key=lambda row: places.get(row.task_id, inf)))

    def _made_of(
        self, project_id: int, live: Publication | None, pool: RankedPool | None
    ) -> Publication:
        """The record of the new order, which is made of the same as the former one."""
        if live is not None:
            return renewed(live)
        return new_publication(
            project_id,
            detector=pool.detector if pool else "",
            encoder=pool.encoder if pool else "",
            strategy=pool.options.strategy if pool else self._settings.strategy,
            settings=self._settings,
        )
