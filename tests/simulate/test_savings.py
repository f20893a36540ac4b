"""Savings by hand, censored readings, and how often the intervals hold a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.errors import ScoreError
from backend.simulate.savings import (
    Bounds,
    Curve,
    Saving,
    claim,
    difference,
    isotonic,
    needed,
    saving,
)

INF = math.inf
EVEN = [0.2, 0.4, 0.6, 0.8]


def curve(quality, cost=None):
    cost = [100 * (i + 1) for i in range(len(quality))] if cost is None else cost
    return Curve(np.array(cost, dtype=float), np.array(quality, dtype=float))


def approx(bounds):
    """Bounds by hand: a pair, or one figure that is known."""
    low, high = bounds if isinstance(bounds, tuple) else (bounds, bounds)
    return (pytest.approx(low), pytest.approx(high))


def ends(bounds):
    return (bounds.low, bounds.high)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([0.3], [0.3]),
        ([1, 2, 3], [1, 2, 3]),
        ([3, 2, 1], [2, 2, 2]),
        # 5 and 1 pool to 3, which lies below 4: all three pool to 10/3.
        ([4, 5, 1, 6], [10 / 3, 10 / 3, 10 / 3, 6]),
    ],
)
def test_isotonic_by_hand(values, expected):
    assert isotonic(np.array(values, dtype=float)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cost", "quality"),
    [
        ([], []),
        ([100, 200], [0.5]),
        ([0, 100], [0.1, 0.5]),
        ([200, 100], [0.1, 0.5]),
        ([100, 200], [0.1, math.nan]),
        ([100, INF], [0.1, 0.5]),
    ],
)
def test_what_is_no_curve_is_refused(cost, quality):
    with pytest.raises(ScoreError):
        curve(quality, cost)


@pytest.mark.parametrize(
    ("quality", "target", "expected"),
    [
        ([0.5], 0.4, (0, 100)),
        ([0.5], 0.5, 100),
        ([0.5], 0.6, (100, INF)),
        (EVEN, 0.1, (0, 100)),
        (EVEN, 0.2, 100),
        (EVEN, 0.5, 250),
        (EVEN, 0.8, 400),
        (EVEN, 0.81, (400, INF)),
        # The lucky second round does not count as there: it pools to 0.5 with the third.
        ([0.2, 0.7, 0.3, 0.8], 0.6, 300 + 100 / 3),
        # Nor does a lucky last but one: the curve ends at 0.6.
        ([0.2, 0.7, 0.5], 0.65, (300, INF)),
    ],
)
def test_a_curve_is_read_between_its_rounds(quality, target, expected):
    assert ends(curve(quality).reading(target)) == approx(expected)


def test_rounds_without_a_new_box_have_no_length():
    assert ends(curve([0.2, 0.3, 0.6], [100, 100, 200]).reading(0.45)) == approx(150)
    assert curve([0.2, 0.4, 0.6], [100, 100, 200]).mean(100, 200) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (100, 400, 0.5),
        (150, 250, 0.4),
        (210, 220, 0.43),
        (300, 400, 0.7),
    ],
)
def test_the_mean_of_a_curve_is_its_area_over_its_width(low, high, expected):
    assert curve(EVEN).mean(low, high) == pytest.approx(expected)


def line(cost_at_half):
    """Rises evenly from 0.1 at 10 to 0.9, through 0.5 at the given cost."""
    return curve([0.1, 0.9], [10, 2 * cost_at_half - 10])


def test_a_saving_by_hand():
    # Ratios 2 and 8: geometric mean 4. Logs ln 2 and ln 8 have sd ln 4 / sqrt 2, so the half
    # width is 12.706 * ln 4 / 2, with one degree of freedom.
    arm, random = {0: line(100), 1: line(100)}, {0: line(200), 1: line(800)}
    found = saving(arm, random, 0.5)
    half = 12.706 * math.log(4) / 2
    assert ends(found.ratio) == approx(4.0)
    assert found.interval.low == pytest.approx(4 * math.exp(-half), rel=1e-3)
    assert found.interval.high == pytest.approx(4 * math.exp(half), rel=1e-3)
    assert needed(random, 0.5).cost == Bounds(pytest.approx(400), pytest.approx(400))
    assert (needed(random, 0.5).reached, needed(random, 0.5).seeds) == (2, 2)


@pytest.mark.parametrize(
    ("random", "arm", "target", "ratio", "interval"),
    [
        # Random ends at 400 without it, in one seed and in both: a lower bound of 4 and of 2.
        ([[0.1, 0.3], [0.1, 0.3]], [[0.1, 0.9], [0.1, 0.9]], 0.5, (200 / 150, INF), (4 / 3, INF)),
        ([[0.1, 0.9], [0.1, 0.3]], [[0.1, 0.9], [0.1, 0.9]], 0.5, (8 / 6, INF), None),
        # The arm ends without it: an upper bound.
        ([[0.1, 0.9], [0.1, 0.9]], [[0.1, 0.3], [0.1, 0.3]], 0.5, (0, 3 / 4), (0, 3 / 4)),
        # Neither gets there; both begin above it: nothing is known.
        ([[0.1, 0.3], [0.1, 0.3]], [[0.1, 0.3], [0.1, 0.3]], 0.5, (0, INF), (0, INF)),
        ([[0.6, 0.9], [0.6, 0.9]], [[0.6, 0.9], [0.6, 0.9]], 0.5, (0, INF), (0, INF)),
        # One seed of each side is censored.
        ([[0.1, 0.3], [0.1, 0.9]], [[0.1, 0.9], [0.1, 0.3]], 0.5, (0, INF), (0, INF)),
        # The arm begins above the target: it needs at most 100, so it saves at least 1.5x.
        ([[0.1, 0.9], [0.1, 0.9]], [[0.6, 0.9], [0.6, 0.9]], 0.5, (1.5, INF), (1.5, INF)),
        # Random begins above it: the arm saves at most 100 / 150.
        ([[0.6, 0.9], [0.6, 0.9]], [[0.1, 0.9], [0.1, 0.9]], 0.5, (0, 2 / 3), (0, 2 / 3)),
    ],
)
def test_what_is_censored_gives_a_bound(random, arm, target, ratio, interval):
    found = saving(
        {seed: curve(q) for seed, q in enumerate(arm)},
        {seed: curve(q) for seed, q in enumerate(random)},
        target,
    )
    if interval is not None:
        assert ends(found.ratio) == approx(ratio)
        assert ends(found.interval) == approx(interval)
    else:
        # Ratios of 1 and of at least 4/3: the mean is at least their root, the interval reaches
        # below 1, and nothing limits it above.
        assert ends(found.ratio) == approx((math.sqrt(4 / 3), INF))
        assert 0 < found.interval.low < 1
        assert found.interval.high == INF


def test_what_was_not_reached_is_counted():
    need = needed({0: curve([0.1, 0.9]), 1: curve([0.1, 0.3])}, 0.5)
    assert (need.reached, need.seeds) == (1, 2)
    assert ends(need.cost) == approx((math.sqrt(150 * 200), INF))


def test_only_seeds_that_both_have_are_paired():
    arm = {1: line(100), 2: line(100), 7: line(20)}
    random = {2: line(200), 1: line(200), 5: line(9000)}
    found = saving(arm, random, 0.5)
    assert ends(found.ratio) == approx(2.0)
    assert found.seeds == 2


def test_the_order_of_seeds_does_not_matter():
    rng = np.random.default_rng(3)
    arm = {seed: line(100 * rng.uniform(1, 2)) for seed in range(5)}
    random = {seed: line(200 * rng.uniform(1, 2)) for seed in range(5)}
    backwards = saving(dict(reversed(arm.items())), dict(reversed(random.items())), 0.5)
    assert saving(arm, random, 0.5) == backwards


@pytest.mark.parametrize("seeds", [0, 1])
def test_fewer_than_two_seeds_give_no_interval_and_no_claim(seeds):
    found = saving({s: line(100) for s in range(seeds)}, {s: line(900) for s in range(seeds)}, 0.5)
    assert found.interval == Bounds(0, INF)
    assert found.seeds == seeds
    assert claim(found) == "none"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, INF, "none"),
        (0.99, 1.4, "none"),
        (0.4, 0.99, "worse"),
        (1, 1, "at least as good"),
        (1.09, 9, "at least as good"),
        (1.1, 9, "1.1x"),
        (1.999, INF, "1.9x"),
        (2, 2.5, "2x"),
        (3.29, INF, "3.2x"),
    ],
)
def test_no_more_is_claimed_than_the_lower_end(low, high, expected):
    assert claim(Saving(Bounds(9, 9), Bounds(low, high), 5)) == expected


def test_a_difference_by_hand():
    # Gaps 0.1 and 0.3; the seed that random lacks counts for the value only.
    found = difference({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.4})
    assert found.value == pytest.approx(0.7)
    assert found.difference == pytest.approx(0.2)
    assert found.high - 0.2 == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert (found.seeds, found.low) == (2, pytest.approx(0.4 - found.high))
    assert difference({3: 0.5}, {4: 0.5}).difference is None


# Learning curves of a known saving. Seeds differ in how fast they learn, rounds are noisy.

PLATEAU = 0.8
COSTS = np.arange(50.0, 2100.0, 100.0)


def noisy_run(rng, speed, costs=COSTS):
    pace = speed * math.exp(rng.normal(0, 0.08))
    clean = PLATEAU * (1 - np.exp(-((costs * pace / 250) ** 0.7)))
    return Curve(costs, clean + rng.normal(0, 0.01, len(costs)))


def share_that_holds(truth, *, seeds, share, repeats=400, last=None):
    """How often the interval's lower end lies below the truth, and its upper end above it."""
    rng = np.random.default_rng(20)
    held = []
    for _ in range(repeats):
        random = {seed: noisy_run(rng, 1.0, COSTS[:last]) for seed in range(seeds)}
        arm = {seed: noisy_run(rng, truth) for seed in range(seeds)}
        interval = saving(arm, random, share * PLATEAU).interval
        held.append((interval.low <= truth, truth <= interval.high))
    return np.array(held)


@pytest.mark.parametrize("truth", [1.0, 2.0])
@pytest.mark.parametrize("share", [0.7, 0.9])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(truth, share, seeds):
    held = share_that_holds(truth, seeds=seeds, share=share).all(axis=1).mean()
    # 0.95 within three standard errors of 400 repeats. Percentiles of a bootstrap over the
    # seeds would give 0.65 to 0.87.
    assert 0.917 < held < 0.983


@pytest.mark.parametrize("last", [5, 8, 10, 12])
def test_the_lower_end_holds_where_random_did_not_always_get_there(last):
    # Random reaches 90% at about 820: never, rarely, often and mostly before it ends.
    held = share_that_holds(2.0, seeds=3, share=0.9, last=last)
    assert held[:, 0].mean() > 0.95


def test_an_arm_equal_to_random_saves_nothing():
    rng = np.random.default_rng(1)
    random = {seed: noisy_run(rng, 1.0) for seed in range(5)}
    again = {seed: noisy_run(rng, 1.0) for seed in range(5)}
    found = saving(again, random, 0.9 * PLATEAU)
    assert found.interval.low < 1 < found.interval.high
    assert ends(saving(random, random, 0.9 * PLATEAU).interval) == approx(1.0)
