"""What a queue can be ordered by: the strategies, and the weights of the measures.

Needs no numpy, so that the command line, which names them, starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from backend.errors import ScoreError


@dataclass(frozen=True)
class Traits:
    """What a strategy is.

    Args:
        text: one line for people.
        spreads: whether it needs embeddings.
        takes_weight: whether `diversity_weight` changes its order.
        is_measure: whether it is a measure of `backend/uncertainty.py`.
        file: where its `order` is, in `backend/ranking/strategies`; "": under its own name.
    """

    text: str
    spreads: bool = False
    takes_weight: bool = False
    is_measure: bool = False
    file: str = ""


def _measure(text: str) -> Traits:
    return Traits(text, is_measure=True, file="by_score")


STRATEGIES: dict[str, Traits] = {
    "diverse_uncertainty": Traits(
        "combined uncertainty, weighed by class, spread over what images show",
        spreads=True,
        takes_weight=True,
    ),
    "diversity": Traits("only the spread: farthest first from what is labelled", spreads=True),
    "combined": Traits("weighted mean of the uncertainty scores, no spread", file="by_score"),
    "lowest_confidence": _measure("1 - the best class score of a box, no spread"),
    "margin_sampling": _measure(
        "the gap between the best two classes, or class and background, no spread"
    ),
    "entropy": _measure("binary entropy of the best class score, no spread"),
    "random": Traits("a random order, reproducible: the yardstick the others are held against"),
}
"""Everything that offers, names or describes strategies reads this."""

if TYPE_CHECKING:
    StrategyName = str
else:
    StrategyName = Literal[tuple(STRATEGIES)]
"""The type of settings and parameters that name a strategy: pydantic refuses other names."""

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {name: 1.0 for name, traits in STRATEGIES.items() if traits.is_measure}
)
"""The measures of `backend/uncertainty.py`; each counts the same."""


def parse_weights(text: str) -> dict[str, float]:
    """Read the weights of the measures from a setting such as "lowest_confidence=1,entropy=2".

    Measures that are not named get 0. A blank text gives `DEFAULT_WEIGHTS`.

    Args:
        text: `name=number` pairs with commas between them; spaces do not matter.

    Returns:
        A weight for every measure.

    Raises:
        ScoreError: a pair is malformed, a name is unknown or given twice, a number is negative or
            not finite, or all are 0.

    >>> parse_weights("entropy=2, lowest_confidence=1")
    {'lowest_confidence': 1.0, 'margin_sampling': 0.0, 'entropy': 2.0}
    """
    if not text.strip():
        return dict(DEFAULT_WEIGHTS)
    given: dict[str, float] = {}
    for pair in text.split(","):
        name, equals, number = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ScoreError(f"weight {pair.strip()!r} is not of the form name=number")
        if name in given:
            raise ScoreError(f"weight of {name!r} is given twice: give it once")
        try:
            given[name] = float(number)
        except ValueError:
            raise ScoreError(f"weight of {name!r} must be a number, not {number!r}") from None
    check_weights(given, known=DEFAULT_WEIGHTS)
    return {name: given.get(name, 0.0) for name in DEFAULT_WEIGHTS}


def check_weights(weights: Mapping[str, float], *, known: Collection[str]) -> None:
    """Refuse weights that cannot be used.

    Raises:
        ScoreError: a weight is negative, not finite, or for a name that is not `known`; or all
            are 0.
    """
    for name, weight in weights.items():
        if name not in known:
            raise ScoreError(f"weight for unknown score {name!r}: use one of {', '.join(known)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ScoreError(f"weight of {name!r} must be finite and at least 0, not {weight}")
    if not any(weights.values()):
        raise ScoreError(f"every weight is 0: give at least one of {', '.join(known)} more")
