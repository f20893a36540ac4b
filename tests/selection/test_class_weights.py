from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.errors import ScoreError
from backend.selection.class_weights import class_weights, weigh_image

FLOOR = 0.05
WEIGHTS = class_weights([9999, 624, 0])
COMMON, RARE = 0, 2


def box(class_id: int, score: float) -> list[float]:
    scores = [0.0, 0.0, 0.0]
    scores[class_id] = score
    return scores


class TestClassWeights:
    def test_fall_with_the_fourth_root_of_the_boxes(self) -> None:
        assert class_weights([9999, 624, 0]) == pytest.approx([0.1, 0.2, 1.0])

    @pytest.mark.parametrize(("power", "commonest"), [(0.0, 1.0), (0.5, 0.1), (1.0, 0.01)])
    def test_fall_with_the_power_asked_for(self, power: float, commonest: float) -> None:
        assert class_weights([99, 0], power=power) == pytest.approx([commonest, 1.0])

    def test_are_equal_where_the_classes_are(self) -> None:
        assert class_weights([7, 7]).tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("boxes", [[], [3, -1]])
    def test_of_no_class_or_negative_numbers_are_refused(self, boxes: list[int]) -> None:
        with pytest.raises(ScoreError, match="boxes"):
            class_weights(boxes)


class TestAnImage:
    def test_of_the_commonest_class_keeps_least(self) -> None:
        assert weigh_image([box(COMMON, 0.5)], WEIGHTS, floor=FLOOR) == pytest.approx(0.1)

    def test_of_a_rare_class_keeps_the_more_the_likelier_it_is(self) -> None:
        faint, clear = (weigh_image([box(RARE, p)], WEIGHTS, floor=FLOOR) for p in (0.1, 0.6))
        assert faint == pytest.approx(0.1 * 1 + 0.9 * 0.1)
        assert clear == pytest.approx(0.6 * 1 + 0.4 * 0.1)

    def test_with_one_rare_box_among_common_ones_keeps_something_between(self) -> None:
        mixed = [*[box(COMMON, 0.5)] * 9, box(RARE, 0.5)]
        alone = weigh_image([box(RARE, 0.5)], WEIGHTS, floor=FLOOR)
        assert 0.1 < weigh_image(mixed, WEIGHTS, floor=FLOOR) < alone

    def test_where_low_scores_stand_for_every_class_counts_as_background(self) -> None:
        assert weigh_image([[0.06, 0.06, 0.06]], WEIGHTS, floor=FLOOR) < 0.13

    @pytest.mark.parametrize("scores", [np.empty((0, 3)), [[0.04, 0.0, 0.04]]])
    def test_without_boxes_keeps_least(self, scores: np.ndarray) -> None:
        assert weigh_image(scores, WEIGHTS, floor=FLOOR) == pytest.approx(0.1)

    @given(arrays(np.float64, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(0, 1)))
    def test_keeps_a_share_between_the_lowest_weight_and_the_highest(
        self, scores: np.ndarray
    ) -> None:
        assert 0.1 - 1e-9 <= weigh_image(scores, WEIGHTS, floor=FLOOR) <= 1 + 1e-9

    @given(arrays(np.float64, (4, 2), elements=st.floats(0, 1)))
    def test_is_not_weighed_where_all_classes_are_equal(self, scores: np.ndarray) -> None:
        assert weigh_image(scores, class_weights([5, 5]), floor=FLOOR) == pytest.approx(1)
