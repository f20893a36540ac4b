"""Average precision against hand-made cases and Ultralytics, and intervals against the truth."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ScoreError
from backend.training import quality
from backend.training.matching import (
    IOU_THRESHOLDS,
    Boxes,
    ImageMatches,
    Predictions,
    iou,
    match_image,
)
from backend.training.quality import Interval, Quality, compare, measure

forty = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)

LEFT, MIDDLE, RIGHT = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NOWHERE = [80, 80, 90, 90]


def matches_of(predicted, truth):
    """`predicted`: (box, class, confidence) and `truth`: (box, class), of one image."""
    return match_image(
        Predictions(
            xyxy=np.array([box for box, _, _ in predicted], dtype=float),
            class_ids=np.array([name for _, name, _ in predicted], dtype=int),
            confidence=np.array([confidence for _, _, confidence in predicted]),
        ),
        Boxes(
            xyxy=np.array([box for box, _ in truth], dtype=float),
            class_ids=np.array([name for _, name in truth], dtype=int),
        ),
    )


def random_boxes(rng, count, *, around=None):
    """`count` boxes, about half of them near one of `around`."""
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 40, (count, 2))])
    if around is not None and len(around):
        near = rng.random(count) < 0.6
        chosen = rng.integers(len(around), size=count)
        boxes[near] = (around[chosen] + rng.normal(0, 2, (count, 4)))[near]
    return boxes


def random_image(rng, *, classes, boxes=6):
    truth = Boxes(
        random_boxes(rng, count := int(rng.integers(boxes))), rng.integers(classes, size=count)
    )
    found = int(rng.integers(3 * boxes))
    predictions = Predictions(
        random_boxes(rng, found, around=truth.xyxy),
        rng.integers(classes, size=found),
        rng.random(found),
    )
    return predictions, truth


def random_matches(rng, *, images, classes):
    """Matches of random images, one of which surely has a box of class 0."""
    sure = matches_of([(LEFT, 0, 0.5)], [(LEFT, 0), (RIGHT, 0)])
    some = [match_image(*random_image(rng, classes=classes)) for _ in range(images - 1)]
    return [*some, sure]


def simulated(rng, *, images, skills):
    """Matches of detectors with `skills` (0..1) on the same images, one list for each.

    Images differ in difficulty, and a detector is surer of a box that fits better.
    """
    detectors: list[list[ImageMatches]] = [[] for _ in skills]
    for _ in range(images):
        truth = rng.integers(2, size=int(rng.integers(1, 6)))
        size = len(truth)
        hard, luck = rng.random(), rng.random(size)
        fit, sureness = rng.integers(1, 11, size=size), rng.beta(4, 2, size)
        for matches, skill in zip(detectors, skills, strict=True):
            seen = luck > (1 - skill) * (hard + 0.2)
            false = rng.integers(2, size=int(rng.integers(4)))
            hits = np.arange(10) < fit[seen, None]
            sure = np.clip(sureness / 2 + fit / 20 + rng.normal(0, 0.05, size), 0, 1)[seen]
            matches.append(
                ImageMatches(
                    true_positive=np.vstack([hits, np.zeros((len(false), 10), dtype=bool)]),
                    confidence=np.append(sure, rng.beta(2, 4, len(false))),
                    class_ids=np.append(truth[seen], false),
                    truth_class_ids=truth,
                )
            )
    return detectors


def ultralytics_ap(matches):
    """(classes with truth,), (classes with truth, 10): ids and AP by Ultralytics."""
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    from ultralytics.utils.metrics import ap_per_class

    result = ap_per_class(
        np.concatenate([match.true_positive for match in matches]),
        np.concatenate([match.confidence for match in matches]),
        np.concatenate([match.class_ids for match in matches]),
        np.concatenate([match.truth_class_ids for match in matches]),
    )
    return result[6], result[5]


# Matching


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([], [], np.zeros((0, 0))),
        ([], [LEFT], np.zeros((0, 1))),
        ([LEFT], [], np.zeros((1, 0))),
        ([LEFT], [LEFT, RIGHT], [[1, 0]]),
        ([[0, 0, 10, 10]], [[5, 0, 15, 10]], [[1 / 3]]),
        ([[0, 0, 10, 10]], [[10, 0, 20, 10]], [[0]]),
        ([[5, 5, 5, 5]], [[5, 5, 5, 5]], [[0]]),
        ([[9, 9, 1, 1]], [[0, 0, 10, 10]], [[0]]),
    ],
)
def test_iou(a, b, expected):
    a, b = (np.array(boxes, dtype=float).reshape(-1, 4) for boxes in (a, b))
    np.testing.assert_allclose(iou(a, b), expected)


@pytest.mark.parametrize(
    ("predicted", "truth", "hit"),
    [
        ([], [], []),
        ([], [(LEFT, 0)], []),
        ([(LEFT, 0, 0.9)], [], [False]),
        ([(LEFT, 0, 0.9)], [(LEFT, 0)], [True]),
        ([(LEFT, 1, 0.9)], [(LEFT, 0)], [False]),
        ([(NOWHERE, 0, 0.9)], [(LEFT, 0)], [False]),
        # The surer of two boxes on one object takes it, even where the other fits better.
        ([(LEFT, 0, 0.8), ([0, 0, 10, 6], 0, 0.9)], [(LEFT, 0)], [True, False]),
        # One box on two objects takes the nearer; the other is left for the next box.
        (
            [([0, 0, 10, 9], 0, 0.9), ([0, 0, 10, 8], 0, 0.8)],
            [([0, 0, 10, 7], 0), (LEFT, 0)],
            [True, True],
        ),
    ],
)
def test_hits_at_half_overlap(predicted, truth, hit):
    matches = matches_of(predicted, truth)
    assert matches.true_positive[:, 0].tolist() == hit
    assert matches.confidence.tolist() == sorted((p[2] for p in predicted), reverse=True)


@pytest.mark.parametrize("height", range(5, 11))
def test_an_overlap_that_equals_a_threshold_reaches_it(height):
    matches = matches_of([([0, 0, 10, height], 0, 0.9)], [(LEFT, 0)])
    reached = IOU_THRESHOLDS[matches.true_positive[0]]
    assert reached.max() == min(height / 10, 0.95)


def test_each_threshold_is_matched_by_itself():
    # The surer box claims the first object at 0.50 to 0.60, and nothing above.
    matches = matches_of([([0, 0, 10, 6], 0, 0.9), (LEFT, 0, 0.8)], [(LEFT, 0)])
    assert matches.true_positive[0].tolist() == [True] * 3 + [False] * 7
    assert matches.true_positive[1].tolist() == [False] * 3 + [True] * 7


def test_only_the_three_hundred_most_confident_boxes_count():
    predicted = [(NOWHERE, 0, 0.5)] * 299 + [(LEFT, 0, 0.4), (RIGHT, 0, 0.3)]
    matches = matches_of(predicted, [(LEFT, 0), (RIGHT, 0)])
    assert len(matches.confidence) == 300
    assert matches.true_positive[:, 0].sum() == 1


@forty
@given(seeds)
def test_matches_are_those_of_ultralytics(seed):
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    import torch
    from ultralytics.engine.validator import BaseValidator

    predictions, truth = random_image(np.random.default_rng(seed), classes=2, boxes=12)
    order = np.argsort(-predictions.confidence)
    expected = BaseValidator.match_predictions(
        SimpleNamespace(iouv=torch.linspace(0.5, 0.95, 10)),
        torch.tensor(predictions.class_ids[order]),
        torch.tensor(truth.class_ids),
        torch.tensor(iou(truth.xyxy, predictions.xyxy[order])),
    )
    matches = match_image(predictions, truth)
    np.testing.assert_array_equal(matches.true_positive, expected.numpy())


@pytest.mark.parametrize(
    ("xyxy", "class_ids", "confidence", "complaint"),
    [
        (np.zeros((1, 3)), [0], [0.5], "shape"),
        ([LEFT], [], [0.5], "class ids"),
        ([[0, 0, np.nan, 1]], [0], [0.5], "NaN"),
        ([LEFT], [-1], [0.5], "begin at 0"),
        ([LEFT], [0], [], "confidences"),
        ([LEFT], [0], [np.nan], "0..1"),
    ],
)
def test_malformed_boxes_are_refused(xyxy, class_ids, confidence, complaint):
    with pytest.raises(ScoreError, match=complaint):
        Predictions(np.array(xyxy), np.array(class_ids), np.array(confidence))


# Average precision. Levels: of the 101 recall levels the first counts half and the last nothing,
# so that a precision of 1 up to recall r is worth (ceil(100 r) - 0.5) / 100.


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ([], [(LEFT, 0)], 0),
        ([(NOWHERE, 0, 0.9)], [(LEFT, 0)], 0),
        ([(LEFT, 1, 0.9)], [(LEFT, 0)], 0),
        ([(LEFT, 0, 0.9)], [(LEFT, 0)], 0.995),
        ([(LEFT, 0, 0.9)], [(LEFT, 0), (RIGHT, 0)], 0.495),
        # A false positive before the hit, after it, and as sure as it.
        ([(NOWHERE, 0, 0.9), (LEFT, 0, 0.8)], [(LEFT, 0)], 0.995 / 2),
        ([(LEFT, 0, 0.9), (NOWHERE, 0, 0.8)], [(LEFT, 0)], 0.995),
        ([(LEFT, 0, 0.9), (NOWHERE, 0, 0.9)], [(LEFT, 0)], 0.995 / 2),
        ([(NOWHERE, 0, 0.9), (LEFT, 0, 0.9)], [(LEFT, 0)], 0.995 / 2),
        # A second box on the same object is a false positive.
        ([(LEFT, 0, 0.9), (LEFT, 0, 0.8)], [(LEFT, 0)], 0.995),
        (
            [(LEFT, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.7)],
            [(LEFT, 0), (RIGHT, 0)],
            0.495 + 0.5 * 2 / 3,
        ),
        # The envelope: precision 1/2 at the first hit, 2/3 at the second, which also lifts it.
        (
            [(NOWHERE, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.7)],
            [(LEFT, 0), (RIGHT, 0)],
            0.995 * 2 / 3,
        ),
    ],
)
def test_average_precision_by_hand(predicted, truth, expected):
    found = measure([matches_of(predicted, truth)], ["cell", "other"], resamples=1)
    assert found.per_class["cell"].value == pytest.approx(expected)
    assert found.per_class["other"] is None
    assert found.map50.value == pytest.approx(expected)
    assert found.boxes == len(truth)


def test_the_mean_is_over_classes_with_truth_and_over_thresholds():
    fits_to_0_70 = ([20, 0, 30, 7], 1, 0.9)
    predicted = [(LEFT, 0, 0.9), fits_to_0_70, (NOWHERE, 3, 0.9)]
    truth = [(LEFT, 0), (MIDDLE, 1), (RIGHT, 2)]
    found = measure([matches_of(predicted, truth)], list("abcd"), resamples=1)
    assert found.map50.value == pytest.approx((0.995 + 0.995 + 0) / 3)
    assert found.map50_95.value == pytest.approx((0.995 + 0.995 * 5 / 10 + 0) / 3)
    assert found.per_class["c"].value == 0
    assert found.per_class["d"] is None


@forty
@given(seeds, st.integers(1, 40), st.integers(1, 4))
def test_values_are_those_of_ultralytics(seed, images, classes):
    matches = random_matches(np.random.default_rng(seed), images=images, classes=classes)
    names = [f"class {c}" for c in range(classes)]
    found = measure(matches, names, resamples=1)
    ids, ap = ultralytics_ap(matches)
    assert found.map50.value == pytest.approx(ap[:, 0].mean(), abs=1e-9)
    assert found.map50_95.value == pytest.approx(ap.mean(), abs=1e-9)
    values = {name: interval.value for name, interval in found.per_class.items() if interval}
    assert values == pytest.approx(
        {names[c]: ap50 for c, ap50 in zip(ids, ap[:, 0], strict=True)}, abs=1e-9
    )


@pytest.mark.parametrize("boxes", [10, 25, 50, 100, 300])
def test_recalls_that_meet_a_level_count_as_in_ultralytics(boxes):
    rng = np.random.default_rng(boxes)
    hit = rng.random(2 * boxes) < 0.45
    matches = ImageMatches(
        true_positive=np.repeat(hit[:, None], 10, axis=1),
        confidence=rng.permutation(2 * boxes) / (2 * boxes),
        class_ids=np.zeros(2 * boxes, dtype=int),
        truth_class_ids=np.zeros(max(boxes, hit.sum()), dtype=int),
    )
    found = measure([matches], ["cell"], resamples=1)
    assert found.map50.value == pytest.approx(ultralytics_ap([matches])[1][0, 0], abs=1e-9)


@forty
@given(seeds)
def test_values_do_not_depend_on_the_order_of_images(seed):
    rng = np.random.default_rng(seed)
    coarse = [
        ImageMatches(
            match.true_positive,
            np.round(match.confidence, 1),
            match.class_ids,
            match.truth_class_ids,
        )
        for match in random_matches(rng, images=12, classes=2)
    ]
    shuffled = [coarse[i] for i in rng.permutation(12)]
    one, other = (measure(some, ["a", "b"], resamples=1) for some in (coarse, shuffled))
    assert one.map50.value == pytest.approx(other.map50.value, abs=1e-12)
    assert one.map50_95.value == pytest.approx(other.map50_95.value, abs=1e-12)


# Intervals


@forty
@given(seeds, st.integers(2, 12))
def test_a_resample_is_worth_what_ultralytics_says_of_the_images_drawn(seed, images):
    matches = random_matches(np.random.default_rng(seed), images=images, classes=3)
    drawn = np.random.default_rng(seed).integers(images, size=images)
    found = measure(matches, ["a", "b", "c"], resamples=1, seed=seed)
    ids, ap = ultralytics_ap([matches[i] for i in drawn])
    with_truth = sum(len(match.truth_class_ids) > 0 for match in matches)
    if len(ids) == 0 or with_truth < 2:
        assert (found.map50.low, found.map50.high) == (0, 1)
        return
    # Of a single resample each percentile is its value.
    assert found.map50.low == pytest.approx(ap[:, 0].mean(), abs=1e-9)
    assert found.map50.high == pytest.approx(ap[:, 0].mean(), abs=1e-9)
    assert found.map50_95.low == pytest.approx(ap.mean(), abs=1e-9)


def test_an_interval_is_the_percentiles_of_the_resamples():
    matches = random_matches(np.random.default_rng(3), images=9, classes=2)
    rng = np.random.default_rng(11)
    values = []
    for _ in range(60):
        _, ap = ultralytics_ap([matches[i] for i in rng.integers(9, size=9)])
        values.append(ap[:, 0].mean())
    found = measure(matches, ["a", "b"], resamples=60, seed=11, level=0.8).map50
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.1, 0.9]))


def test_intervals_do_not_depend_on_the_size_of_a_block(monkeypatch):
    matches = random_matches(np.random.default_rng(5), images=20, classes=3)
    whole = measure(matches, ["a", "b", "c"], resamples=50)
    monkeypatch.setattr(quality, "BLOCK", 7)
    assert measure(matches, ["a", "b", "c"], resamples=50) == whole


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    [many] = simulated(np.random.default_rng(1), images=20_000, skills=[0.6])
    truth = measure(many, ["a", "b"], resamples=1)
    rng = np.random.default_rng(2)
    held = np.zeros(2)
    for seed in range(150):
        [few] = simulated(rng, images=60, skills=[0.6])
        found = measure(few, ["a", "b"], resamples=200, seed=seed, level=0.8)
        held += [
            found.map50.low <= truth.map50.value <= found.map50.high,
            found.map50_95.low <= truth.map50_95.value <= found.map50_95.high,
        ]
    # Three standard errors of 150 draws at 0.8 are 0.1.
    assert held / 150 == pytest.approx([0.8, 0.8], abs=0.1)


def test_more_images_narrow_the_interval_and_a_higher_level_widens_it():
    [matches] = simulated(np.random.default_rng(0), images=320, skills=[0.6])

    def width(some, level):
        interval = measure(some, ["a", "b"], resamples=400, level=level).map50
        return interval.high - interval.low

    assert width(matches, 0.95) < 0.7 * width(matches[:80], 0.95)
    assert width(matches, 0.8) < 0.8 * width(matches, 0.95)


def test_one_image_with_truth_says_nothing_of_others():
    with_truth = matches_of([(LEFT, 0, 0.9)], [(LEFT, 0)])
    without = matches_of([(LEFT, 0, 0.95)], [])
    found = measure([with_truth, without, without], ["a", "b"])
    assert found.map50 == Interval(pytest.approx(0.995 / 3), 0, 1)
    assert found.per_class["a"] == found.map50
    assert compare([with_truth], [with_truth], ["a", "b"]) == Interval(0, -1, 1)


def test_images_without_truth_count_by_their_false_positives():
    with_truth = matches_of([(LEFT, 0, 0.9)], [(LEFT, 0)])
    without = matches_of([(LEFT, 0, 0.95)], [])
    found = measure([with_truth, with_truth, without], ["a"], resamples=300)
    assert found.map50.value == pytest.approx(0.995 * 2 / 3)
    assert 0 <= found.map50.low < found.map50.value < found.map50.high <= 0.995
    assert (found.images, found.boxes) == (3, 2)


def test_a_class_without_truth_in_a_resample_drops_out_of_its_mean():
    common = matches_of([(LEFT, 0, 0.9)], [(LEFT, 0)])
    rare = matches_of([(NOWHERE, 1, 0.9)], [(LEFT, 1)])
    found = measure([common] * 4 + [rare], ["common", "rare"], resamples=300)
    assert found.map50.value == pytest.approx(0.995 / 2)
    assert found.map50.high == pytest.approx(0.995)  # resamples without the rare one


@pytest.mark.parametrize(
    ("matches", "names", "complaint"),
    [
        ([], ["a"], "none of the 0 images"),
        ([matches_of([], [])], ["a"], "none of the 1 images"),
        ([matches_of([(LEFT, 0, 0.9)], [])], ["a"], "none of the 1 images"),
        ([matches_of([], [(LEFT, 1)])], ["a"], "class id 1"),
        ([matches_of([(LEFT, 2, 0.9)], [(LEFT, 1)])], ["a", "b"], "class id 2"),
        ([matches_of([], [(LEFT, 1)])], ["a", "a"], "must differ"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(matches, names, complaint):
    with pytest.raises(ScoreError, match=complaint):
        measure(matches, names)
    with pytest.raises(ScoreError, match=complaint):
        compare(matches, matches, names)


def test_a_quality_survives_json():
    found = measure(
        [matches_of([(LEFT, 0, 0.9)], [(LEFT, 0)])] * 3, ["cell", "unseen"], resamples=20
    )
    assert Quality.from_json(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize("data", [{}, {"map50": 3}, {"map50": {"value": 1}}])
def test_json_that_is_no_quality_is_refused(data):
    with pytest.raises(ScoreError, match="evaluate again"):
        Quality.from_json(data)


# Comparison


@pytest.mark.parametrize("metric", ["map50", "map50_95"])
def test_a_model_equals_itself(metric):
    matches = random_matches(np.random.default_rng(8), images=20, classes=3)
    found = compare(matches, matches, ["a", "b", "c"], metric=metric, resamples=100)
    assert found == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("metric", ["map50", "map50_95"])
def test_a_better_model_is_above_zero_and_the_other_way_round_below(metric):
    good, poor = simulated(np.random.default_rng(4), images=80, skills=[0.8, 0.5])
    better = compare(good, poor, ["a", "b"], metric=metric, resamples=300)
    assert 0 < better.low < better.value < better.high
    worse = compare(poor, good, ["a", "b"], metric=metric, resamples=300)
    assert [worse.value, worse.low, worse.high] == pytest.approx(
        [-better.value, -better.high, -better.low]
    )
    evaluated = [getattr(measure(some, ["a", "b"], resamples=1), metric) for some in (good, poor)]
    assert better.value == pytest.approx(evaluated[0].value - evaluated[1].value)


def test_a_pair_tells_apart_what_two_intervals_do_not():
    good, poor = simulated(np.random.default_rng(9), images=100, skills=[0.65, 0.54])
    alone = [measure(some, ["a", "b"], resamples=300).map50 for some in (good, poor)]
    assert alone[0].low < alone[1].high
    assert compare(good, poor, ["a", "b"], resamples=300).low > 0


def test_models_judged_on_different_images_cannot_be_compared():
    one, other = (matches_of([], [(LEFT, name)]) for name in (0, 1))
    for mixed in ([other, one], [one], [one, one]):
        with pytest.raises(ScoreError, match="same images"):
            compare([one, other], mixed, ["a", "b"])
