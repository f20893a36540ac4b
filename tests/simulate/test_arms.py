from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.errors import SimulationError
from backend.settings import load_settings
from backend.simulate.arms import (
    ARMS,
    PoolView,
    check_arms,
    compares_objects,
    fixed_order,
    order_by_model,
)
from backend.store.scores import ScoreColumns
from backend.strategies import STRATEGIES
from backend.uncertainty import MEASURES

BY_MODEL = [arm for arm in ARMS if not arm.startswith("random")]


def view(
    scores: list[float],
    shown: list[int] | None = None,
    rows: list[list[float]] | None = None,
    labelled: list[list[float]] | None = None,
    class_weight: list[float] | None = None,
) -> PoolView:
    """Images 10, 11 .. with the same score by every measure, lower = more uncertain."""
    column = np.array(scores, dtype=np.float64)
    places = np.arange(10, 10 + len(scores))
    weights = np.ones(len(scores)) if class_weight is None else np.array(class_weight)
    columns = ScoreColumns(
        places, tuple(map(str, places)), dict.fromkeys(MEASURES, column), weights
    )
    embeddings = np.eye(max(1, len(scores)), dtype=np.float32)[: len(scores)]
    return PoolView(
        columns,
        np.array(shown or [0] * len(scores), dtype=np.intp),
        embeddings if rows is None else _unit(rows),
        None if labelled is None else _unit(labelled),
    )


def _unit(rows: list[list[float]]) -> NDArray[np.float32]:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def order(arm: str, pool: PoolView) -> list[int]:
    return order_by_model(arm, pool, load_settings(), picks=2)


@pytest.mark.parametrize("arm", BY_MODEL)
def test_an_empty_pool_has_an_empty_order(arm: str) -> None:
    assert order(arm, view([])) == []


@pytest.mark.parametrize("arm", BY_MODEL)
def test_every_arm_orders_every_image_once(arm: str) -> None:
    assert sorted(order(arm, view([0.3, 0.1, 0.2]))) == [10, 11, 12]


def test_every_strategy_of_the_backend_is_an_arm() -> None:
    assert set(STRATEGIES) <= set(ARMS)


@pytest.mark.parametrize("arm", ["entropy", "margin_sampling", "lowest_confidence", "combined"])
def test_scores_alone_put_the_most_uncertain_first(arm: str) -> None:
    assert order(arm, view([0.3, 0.1, 0.2])) == [11, 12, 10]


def test_most_boxes_comes_first_whatever_the_scores_are() -> None:
    assert order("most_boxes", view([0.1, 0.2, 0.3, 0.4], shown=[0, 7, 9, 7])) == [12, 11, 13, 10]


CLIP = load_settings(encoder="openclip")


class TestNearDuplicates:
    # The first two show the same; so do the last one and what is labelled.
    ROWS = ([1.0, 0, 0], [1.0, 0.01, 0], [0, 1.0, 0], [0, 0, 1.0])
    POOL = view([0.1, 0.11, 0.5, 0.05], rows=[*map(list, ROWS)], labelled=[[0, 0.01, 1.0]])

    def test_come_last_by_default(self) -> None:
        assert order("diverse_uncertainty", self.POOL) == [10, 12, 13, 11]

    def test_are_not_looked_for_without_groups(self) -> None:
        # The second is near enough to the first to be a duplicate, and far enough to be picked.
        pool = view([0.0, 0.0, 0.97], rows=[[1.0, 0, 0], [1.0, 0.3, 0], [0, 0, 1.0]])
        assert order("diverse_uncertainty", pool)[:2] == [10, 12]
        assert order("no_groups", pool)[:2] == [10, 11]


class TestWeightsByClass:
    # The second image is nearly as uncertain as the first, and of rarer classes.
    POOL = view([0.2, 0.3, 0.9], class_weight=[0.2, 1.0, 1.0])

    def test_put_rare_classes_first_by_default(self) -> None:
        assert order("diverse_uncertainty", self.POOL)[0] == 11

    def test_do_not_count_without_them(self) -> None:
        assert order("no_class_weights", self.POOL)[0] == 10

    @pytest.mark.parametrize("arm", ["entropy", "combined"])
    def test_leave_the_strategies_of_scores_alone(self, arm: str) -> None:
        assert order(arm, self.POOL) == [10, 11, 12]


class TestArmsThatAskNoModel:
    ROWS = _unit([[1.0, 0], [1.0, 0.01], [0, 1.0], [0.01, 1.0]])

    def test_random_is_the_permutation(self) -> None:
        assert fixed_order("random", np.array([2, 0, 3, 1]), self.ROWS, CLIP) == [2, 0, 3, 1]

    def test_deduplicated_has_repetitions_last(self) -> None:
        permutation = np.array([1, 0, 3, 2])
        assert fixed_order("random_deduplicated", permutation, self.ROWS, CLIP) == [1, 3, 0, 2]

    @pytest.mark.parametrize("arm", BY_MODEL)
    def test_are_only_these(self, arm: str) -> None:
        assert fixed_order(arm, np.arange(4), self.ROWS, CLIP) is None


def test_objects_count_but_for_the_ablation() -> None:
    assert {arm for arm in ARMS if compares_objects(arm)} == {
        "diverse_uncertainty",
        "diversity",
        "no_groups",
        "no_class_weights",
    }


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(SimulationError, match="full"):
        check_arms(["random", "full"])
