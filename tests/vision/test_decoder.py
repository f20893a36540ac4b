from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.vision.decoder import DecoderOptions, decode
from backend.vision.letterbox import fit

HALF = fit((200, 100), (100, 100), None)  # half scale, 25 rows of grey above and below


def raw(*anchors: list[float]) -> NDArray[np.float32]:
    """Anchors as rows [cx, cy, w, h, scores...] -> (4 + C, A)."""
    return np.array(anchors, dtype=np.float32).T


def test_no_anchor_above_the_floor_leaves_the_peak() -> None:
    seen = decode(raw([50, 50, 10, 10, 0.04, 0.01], [20, 50, 10, 10, 0.0, 0.03]), HALF)
    assert len(seen) == 0
    assert seen.class_scores.shape == (0, 2)
    assert seen.peak_score == pytest.approx(0.04)
    assert seen.image_size == (200, 100)


def test_one_box_by_hand() -> None:
    # Centre (50, 45), 20 x 10 in input pixels: 40..60 x 40..50; minus 25 rows, times 2.
    seen = decode(raw([50, 45, 20, 10, 0.2, 0.7]), HALF)
    assert seen.xyxy.tolist() == [[80, 30, 120, 50]]
    assert seen.class_scores[0].tolist() == pytest.approx([0.2, 0.7])
    assert seen.peak_score == pytest.approx(0.7)


def test_all_class_scores_are_carried_and_never_renormalised() -> None:
    scores = [0.1, 1e-5, 2e-5]
    seen = decode(raw([50, 50, 20, 20, *scores]), HALF)
    assert seen.class_scores[0].tolist() == pytest.approx(scores)


def test_two_classes_close_in_score_stay_one_box() -> None:
    seen = decode(raw([50, 50, 20, 20, 0.41, 0.40]), HALF)
    assert seen.class_scores.tolist() == [pytest.approx([0.41, 0.40])]
    assert seen.class_ids.tolist() == [0]


def test_the_vectors_follow_their_boxes_through_sorting_and_suppression() -> None:
    seen = decode(
        raw(
            [20, 50, 10, 10, 0.3, 0.1],
            [80, 50, 10, 10, 0.2, 0.9],
            [80.2, 50, 10, 10, 0.1, 0.8],  # IoU .96 with the one above, same class: dropped
            [50, 50, 10, 10, 0.02, 0.01],  # below the floor
        ),
        HALF,
    )
    assert seen.class_scores.tolist() == [pytest.approx([0.2, 0.9]), pytest.approx([0.3, 0.1])]
    assert seen.xyxy[:, 0].tolist() == [150, 30]


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    seen = decode(raw([50, 50, 10, 10, 0.6, 0.1], [50, 50, 10, 10, 0.1, 0.5]), HALF)
    assert seen.class_ids.tolist() == [0, 1]


@pytest.mark.parametrize(("shift", "left"), [(1.0, 1), (3.0, 2)])
def test_the_overlap_that_counts_is_0_7(shift: float, left: int) -> None:
    # 10 x 10 boxes shifted by s overlap by (10 - s) / (10 + s): .818 and .538.
    seen = decode(raw([40, 50, 10, 10, 0.6], [40 + shift, 50, 10, 10, 0.5]), HALF)
    assert len(seen) == left


def test_no_more_than_max_boxes_and_the_best_of_them() -> None:
    rng = np.random.default_rng(0)
    anchors = [[3 + 4 * i, 50, 2, 2, float(p)] for i, p in enumerate(rng.uniform(0.1, 0.9, 20))]
    seen = decode(raw(*anchors), HALF, DecoderOptions(max_boxes=5))
    best = sorted((anchor[4] for anchor in anchors), reverse=True)[:5]
    assert seen.confidence.tolist() == pytest.approx(best)


def test_thousands_of_candidates_are_treated_as_a_few_are() -> None:
    # 1500 copies of the best box hide it all: the weak one elsewhere must still be found.
    copies = [[50, 50, 20, 20, 0.9 - 1e-4 * i] for i in range(1500)]
    seen = decode(raw(*copies, [20, 40, 5, 5, 0.1]), HALF)
    assert seen.confidence.tolist() == pytest.approx([0.9, 0.1])


def test_boxes_that_lie_in_the_padding_are_dropped() -> None:
    seen = decode(raw([50, 10, 8, 8, 0.9], [50, 50, 8, 8, 0.5]), HALF)
    assert seen.confidence.tolist() == pytest.approx([0.5])
    assert seen.peak_score == pytest.approx(0.9)


def test_half_precision_is_widened() -> None:
    seen = decode(raw([50, 50, 20, 20, 0.5]).astype(np.float16), HALF)
    assert seen.xyxy.dtype == seen.class_scores.dtype == np.float32


def test_no_anchors_at_all() -> None:
    assert decode(np.zeros((6, 0), dtype=np.float32), HALF).peak_score == 0


@pytest.mark.parametrize("score", [float("nan"), 3.5, -2.0])
def test_scores_that_are_no_probabilities_are_refused(score: float) -> None:
    with pytest.raises(WeightsError, match=r"not in 0\.\.1"):
        decode(raw([50, 50, 20, 20, score]), HALF)
