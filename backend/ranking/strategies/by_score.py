"""The most uncertain first: by one measure, or by their weighted mean. No spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.ranking.candidates import Candidates, public_scores


def order(candidates: Candidates) -> NDArray[np.intp]:
    """(N,) rows by ascending public score; equal ones stay in their order."""
    scores = public_scores(candidates.columns, candidates.options)
    return np.argsort(scores, kind="stable")
