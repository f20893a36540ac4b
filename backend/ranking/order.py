"""From stored scores and embeddings to an order: which task is served first, and why.

No model runs here and nothing is fetched: re-ranking for another strategy or weight is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from backend.detections import features_name, is_features_name
from backend.errors import StoreError
from backend.ranking.candidates import Candidates, Embeddings, RankOptions, public_scores
from backend.selection.embeddings import Whitening, join_rows, near_duplicate_cosine
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, ScoreColumns, Store
from backend.strategies import STRATEGIES
from backend.uncertainty import ImageScores


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


@dataclass(frozen=True, eq=False)
class PoolRows:
    """What the images of a pool are compared by.

    Args:
        rows: (N, D) unit rows.
        near: the cosine from which two of them are near-duplicates.
        whitenings: view -> how its vectors were whitened. Kept, so that the next ranking of the
            pool makes the same rows of the same vectors.
    """

    rows: NDArray[np.float16]
    near: float
    whitenings: Mapping[str, Whitening]


def load_embeddings(
    store: Store,
    encoder: str,
    detector: str,
    image_hashes: Sequence[str],
    whitenings: Mapping[str, Whitening],
) -> PoolRows:
    """The stored vectors of N images and of their objects, joined; see `join_rows`.

    Args:
        store: where they are.
        encoder: whose vectors of whole images.
        detector: the version of the detector whose objects.
        image_hashes: of the N images.
        whitenings: those of the last ranking, of the same vectors; made again for a pool that has
            doubled since.

    Raises:
        StoreError: an image has no vector, or its objects have none.
    """
    images = store.vectors(encoder, IMAGE_VIEW, image_hashes)
    if images is None:
        if image_hashes:
            raise StoreError(
                f"no image has an embedding by {encoder}: run `python -m backend score` for this "
                "project."
            )
        return PoolRows(np.empty((0, 0), dtype=np.float16), 1.0, {})
    found = {IMAGE_VIEW: images}
    # An export without features has no vector of any object.
    objects = store.vectors(features_name(detector), OBJECT_VIEW, image_hashes)
    if objects is not None:
        found[OBJECT_VIEW] = objects
    whitened = is_features_name(encoder)
    made = {
        view: _whitening(vectors, whitenings.get(view))
        for view, vectors in found.items()
        if view == OBJECT_VIEW or whitened
    }
    return PoolRows(
        join_rows([(vectors, made.get(view)) for view, vectors in found.items()]),
        near_duplicate_cosine(whitened=whitened, objects=objects is not None),
        made,
    )


def _whitening(vectors: NDArray[np.float16], before: Whitening | None) -> Whitening:
    fits = before is not None and before.still_fits(len(vectors))
    if before is not None and fits and before.mean.shape == vectors.shape[1:]:
        return before
    return Whitening.fit(vectors)
