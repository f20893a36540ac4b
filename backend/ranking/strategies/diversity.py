"""Only the spread: the farthest first from what is labelled and picked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.ranking.candidates import Candidates
from backend.ranking.strategies.diverse_uncertainty import spread


def order(candidates: Candidates) -> NDArray[np.intp]:
    """(N,) rows, picked one by one by distance alone."""
    return spread(candidates, 1.0)
