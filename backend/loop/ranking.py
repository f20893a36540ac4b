"""From stored scores and embeddings to an order: which task is served first, and why.

No model runs here and nothing is fetched: ranking anew for another strategy or weight is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.diversity import rank
from backend.embeddings import join_views
from backend.errors import SettingsError, StoreError
from backend.loop.store import IMAGE_VIEW, ScoreColumns, Store
from backend.settings import STRATEGIES
from backend.uncertainty import DEFAULT_WEIGHTS, MEASURES, ImageScores, combine, flip

# Encoders whose embeddings are centred: see `join_views`.
DETECTOR_PREFIX = "detector-"


@dataclass(frozen=True)
class RankedTask:
    """One place of an order. Rank 1 is served first.

    `uncertainty_score` is public: 0..1, lower = more uncertain. A task that was picked at random
    has its place by chance, whatever its score.
    """

    rank: int
    task_id: int
    uncertainty_score: float
    scores: ImageScores
    picked_at_random: bool = False


@dataclass(frozen=True)
class RankOptions:
    """What decides an order.

    `seed` decides only the random strategy. `duplicate_threshold` is the cosine from which images
    are near-duplicates; None: none are, but those of one sequence.
    """

    strategy: str = "diverse_uncertainty"
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    diversity_weight: float = 0.4
    limit: int = 500
    seed: int = 0
    duplicate_threshold: float | None = 0.95

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SettingsError(
                f"STRATEGY {self.strategy!r} is unknown: take one of {', '.join(STRATEGIES)}."
            )

    @property
    def spreads(self) -> bool:
        """Whether this strategy looks at embeddings."""
        return self.strategy in ("diverse_uncertainty", "diversity")


def rank_tasks(
    columns: ScoreColumns,
    options: RankOptions,
    *,
    embeddings: NDArray[np.float32] | None = None,
    labelled: NDArray[np.float32] | None = None,
    sequence_keys: Sequence[str | None] | None = None,
) -> list[RankedTask]:
    """All N tasks of `columns`, first place first.

    Args:
        columns: the scores of N tasks.
        options: strategy, weights and limit.
        embeddings: (N, D) unit rows; needed by the strategies that spread.
        labelled: (M, D) unit rows of images that are labelled already.
        sequence_keys: N names, None for none; images of one sequence count as near-duplicates.
    """
    public = _public_scores(columns, options)
    if options.strategy == "random":
        order = np.random.default_rng(options.seed).permutation(len(public))
    elif options.spreads:
        if embeddings is None:
            raise ValueError(f"strategy {options.strategy!r} needs embeddings")
        order = rank(
            embeddings,
            flip(public),
            limit=options.limit,
            diversity_weight=1.0 if options.strategy == "diversity" else options.diversity_weight,
            labelled=labelled,
            duplicate_threshold=options.duplicate_threshold,
            keys=sequence_keys,
        ).order
    else:
        order = np.argsort(public, kind="stable")
    return [
        RankedTask(
            rank=place,
            task_id=int(columns.task_ids[row]),
            uncertainty_score=float(public[row]),
            scores=ImageScores(
                lowest_confidence=float(columns.lowest_confidence[row]),
                margin_sampling=float(columns.margin_sampling[row]),
                entropy=float(columns.entropy[row]),
            ),
        )
        for place, row in enumerate(order.tolist(), start=1)
    ]


def _public_scores(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    """(N,) 0..1, lower = more uncertain: the strategy's own score, or the combination."""
    by_name = {name: getattr(columns, name) for name in MEASURES}
    if options.strategy in MEASURES:
        chosen: NDArray[np.float64] = by_name[options.strategy]
        return chosen
    return combine(by_name, options.weights)


def load_embeddings(
    store: Store, encoder: str, crop_view: str, image_hashes: Sequence[str]
) -> NDArray[np.float32]:
    """The rows of `join_views` for the stored embeddings of N images.

    Raises:
        StoreError: an image has no embedding by this encoder.
    """
    images = store.embeddings(encoder, IMAGE_VIEW, image_hashes)
    missing = len(set(image_hashes) - images.keys())
    if missing:
        raise StoreError(
            f"{missing} images have no embedding by {encoder}: "
            "run `python -m backend score` for this project."
        )
    crops = store.embeddings(encoder, crop_view, image_hashes)
    return join_views(images, crops, image_hashes, centred=encoder.startswith(DETECTOR_PREFIX))
