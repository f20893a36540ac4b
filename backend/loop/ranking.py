"""From stored scores and embeddings to an order: which task is served first, and why.

No model runs here and nothing is fetched: ranking anew for another strategy or weight is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.diversity import rank
from backend.errors import SettingsError, StoreError
from backend.loop.store import IMAGE_VIEW, ScoreColumns, Store
from backend.settings import STRATEGIES
from backend.uncertainty import DEFAULT_WEIGHTS, MEASURES, ImageScores, combine, flip

# A detector's features share a large common part: uncentred, most of a pool are "near-duplicates".
DETECTOR_PREFIX = "detector-"

# How much the object crops count beside the whole image, as a share of the cosine.
CROP_SHARE = 0.5


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
    """What decides an order. `seed` decides only the random strategy."""

    strategy: str = "diverse_uncertainty"
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    diversity_weight: float = 0.4
    limit: int = 500
    seed: int = 0

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
    """(N, 2 D) unit rows that hold the whole image and its object crops, side by side.

    The cosine of two rows is the weighted mean of the cosine of the images and the cosine of their
    crops. An image without objects is its own only crop.

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
    if encoder.startswith(DETECTOR_PREFIX):
        _centre(images, crops)
    image_part, crop_part = np.sqrt(1 - CROP_SHARE), np.sqrt(CROP_SHARE)
    dim = len(images[image_hashes[0]]) if image_hashes else 0
    rows = np.empty((len(image_hashes), 2 * dim), dtype=np.float32)
    for row, key in zip(rows, image_hashes, strict=True):
        row[:dim] = image_part * images[key]
        row[dim:] = crop_part * crops.get(key, images[key])
    return rows


def _centre(*views: dict[str, NDArray[np.float32]]) -> None:
    """Subtract the mean of each view from its vectors and scale them to length 1, in place."""
    for vectors in views:
        if len(vectors) < 2:
            continue
        mean = np.mean(list(vectors.values()), axis=0)
        for key, vector in vectors.items():
            moved = vector - mean
            length = float(np.linalg.norm(moved))
            vectors[key] = moved / length if length > 1e-6 else vector
