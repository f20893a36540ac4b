"""Agreement of two detectors, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.training.agreement import kappa
from backend.training.matching import Boxes

LEFT, MIDDLE, RIGHT = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def boxes(*seen):
    """`seen`: (box, class)."""
    return Boxes(
        np.array([box for box, _ in seen], dtype=float), np.array([c for _, c in seen], dtype=int)
    )


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], 1),
        ([(boxes(), boxes())], 1),
        ([(boxes((LEFT, 0)), boxes((LEFT, 0)))], 1),
        ([(boxes((LEFT, 0), (RIGHT, 1)), boxes((RIGHT, 1), (LEFT, 0)))], 1),
        # One sees what the other does not: chance agreement of (1, 0) with (0, 1) is 0.
        ([(boxes((LEFT, 0)), boxes())], 0),
        ([(boxes(), boxes((LEFT, 0)))], 0),
        # Always the other class: observed 0, by chance 1/2 * 1/2 + 1/2 * 1/2.
        ([(boxes((LEFT, 0), (RIGHT, 1)), boxes((LEFT, 1), (RIGHT, 0)))], -1),
        # Different places: (0, background), (background, 0).
        ([(boxes((LEFT, 0)), boxes((RIGHT, 0)))], -1),
        # Items (0, 0), (1, 1), (1, 0), (0, background): observed 1/2;
        # shares 1/2, 1/2, 0 and 1/2, 1/4, 1/4: by chance 3/8.
        (
            [
                (boxes((LEFT, 0), (MIDDLE, 1)), boxes((LEFT, 0), (MIDDLE, 1))),
                (boxes((LEFT, 1), (RIGHT, 0)), boxes((LEFT, 0))),
            ],
            (1 / 2 - 3 / 8) / (1 - 3 / 8),
        ),
    ],
)
def test_kappa_by_hand(pairs, expected):
    assert kappa(pairs) == pytest.approx(expected)
    assert kappa([(second, first) for first, second in pairs]) == pytest.approx(expected)


@pytest.mark.parametrize(("height", "same"), [(4.9, False), (5, True)])
def test_boxes_are_one_object_from_half_overlap_on(height, same):
    found = kappa([(boxes((LEFT, 0)), boxes(([0, 0, 10, height], 0)))])
    assert (found == 1) is same


def test_the_nearest_box_is_the_partner_whatever_its_class():
    # The near box of class 1 is the partner of LEFT; the farther one of class 0 has none:
    # items (0, 1), (background, 0), against (0, 0), (background, 1).
    near, farther = [0, 0, 10, 9], [0, 0, 10, 6]
    assert kappa([(boxes((LEFT, 0)), boxes((farther, 0), (near, 1)))]) < 0
    assert kappa([(boxes((LEFT, 0)), boxes((farther, 1), (near, 0)))]) > 0


def test_a_box_is_partner_of_one_box_only():
    twice = boxes((LEFT, 0), (LEFT, 0))
    assert kappa([(twice, twice)]) == 1
    assert kappa([(twice, boxes((LEFT, 0)))]) < 1


def test_a_place_that_holds_two_classes_agrees_with_itself_in_any_order():
    one, other = boxes((LEFT, 0), (LEFT, 1)), boxes((LEFT, 1), (LEFT, 0))
    assert kappa([(one, other)]) == 1


@given(st.integers(0, 2**32 - 1))
def test_kappa_falls_as_classes_change_and_ignores_the_order_of_boxes(seed):
    rng = np.random.default_rng(seed)
    corner = np.arange(40)[:, None] * [20.0, 0.0]
    xyxy = np.hstack([corner, corner + 10])
    classes = np.arange(40) % 4
    order = rng.permutation(40)
    found = []
    for changed in (0, 10, 20):
        other = classes.copy()
        other[:changed] = (other[:changed] + 1) % 4
        found.append(kappa([(Boxes(xyxy, classes), Boxes(xyxy[order], other[order]))]))
    # Every class stays a quarter of all but for a few boxes, so chance is about 1/4.
    assert found == pytest.approx([1, (0.75 - 0.25) / 0.75, (0.5 - 0.25) / 0.75], abs=0.01)
