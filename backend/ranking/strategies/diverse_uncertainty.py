"""The default: combined uncertainty, weighted by class, spread over what the images show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.diversity import rank, rank_represented
from backend.ranking.candidates import Candidates, utilities


def order(candidates: Candidates) -> NDArray[np.intp]:
    """(N,) rows, picked one by one: see `backend.diversity.rank`."""
    return spread(candidates, candidates.options.diversity_weight)


def spread(candidates: Candidates, diversity_weight: float) -> NDArray[np.intp]:
    """(N,) rows by uncertainty and distance; the weight is 0 (only uncertainty) to 1 (distance).

    Raises:
        ScoreError: the embeddings cannot be ranked.
    """
    options = candidates.options
    if candidates.embeddings is None:
        raise ValueError(f"strategy {options.strategy!r} needs embeddings")
    useful = utilities(candidates.columns, options)
    if candidates.represents is not None:
        return rank_represented(
            candidates.embeddings,
            useful,
            candidates.represents,
            limit=options.limit,
            diversity_weight=diversity_weight,
            labelled=candidates.labelled,
        )
    return rank(
        candidates.embeddings,
        useful,
        limit=options.limit,
        diversity_weight=diversity_weight,
        labelled=candidates.labelled,
        duplicate_threshold=options.duplicate_threshold,
    ).order
