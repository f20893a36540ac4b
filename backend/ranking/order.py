"""From stored scores and embeddings to an order: which task is served first, and why.

No model runs here and nothing is fetched: re-ranking for another strategy or weight is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.diversity import rank, rank_represented
from backend.errors import SettingsError, StoreError
from backend.selection.embeddings import join_rows, join_views
from backend.store.encoding import unpack_rows
from backend.store.scores import IMAGE_VIEW, ScoreColumns, Store
from backend.strategies import DEFAULT_WEIGHTS, STRATEGIES
from backend.uncertainty import MEASURES, ImageScores, combine, flip

_DETECTOR_PREFIX = "detector-"

_IMAGES_AT_ONCE = 4096

Embeddings = NDArray[np.floating[Any]]


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


@dataclass(frozen=True)
class RankOptions:
    """What decides an order.

    `class_weights` counts for the strategies that spread: see `utilities`. `seed` decides only the
    random strategy. `duplicate_threshold` is the cosine from which images are near-duplicates;
    None: none are, but those of one sequence.
    """

    strategy: str = "diverse_uncertainty"
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    diversity_weight: float = 0.4
    limit: int = 500
    seed: int = 0
    duplicate_threshold: float | None = 0.95
    class_weights: bool = True

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SettingsError(
                f"STRATEGY {self.strategy!r} is unknown: take one of {', '.join(STRATEGIES)}."
            )

    @property
    def spreads(self) -> bool:
        """Whether this strategy looks at embeddings."""
        return STRATEGIES[self.strategy].spreads


def order_rows(
    columns: ScoreColumns,
    options: RankOptions,
    *,
    embeddings: Embeddings | None = None,
    labelled: Embeddings | None = None,
    represents: NDArray[np.bool_] | None = None,
) -> NDArray[np.intp]:
    """(N,) the row numbers of `columns`, first place first.

    Args:
        columns: the scores of N tasks.
        options: strategy, weights and limit.
        embeddings: (N, D) unit rows; needed by the strategies that spread.
        labelled: (M, D) unit rows of images that are labelled already.
        represents: (N,) which rows represent their near-duplicates, where that is known: see
            `find_representatives`.
    """
    if options.strategy == "random":
        return np.random.default_rng(options.seed).permutation(len(columns.task_ids))
    if not options.spreads:
        return np.argsort(public_scores(columns, options), kind="stable")
    if embeddings is None:
        raise ValueError(f"strategy {options.strategy!r} needs embeddings")
    weight = options.diversity_weight if STRATEGIES[options.strategy].takes_weight else 1.0
    if represents is not None:
        return rank_represented(
            embeddings,
            utilities(columns, options),
            represents,
            limit=options.limit,
            diversity_weight=weight,
            labelled=labelled,
        )
    return rank(
        embeddings,
        utilities(columns, options),
        limit=options.limit,
        diversity_weight=weight,
        labelled=labelled,
        duplicate_threshold=options.duplicate_threshold,
    ).order


def rank_tasks(
    columns: ScoreColumns,
    options: RankOptions,
    *,
    embeddings: Embeddings | None = None,
    labelled: Embeddings | None = None,
) -> list[RankedTask]:
    """All N tasks of `columns`, first place first; see `order_rows`."""
    order = order_rows(columns, options, embeddings=embeddings, labelled=labelled)
    return ranked_tasks(columns.take(order), options)


def ranked_tasks(columns: ScoreColumns, options: RankOptions) -> list[RankedTask]:
    """Tasks in the order of serving, with ranks from 1."""
    rows = zip(
        columns.task_ids.tolist(),
        public_scores(columns, options).tolist(),
        *(getattr(columns, name).tolist() for name in MEASURES),
        strict=True,
    )
    return [
        RankedTask(
            rank=place,
            task_id=task_id,
            uncertainty_score=score,
            scores=ImageScores(**dict(zip(MEASURES, measures, strict=True))),
        )
        for place, (task_id, score, *measures) in enumerate(rows, start=1)
    ]


def utilities(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    """(N,) 0..1, higher = more useful: what the strategies that spread start from.

    The combined uncertainty, weighted by class: see `backend.selection.class_weights`.
    """
    uncertain = flip(_combined(columns, options))
    return uncertain * columns.class_weight if options.class_weights else uncertain


def public_scores(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    """(N,) 0..1, lower = more uncertain: the strategy's own score, or the combination."""
    if options.strategy in MEASURES:
        chosen: NDArray[np.float64] = getattr(columns, options.strategy)
        return chosen
    return _combined(columns, options)


def _combined(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    return combine({name: getattr(columns, name) for name in MEASURES}, options.weights)


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
