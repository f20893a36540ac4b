"""From stored scores and embeddings to an order: which task is served first, and why.

No model runs here and nothing is fetched: re-ranking for another strategy or weight is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from backend.errors import StoreError
from backend.ranking.candidates import Candidates, Embeddings, RankOptions, public_scores
from backend.selection.embeddings import join_rows, join_views
from backend.store.encoding import unpack_rows
from backend.store.scores import IMAGE_VIEW, ScoreColumns, Store
from backend.strategies import STRATEGIES
from backend.uncertainty import ImageScores

_DETECTOR_PREFIX = "detector-"

_IMAGES_AT_ONCE = 4096


@dataclass(frozen=True)
class RankedTask:
    """One place of an order. Rank 1 is served first.

    `uncertainty_score` is public: 0..1, lower = more uncertain. A task that was picked at random
    has a random rank, whatever its score.
    """

    rank: int
    task_id: int
    uncertainty_score: float
    scores: ImageScores
    picked_at_random: bool = False


def order_rows(candidates: Candidates) -> NDArray[np.intp]:
    """(N,) the row numbers of the candidates, first place first, by the strategy of their options.

    Raises:
        ScoreError: the embeddings cannot be ranked.
    """
    name = candidates.options.strategy
    file = import_module(f"backend.ranking.strategies.{STRATEGIES[name].file or name}")
    order: NDArray[np.intp] = file.order(candidates)
    return order


def rank_tasks(
    columns: ScoreColumns,
    options: RankOptions,
    *,
    embeddings: Embeddings | None = None,
    labelled: Embeddings | None = None,
) -> list[RankedTask]:
    """All N tasks of `columns`, first place first; see `order_rows`."""
    order = order_rows(Candidates(columns, options, embeddings, labelled))
    return ranked_tasks(columns.take(order), options)


def ranked_tasks(columns: ScoreColumns, options: RankOptions) -> list[RankedTask]:
    """Tasks in the order of serving, with ranks from 1."""
    rows = zip(
        columns.task_ids.tolist(),
        public_scores(columns, options).tolist(),
        *(column.tolist() for column in columns.scores.values()),
        strict=True,
    )
    return [
        RankedTask(
            rank=place,
            task_id=task_id,
            uncertainty_score=score,
            scores=dict(zip(columns.scores, measures, strict=True)),
        )
        for place, (task_id, score, *measures) in enumerate(rows, start=1)
    ]


def is_whitened(encoder: str) -> bool:
    """Whether the embeddings of an encoder (by its name) are whitened: see `join_views`."""
    return encoder.startswith(_DETECTOR_PREFIX)


def load_embeddings(
    store: Store, encoder: str, crop_view: str, image_hashes: Sequence[str]
) -> NDArray[np.float16]:
    """The rows of `join_views` for the stored embeddings of N images, as float16.

    The store keeps float16 too. Rows that are whitened are so by all of `image_hashes`.

    Raises:
        StoreError: an image has no embedding by this encoder.
    """
    if is_whitened(encoder):
        images = store.embeddings(encoder, IMAGE_VIEW, image_hashes)
        _check_complete(image_hashes, images.keys(), encoder)
        crops = store.embeddings(encoder, crop_view, image_hashes)
        return join_views(images, crops, image_hashes, whitened=True).astype(np.float16)
    joined = np.empty((0, 0), dtype=np.float16)
    # A few at a time: as float32 and as bytes they take up several times the memory.
    for start in range(0, len(image_hashes), _IMAGES_AT_ONCE):
        part = image_hashes[start : start + _IMAGES_AT_ONCE]
        whole = store.packed_embeddings(encoder, IMAGE_VIEW, part)
        _check_complete(part, whole.keys(), encoder)
        objects = whole | store.packed_embeddings(encoder, crop_view, part)
        rows = join_rows(
            unpack_rows([whole[key] for key in part]), unpack_rows([objects[key] for key in part])
        )
        if not start:
            joined = np.empty((len(image_hashes), rows.shape[1]), dtype=np.float16)
        joined[start : start + len(part)] = rows
    return joined


def _check_complete(image_hashes: Sequence[str], found: Set[str], encoder: str) -> None:
    missing = len(set(image_hashes) - found)
    if missing:
        raise StoreError(
            f"{missing} images have no embedding by {encoder}: "
            "run `python -m backend score` for this project."
        )
