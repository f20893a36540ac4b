"""A random order: the yardstick the other strategies are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.ranking.candidates import Candidates


def order(candidates: Candidates) -> NDArray[np.intp]:
    """(N,) rows in a random order, the same for the same seed."""
    count = len(candidates.columns.task_ids)
    return np.random.default_rng(candidates.options.seed).permutation(count)
