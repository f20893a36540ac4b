"""A ranked pool: the scored tasks of a project, the role of each, and the order.

It holds all that another order needs but the embeddings, so that a project is re-ranked for another
strategy or weight without Label Studio and without a model.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.ranking.candidates import Candidates, RankOptions
from backend.ranking.holdout import deal, shuffled
from backend.ranking.kept_groups import KeptGroups
from backend.ranking.order import RankedTask, order_rows, ranked_tasks
from backend.selection.embeddings import Whitening
from backend.store.database import utc
from backend.store.pools import pool_row, save_pool_row
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, ScoreColumns, Store
from backend.uncertainty import MEASURES

_ROWS_AT_ONCE = 4096


class TaskRole(IntEnum):
    """The role of a task in an order."""

    LABELLED = 0  # not in it; the picks keep their distance from it
    BY_CHANCE = 1  # of the hold-out: dealt in
    DUPLICATE = 2  # a more useful near-duplicate represents it
    REPRESENTATIVE = 3  # ranked for itself


@dataclass(frozen=True, eq=False)
class RankedPool:
    """N scored tasks of a project, M of them in an order.

    Args:
        project_id: the project.
        detector: whose scores these are.
        encoder: whose embeddings the picks are spread by.
        ranked_at: when the roles, and with them the near-duplicates, were decided.
        options: what decided the order.
        validation_share: the hold-out's share of the order, 0..1.
        columns: the scores of the N tasks, by ascending task id.
        standing: (N,) values of `TaskRole`.
        order: (M,) row numbers of `columns`, first place first.
        groups: the near-duplicates; None in pools that were ranked before these were kept.
        whitenings: see `PoolRows`; those of `detector` and `encoder`.
    """

    project_id: int
    detector: str
    encoder: str
    ranked_at: datetime
    options: RankOptions
    validation_share: float
    columns: ScoreColumns
    standing: NDArray[np.uint8]
    order: NDArray[np.int32]
    groups: KeptGroups | None = None
    whitenings: Mapping[str, Whitening] = field(default_factory=dict)

    def sees_as(self, detector: str, encoder: str) -> bool:
        """Whether its rows were made of vectors by these two."""
        return (self.detector, self.encoder) == (detector, encoder)

    def ordered(
        self, options: RankOptions, embeddings: NDArray[np.float16] | None = None
    ) -> RankedPool:
        """The same tasks in the order that `options` make.

        Args:
            options: may differ in strategy, diversity weight and limit; with other weights of
                the scores, other images would represent the near-duplicates.
            embeddings: (N, D) unit rows; needed by the strategies that spread.
        """
        unlabelled = np.flatnonzero(self.standing >= TaskRole.DUPLICATE)
        labelled = np.flatnonzero(self.standing == TaskRole.LABELLED)
        by_chance = self.columns.task_ids[self.standing == TaskRole.BY_CHANCE]
        rows = known = None
        if options.spreads and embeddings is not None:
            rows, known = _as_float32(embeddings, unlabelled), _as_float32(embeddings, labelled)
        ranked = unlabelled
        if len(unlabelled):
            represents = self.standing[unlabelled] == TaskRole.REPRESENTATIVE
            columns = self.columns.take(unlabelled)
            places = order_rows(Candidates(columns, options, rows, known, represents))
            ranked = unlabelled[places]
        dealt = np.searchsorted(
            self.columns.task_ids, shuffled(self.project_id, by_chance.tolist())
        )
        order = deal(ranked.tolist(), dealt.tolist(), self.validation_share)
        return replace(self, options=options, order=np.array(order, dtype=np.int32))

    def without(self, labelled: Set[int]) -> RankedPool:
        """The same order without these tasks, which are labelled by now."""
        gone = np.isin(self.columns.task_ids, np.fromiter(labelled, np.int64, len(labelled)))
        standing = np.where(gone, np.uint8(TaskRole.LABELLED), self.standing)
        return replace(self, standing=standing, order=self.order[~gone[self.order]])

    def with_pins_first(self, task_ids: Sequence[int]) -> RankedPool:
        """The same order with these tasks before all others; those not in it do not matter."""
        there = self.order[np.isin(self.columns.task_ids[self.order], task_ids)]
        place = dict(zip(self.columns.task_ids[there].tolist(), there.tolist(), strict=True))
        first = [place[task_id] for task_id in task_ids if task_id in place]
        rest = self.order[~np.isin(self.order, first)]
        return replace(self, order=np.array([*first, *rest], dtype=np.int32))

    def tasks(self, limit: int | None = None) -> list[RankedTask]:
        """The first `limit` places of the order, or all; rank 1 is served first."""
        rows = self.order[:limit].astype(np.intp)
        by_chance = self.standing[rows] == TaskRole.BY_CHANCE
        return [
            replace(task, picked_at_random=bool(random))
            for task, random in zip(
                ranked_tasks(self.columns.take(rows), self.options), by_chance, strict=True
            )
        ]


def _as_float32(embeddings: NDArray[np.float16], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """These rows: the picks read each many times over, so that converting once saves time."""
    found = np.empty((len(rows), embeddings.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found[part] = embeddings[rows[part]]
    return found


def save_pool(store: Store, pool: RankedPool) -> None:
    """Keep a pool in place of the project's last one."""
    row = {
        "project_id": pool.project_id,
        "ranked_at": pool.ranked_at,
        "detector": pool.detector,
        "encoder": pool.encoder,
        "options": json.dumps({**vars(pool.options), "weights": dict(pool.options.weights)}),
        "validation_share": pool.validation_share,
        "tasks": _pack(pool),
    }
    save_pool_row(store, row)


