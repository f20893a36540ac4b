"""From class scores to image scores: hand-computed cases, then properties that must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.errors import ScoreError
from backend.strategies import DEFAULT_WEIGHTS, STRATEGIES, parse_weights
from backend.uncertainty import (
    AGGREGATIONS,
    MEASURES,
    ImageScores,
    aggregate,
    combine,
    entropy,
    flip,
    lowest_confidence,
    margin_sampling,
    score_image,
)

unit = st.floats(0, 1, allow_subnormal=False)
boxes = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=unit)
utilities = st.lists(unit, min_size=1, max_size=12)
floors = st.floats(0.001, 0.999)
aggregations = st.sampled_from(sorted(AGGREGATIONS))
measures = st.sampled_from(sorted(MEASURES))


def numbers(scores: ImageScores) -> list[float]:
    return list(scores.values())


# Boxes


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("classes", [1, 2, 80])
def test_no_boxes_give_no_utilities(name, classes):
    assert MEASURES[name](np.empty((0, classes))).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "confidence", "margin", "bits"),
    [
        ([1.0, 0.0], 0.0, 0.0, 0.0),
        ([0.5, 0.0], 0.5, 1.0, 1.0),
        ([0.75, 0.0], 0.25, 0.5, 0.8112781244591328),
        ([0.25, 0.0], 0.75, 0.5, 0.8112781244591328),
        ([0.0, 0.75], 0.25, 0.5, 0.8112781244591328),
        ([0.8, 0.6], 0.2, 0.75, 0.7219280948873623),  # the other class is the closer rival
        ([0.8, 0.1], 0.2, 0.4, 0.7219280948873623),  # background is the closer rival
        ([0.25, 0.2], 0.75, 0.8, 0.8112781244591328),  # the other class, of a faint box
        ([0.9, 0.9], 0.1, 1.0, 0.4689955935892812),  # two classes share the box
        ([0.0, 0.0], 1.0, 0.0, 0.0),  # nothing at all: no class margin, certain background
        ([0.75], 0.25, 0.5, 0.8112781244591328),  # one class: no second
        ([0.0], 1.0, 0.0, 0.0),
        ([0.5, 0.75, 0.25], 0.25, 2 / 3, 0.8112781244591328),
    ],
)
def test_boxes_by_hand(scores, confidence, margin, bits):
    assert lowest_confidence([scores]) == pytest.approx([confidence])
    assert margin_sampling([scores]) == pytest.approx([margin])
    assert entropy([scores]) == pytest.approx([bits])


def test_scores_are_never_made_to_sum_to_1():
    faint = [[0.1, 1e-5, 2e-5]]  # renormalised, it would be .9997 and look certain
    assert lowest_confidence(faint) == pytest.approx([0.9])
    assert entropy(faint) == pytest.approx([0.4689955935892812])
    sure_twice = [[1.0, 1.0]]
    assert lowest_confidence(sure_twice) == pytest.approx([0.0])


@given(boxes, measures)
def test_box_utilities_lie_in_0_to_1(scores, name):
    u = MEASURES[name](scores)
    assert u.shape == (len(scores),)
    assert ((u >= 0) & (u <= 1)).all()


@given(boxes, measures, st.randoms(use_true_random=False))
def test_box_utilities_follow_their_boxes_and_ignore_class_order(scores, name, random):
    rows = random.sample(range(len(scores)), len(scores))
    columns = random.sample(range(scores.shape[1]), scores.shape[1])
    u = MEASURES[name](scores)
    assert MEASURES[name](scores[rows][:, columns]).tolist() == u[rows].tolist()


@given(boxes, measures)
def test_a_further_class_at_0_changes_nothing(scores, name):
    wider = np.column_stack([scores, np.zeros(len(scores))])
    assert MEASURES[name](wider).tolist() == MEASURES[name](scores).tolist()


@given(st.integers(0, 64))
def test_entropy_is_the_same_on_both_sides_of_one_half(step):
    p = step / 64
    assert entropy([[p]]).tolist() == entropy([[1 - p]]).tolist()


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "scores",
    [
        [],
        [0.5, 0.5],
        [[]],
        [[[0.5]]],
        [[0.5, math.nan]],
        [[1.0001]],
        [[-0.0001]],
        [[math.inf]],
        [["high"]],
        [[0.5], [0.5, 0.5]],
        None,
    ],
)
def test_class_scores_that_cannot_be_scored_are_refused(name, scores):
    with pytest.raises(ScoreError, match="class_scores") as refusal:
        MEASURES[name](scores)
    assert "\n" not in str(refusal.value)


# Images


@pytest.mark.parametrize(
    ("aggregation", "k", "expected"),
    [
        ("max", 3, 0.8),
        ("mean", 3, 0.4),
        ("sum", 3, 1.6 / 2.6),
        ("top-k", 1, 0.8),
        ("top-k", 2, 0.6),
        ("top-k", 3, (0.8 + 0.4 + 0.3) / 3),
        ("top-k", 4, 0.4),
        ("top-k", 8, 1.6 / 8),  # the four that are missing count as certain
    ],
)
def test_aggregations_by_hand(aggregation, k, expected):
    assert aggregate([0.3, 0.8, 0.1, 0.4], aggregation=aggregation, k=k) == pytest.approx(expected)


def test_top_3_is_the_default():
    assert aggregate([1.0, 1.0, 1.0, 0.0]) == 1.0
    assert aggregate([1.0, 1.0, 0.0, 0.0]) == pytest.approx(2 / 3)
    assert aggregate([1.0, 1.0]) == pytest.approx(2 / 3)


def test_a_crowd_does_not_saturate_the_sum():
    crowd = [aggregate([0.9] * n, aggregation="sum") for n in (50, 100, 300)]
    assert crowd[0] < crowd[1] < crowd[2] < 1


@given(utilities, aggregations, st.integers(1, 5), st.randoms(use_true_random=False))
def test_aggregates_lie_in_0_to_1_whatever_the_order(values, aggregation, k, random):
    image = aggregate(values, aggregation=aggregation, k=k)
    assert 0 <= image <= 1
    shuffled = random.sample(values, len(values))
    assert aggregate(shuffled, aggregation=aggregation, k=k) == image


@given(utilities, aggregations, st.integers(1, 5), st.data())
def test_aggregates_never_fall_when_a_box_gets_less_certain(values, aggregation, k, data):
    at = data.draw(st.integers(0, len(values) - 1))
    raised = values.copy()
    raised[at] = data.draw(st.floats(values[at], 1))
    before = aggregate(values, aggregation=aggregation, k=k)
    assert aggregate(raised, aggregation=aggregation, k=k) >= before


@given(utilities, unit, st.sampled_from(["max", "sum", "top-k"]))
def test_a_further_box_never_makes_an_image_less_useful(values, further, aggregation):
    grown = aggregate([*values, further], aggregation=aggregation)
    assert grown >= aggregate(values, aggregation=aggregation)


@given(utilities, unit)
def test_the_sum_grows_with_every_doubtful_box(values, further):
    grown = aggregate([*values, further], aggregation="sum")
    assert grown >= aggregate(values, aggregation="sum")
    if further > 1e-6:
        assert grown > aggregate(values, aggregation="sum")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "K > 0"),
        ([[0.5]], {}, "shape"),
        ([1.5], {}, "0..1"),
        ([math.nan], {}, "NaN"),
        ([0.5], {"aggregation": "median"}, "'median': use one of max, mean, sum, top-k"),
        ([0.5], {"k": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(values, options, message):
    with pytest.raises(ScoreError, match=message):
        aggregate(values, **options)


def test_an_image_by_hand():
    scores = score_image([[0.75, 0.0], [1.0, 0.0]], peak_score=1.0, floor=0.1, aggregation="mean")
    assert scores["lowest_confidence"] == pytest.approx(1 - 0.25 / 2)
    assert scores["margin_sampling"] == pytest.approx(1 - 0.5 / 2)
    assert scores["entropy"] == pytest.approx(1 - 0.8112781244591328 / 2)


def test_an_empty_image_by_hand():
    scores = score_image(np.empty((0, 80)), peak_score=0.05, floor=0.1)
    # Half of a box at the floor, which itself is one of three.
    assert scores["lowest_confidence"] == pytest.approx(1 - 0.9 / 6)
    assert scores["margin_sampling"] == pytest.approx(1 - 0.2 / 6)
    assert scores["entropy"] == pytest.approx(1 - 0.4689955935892812 / 6)


@given(boxes, unit, floors, aggregations, st.randoms(use_true_random=False))
def test_image_scores_lie_in_0_to_1_whatever_the_order(scores, peak, floor, aggregation, random):
    image = score_image(scores, peak_score=peak, floor=floor, aggregation=aggregation)
    assert all(0 <= number <= 1 for number in numbers(image))
    shuffled = scores[random.sample(range(len(scores)), len(scores))]
    assert score_image(shuffled, peak_score=peak, floor=floor, aggregation=aggregation) == image


@given(floors, aggregations)
def test_the_empty_rule_meets_the_boxes_at_the_floor(floor, aggregation):
    empty = score_image(np.empty((0, 1)), peak_score=floor, floor=floor, aggregation=aggregation)
    one_box = score_image([[floor]], peak_score=floor, floor=floor, aggregation=aggregation)
    assert empty == one_box


@given(floors, unit, unit, aggregations)
def test_an_empty_image_is_less_certain_the_higher_its_peak(floor, a, b, aggregation):
    lower, higher = sorted([a * floor, b * floor])
    calm, doubtful = (
        score_image(np.empty((0, 3)), peak_score=peak, floor=floor, aggregation=aggregation)
        for peak in (lower, higher)
    )
    pairs = list(zip(numbers(calm), numbers(doubtful), strict=True))
    assert all(c >= d for c, d in pairs)
    if higher - lower > 1e-6:
        assert all(c > d for c, d in pairs)


@given(st.floats(0.01, 0.3), st.floats(0.01, 1), aggregations)
def test_an_empty_image_is_neither_most_nor_least_certain(floor, share, aggregation):
    image = score_image(
        np.empty((0, 3)), peak_score=share * floor, floor=floor, aggregation=aggregation
    )
    assert all(0 < number < 1 for number in numbers(image))


def test_boxes_at_the_floor_count():
    scores = score_image([[0.1], [0.1]], peak_score=0.1, floor=0.1, aggregation="sum")
    assert scores["lowest_confidence"] == pytest.approx(1 - 1.8 / 2.8)


def test_only_a_peak_of_0_makes_an_empty_image_certain():
    assert numbers(score_image(np.empty((0, 3)), peak_score=0.0, floor=0.1)) == [1.0, 1.0, 1.0]


def test_a_peak_above_the_floor_without_boxes_counts_as_the_floor():
    at_floor, above = (
        score_image(np.empty((0, 3)), peak_score=peak, floor=0.1) for peak in (0.1, 0.9)
    )
    assert at_floor == above


def test_boxes_below_the_floor_only_raise_the_peak():
    beside = score_image([[0.9], [0.04]], peak_score=0.9, floor=0.05)
    assert beside == score_image([[0.9]], peak_score=0.9, floor=0.05)
    alone = score_image([[0.04], [0.02]], peak_score=0.03, floor=0.05)
    assert alone == score_image(np.empty((0, 1)), peak_score=0.04, floor=0.05)


def test_the_peak_does_not_matter_beside_a_box():
    assert score_image([[0.6]], peak_score=0.0, floor=0.1) == score_image(
        [[0.6]], peak_score=1.0, floor=0.1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 0.0}, "floor"),
        ({"floor": 1.0}, "floor"),
        ({"floor": math.nan}, "floor"),
        ({"peak_score": -0.1}, "peak_score"),
        ({"peak_score": 1.1}, "peak_score"),
        ({"peak_score": math.nan}, "peak_score"),
        ({"aggregation": "worst"}, "worst"),
        ({"k": 0}, "k must"),
    ],
)
@pytest.mark.parametrize("scores", [np.empty((0, 2)), [[0.5, 0.5]]])
def test_an_image_that_cannot_be_scored_is_refused(scores, options, message):
    with pytest.raises(ScoreError, match=message):
        score_image(scores, **{"peak_score": 0.5, "floor": 0.1, **options})


# Combination


def test_each_measure_is_a_strategy_with_a_weight():
    assert list(MEASURES) == list(DEFAULT_WEIGHTS)
    assert MEASURES.keys() <= STRATEGIES.keys()


@given(unit)
def test_flip_undoes_itself(value):
    assert flip(flip(value)) == pytest.approx(value, abs=1e-15)
    assert flip(np.array([value])).tolist() == [flip(value)]


def test_combine_by_hand():
    scores = {"entropy": np.array([0.0, 1.0, 0.5]), "margin_sampling": np.array([1.0, 1.0, 0.0])}
    assert combine(scores, {"entropy": 1, "margin_sampling": 3}) == pytest.approx(
        [0.75, 1.0, 0.125]
    )
    assert combine(scores, {"entropy": 1}).tolist() == [0.0, 1.0, 0.5]
    assert combine(scores, {"entropy": 1, "margin_sampling": 0}).tolist() == [0.0, 1.0, 0.5]
    assert combine({"entropy": []}, {"entropy": 1}).shape == (0,)


def test_the_combination_stays_in_range_whatever_the_weights():
    certain = {name: np.ones(1) for name in MEASURES}
    # Shares that add up to a little more than 1, and weights whose sum overflows.
    for weights in ([1, 1, 7], [1.7e308, 1.7e308, 1.7e308], [5e-324, 5e-324, 0]):
        combined = combine(certain, dict(zip(MEASURES, weights, strict=True)))
        assert combined.tolist() == [1.0]


weighted = st.dictionaries(
    measures, st.one_of(st.just(0.0), st.floats(1e-3, 1e300)), min_size=1
).filter(lambda weights: any(weights.values()))


@given(hnp.arrays(np.float64, (3, 6), elements=unit), weighted, st.permutations(range(6)))
def test_the_combination_is_a_mean_of_each_image(columns, weights, shuffled):
    scores = dict(zip(MEASURES, columns, strict=True))
    combined = combine(scores, weights)
    counting = np.array([scores[name] for name, weight in weights.items() if weight > 0])
    assert (combined >= counting.min(axis=0) - 1e-12).all()
    assert (combined <= counting.max(axis=0) + 1e-12).all()
    assert ((combined >= 0) & (combined <= 1)).all()
    moved = combine({name: column[shuffled] for name, column in scores.items()}, weights)
    assert moved.tolist() == combined[shuffled].tolist()
    doubled = combine(scores, {name: weight * 2 for name, weight in weights.items()})
    assert doubled == pytest.approx(combined)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"entropi": 1.0}, "unknown score 'entropi': use one of entropy"),
        ({"entropy": -1.0}, "'entropy' must be finite and at least 0"),
        ({"entropy": math.nan}, "'entropy' must be finite"),
        ({"entropy": math.inf}, "'entropy' must be finite"),
        ({"entropy": 0.0}, "every weight is 0"),
        ({}, "every weight is 0"),
    ],
)
def test_weights_that_make_no_mean_are_refused(weights, message):
    with pytest.raises(ScoreError, match=message):
        combine({"entropy": [0.5]}, weights)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"entropy": [0.5, math.nan]}, "'entropy'.*NaN"),
        ({"entropy": [1.5]}, "'entropy'"),
        ({"entropy": [[0.5]]}, "'entropy' must have shape"),
        ({"entropy": [0.5], "margin_sampling": [0.5, 0.5]}, "one number per image"),
    ],
)
def test_scores_that_cannot_be_combined_are_refused(scores, message):
    with pytest.raises(ScoreError, match=message):
        combine(scores, {"entropy": 1.0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1.0, 1.0, 1.0]),
        ("  ", [1.0, 1.0, 1.0]),
        ("entropy=2", [0.0, 0.0, 2.0]),
        ("lowest_confidence=1,entropy=2", [1.0, 0.0, 2.0]),
        (" entropy = 1e-1 , margin_sampling=0 ", [0.0, 0.0, 0.1]),
    ],
)
def test_weights_are_read_from_text(text, expected):
    assert parse_weights(text) == dict(zip(MEASURES, expected, strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entropy", "'entropy' is not of the form name=number"),
        ("entropy=1,", "'' is not of the form"),
        ("entropy:1", "name=number"),
        ("entropy=much", "'entropy' must be a number, not 'much'"),
        ("entropy=", "must be a number"),
        ("entropy=nan", "finite"),
        ("entropy=-1", "at least 0"),
        ("entropy=0", "every weight is 0: give at least one of lowest_confidence"),
        ("entropy=1,entropy=2", "given twice"),
        ("chance=1", "'chance': use one of lowest_confidence, margin_sampling, entropy"),
    ],
)
def test_text_that_holds_no_weights_is_refused(text, message):
    with pytest.raises(ScoreError, match=message) as refusal:
        parse_weights(text)
    assert "\n" not in str(refusal.value)


@given(weighted)
def test_written_weights_are_read_back(weights):
    text = ",".join(f"{name}={weight!r}" for name, weight in weights.items())
    assert parse_weights(text) == {name: weights.get(name, 0.0) for name in MEASURES}
