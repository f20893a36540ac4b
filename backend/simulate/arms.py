"""The arms of a replay: ways to put unlabelled images in order, by the functions the backend uses.

Glossary: P images of the pool, N of them unlabelled, M labelled, D dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.diversity import near_duplicate_groups
from backend.errors import SimulationError
from backend.ranking.candidates import RankOptions
from backend.ranking.order import rank_tasks
from backend.selection.embeddings import near_duplicate_cosine
from backend.settings import Settings
from backend.simulate.analysis import FULL, RANDOM
from backend.store.scores import ScoreColumns
from backend.strategies import STRATEGIES

__all__ = [
    "ARMS",
    "DEFAULT",
    "PoolView",
    "check_arms",
    "compares_objects",
    "fixed_order",
    "order_by_model",
    "spreads",
]

DEFAULT = RankOptions().strategy

ARMS: dict[str, str] = {
    RANDOM: STRATEGIES[RANDOM].text,
    "random_deduplicated": "random, but near-duplicates of what came before come last",
    "most_boxes": "most boxes shown first: good per image, bad per box",
    **{name: found.text for name, found in STRATEGIES.items() if name != RANDOM},
    "no_groups": f"{DEFAULT} without groups of near-duplicates",
    "no_objects": f"{DEFAULT} on embeddings of whole images only",
    "no_class_weights": f"{DEFAULT} without weights by class",
}

_STRATEGY_OF = dict.fromkeys(("no_groups", "no_objects", "no_class_weights"), DEFAULT)


@dataclass(frozen=True, eq=False)
class PoolView:
    """The unlabelled images as one model sees them.

    Args:
        columns: their scores; `task_ids` are places in the pool. Equal scores stay in this order.
        shown: (N,) how many boxes of each reach the display threshold.
        embeddings: (N, D) unit rows; None for arms that do not spread.
        labelled: (M, D) unit rows of the labelled images; None likewise.
    """

    columns: ScoreColumns
    shown: NDArray[np.intp]
    embeddings: NDArray[np.float32] | None = None
    labelled: NDArray[np.float32] | None = None


def check_arms(arms: Sequence[str]) -> None:
    """Refuse names that are no arms.

    Raises:
        SimulationError: one is unknown, or random is missing.
    """
    for arm in arms:
        if arm not in ARMS:
            raise SimulationError(f"strategy {arm!r} is unknown: take some of {', '.join(ARMS)}")
    if RANDOM not in arms:
        raise SimulationError(f"the strategy {RANDOM} is missing: savings are measured against it")


def spreads(arm: str) -> bool:
    """Whether an arm looks at what the images show, besides what the model says of them."""
    strategy = _STRATEGY_OF.get(arm, arm)
    return strategy in STRATEGIES and RankOptions(strategy=strategy).spreads


def compares_objects(arm: str) -> bool:
    """Whether an arm compares images by their objects, too."""
    return spreads(arm) and arm != "no_objects"


def fixed_order(
    arm: str, permutation: NDArray[np.intp], whole: NDArray[np.float32], settings: Settings
) -> list[int] | None:
    """The order of an arm that asks no model.

    Args:
        arm: its name.
        permutation: (P,) the pool in random order; the initial images come first.
        whole: (P, D) unit rows of the whole images, to be compared as they are.
        settings: the encoder.

    Returns:
        The whole pool in order, or None for an arm that asks the model of each round.
    """
    if arm in (RANDOM, FULL):
        return [int(place) for place in permutation]
    if arm == "random_deduplicated":
        threshold = _threshold(settings, objects=False)
        groups = near_duplicate_groups(whole, threshold=threshold, order=permutation)
        leaders = groups[permutation] == permutation
        return [*permutation[leaders].tolist(), *permutation[~leaders].tolist()]
    return None


def order_by_model(arm: str, view: PoolView, settings: Settings, *, picks: int) -> list[int]:
    """The unlabelled images in the order of an arm, as places in the pool.

    Args:
        arm: one that asks the model.
        view: what the model says.
        settings: weights of the scores and of diversity, the encoder.
        picks: how many images will be taken from the front.
    """
    if arm == "most_boxes":
        order = np.argsort(-view.shown, kind="stable")
        return [int(place) for place in view.columns.task_ids[order]]
    threshold = _threshold(settings, objects=compares_objects(arm))
    options = RankOptions(
        strategy=_STRATEGY_OF.get(arm, arm),
        weights=settings.strategy_weights,
        diversity_weight=settings.diversity_weight,
        # The first picks of a longer list would be the same.
        limit=picks,
        duplicate_threshold=None if arm == "no_groups" else threshold,
        class_weights=arm != "no_class_weights",
    )
    ranked = rank_tasks(view.columns, options, embeddings=view.embeddings, labelled=view.labelled)
    return [task.task_id for task in ranked]


def _threshold(settings: Settings, *, objects: bool) -> float:
    return near_duplicate_cosine(whitened=settings.encoder == "detector", objects=objects)