def load_pool(store: Store, project_id: int) -> RankedPool | None:
    """The last ranked pool of a project; None: it was never ranked by today's measures."""
    row = pool_row(store, project_id)
    if row is None:
        return None
    with np.load(io.BytesIO(zlib.decompress(row.tasks)), allow_pickle=False) as found:
        if not MEASURES.keys() <= set(found.files):
            return None
        columns = ScoreColumns(
            task_ids=found["task_ids"],
            image_hashes=tuple([text.decode() for text in found["image_hashes"].tolist()]),
            scores={name: found[name] for name in MEASURES},
            # Pools ranked before there were class weights have none.
            class_weight=found.get("class_weight", np.ones(len(found["task_ids"]))),
        )
        standing, order = found["standing"], found["order"]
        groups = None
        if "marks" in found:
            groups = KeptGroups(columns.task_ids, found["marks"], found["leaders"])
        whitenings = {
            view: Whitening(
                found[f"{view}_mean"], found[f"{view}_scaled"], int(found[f"{view}_fitted_on"])
            )
            for view in (IMAGE_VIEW, OBJECT_VIEW)
            if f"{view}_mean" in found
        }
    return RankedPool(
        project_id=row.project_id,
        detector=row.detector,
        encoder=row.encoder,
        ranked_at=utc(row.ranked_at),
        options=RankOptions(**json.loads(row.options)),
        validation_share=row.validation_share,
        columns=columns,
        standing=standing,
        order=order,
        groups=groups,
        whitenings=whitenings,
    )


def _pack(pool: RankedPool) -> bytes:
    packed = io.BytesIO()
    columns = pool.columns
    arrays: dict[str, Any] = {
        "task_ids": columns.task_ids,
        "image_hashes": np.array(columns.image_hashes, dtype="S"),
        "standing": pool.standing,
        "order": pool.order,
        "class_weight": columns.class_weight,
        **columns.scores,
    }
    if pool.groups is not None:
        arrays.update(marks=pool.groups.marks, leaders=pool.groups.leaders)
    for view, whitening in pool.whitenings.items():
        arrays |= {f"{view}_{part}": value for part, value in vars(whitening).items()}
    np.savez(packed, **arrays)
    return zlib.compress(packed.getvalue(), level=1)
