"""What a strategy puts in order: scored tasks, and the options of the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import SettingsError
from backend.store.scores import ScoreColumns
from backend.strategies import DEFAULT_WEIGHTS, STRATEGIES
from backend.uncertainty import combine, flip

Embeddings = NDArray[np.floating[Any]]


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


@dataclass(frozen=True, eq=False)
class Candidates:
    """N scored tasks to be put in order.

    Args:
        columns: their scores.
        options: strategy, weights and limit.
        embeddings: (N, D) unit rows; None for strategies that do not spread.
        labelled: (M, D) unit rows of images that are labelled already.
        represents: (N,) which rows represent their near-duplicates, where that is known: see
            `find_representatives`.
    """

    columns: ScoreColumns
    options: RankOptions
    embeddings: Embeddings | None = None
    labelled: Embeddings | None = None
    represents: NDArray[np.bool_] | None = None


def utilities(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    """(N,) 0..1, higher = more useful: what the strategies that spread start from.

    The combined uncertainty, weighted by class: see `backend.selection.class_weights`.
    """
    uncertain = flip(_combined(columns, options))
    return uncertain * columns.class_weight if options.class_weights else uncertain


def public_scores(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    """(N,) 0..1, lower = more uncertain: the strategy's own score, or the combination."""
    if options.strategy in columns.scores:
        return columns.scores[options.strategy]
    return _combined(columns, options)


def _combined(columns: ScoreColumns, options: RankOptions) -> NDArray[np.float64]:
    return combine(columns.scores, options.weights)
