"""Several annotators of one image become one set of boxes, by the stated rules."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.label_studio.consensus import Annotation, consensus
from backend.label_studio.regions import Box

DAY = datetime(2025, 3, 1, tzinfo=timezone.utc)


def box(label="cat", left=0.1, top=0.1, right=0.5, bottom=0.5, region_id="r"):
    return Box(region_id, label, (left, top, right, bottom))


# Apart from `box()` and from each other.
ELSEWHERE = box(left=0.6, top=0.6, right=0.9, bottom=0.9)
CORNER = box(left=0.8, top=0.1, right=0.95, bottom=0.3)


def answer(annotator, *boxes, day=None, **fields):
    """By default annotator 2 answers on the second day, and so on."""
    day = annotator if day is None else day
    return Annotation(annotator, boxes, updated_at=DAY + timedelta(days=day or 0), **fields)


@pytest.mark.parametrize("answers", [[], [answer(1, box(), was_cancelled=True)]])
def test_without_an_answer_there_is_nothing_to_learn(answers):
    assert consensus(answers) is None


def test_an_answer_without_boxes_says_that_the_image_shows_nothing():
    assert consensus([answer(1)]) == ()
    assert consensus([answer(1), answer(2, was_cancelled=True)]) == ()


def test_one_answer_stands_as_it_is():
    boxes = (ELSEWHERE, box(), box(), box("dog"))

    assert consensus([answer(1, *boxes)]) == boxes


def test_a_skipped_task_takes_nothing_from_the_other_answers():
    skipped = answer(2, CORNER, was_cancelled=True)

    assert consensus([answer(1, box()), skipped]) == (box(),)
    assert consensus([answer(1, box()), answer(1, day=5, was_cancelled=True)]) == (box(),)


def test_a_ground_truth_counts_alone_and_the_newest_of_several():
    old = answer(1, box(), day=3, ground_truth=True)
    new = answer(2, ELSEWHERE, day=4, ground_truth=True)
    others = [answer(3, CORNER), answer(4, CORNER)]

    assert consensus([*others, old]) == (box(),)
    assert consensus([new, *others, old]) == (ELSEWHERE,)
    skipped = answer(2, ELSEWHERE, day=4, ground_truth=True, was_cancelled=True)
    assert consensus([skipped, *others, old]) == (box(),)


def test_of_one_annotator_the_newest_answer_counts():
    assert consensus([answer(1, box(), day=2), answer(1, ELSEWHERE, day=1)]) == (box(),)
    assert consensus([answer(1, box(), day=1), answer(1, day=2)]) == ()
    undated = Annotation(1, (ELSEWHERE,))
    assert consensus([answer(1, box()), undated]) == (box(),)


def test_answers_by_nobody_known_count_one_by_one():
    unknown = [answer(None, box(), day=day) for day in (1, 2, 3)]

    assert consensus([*unknown, answer(7, ELSEWHERE)]) == (box(),)


def test_a_time_without_a_zone_is_utc():
    naive = Annotation(1, (box(),), updated_at=datetime(2025, 3, 1, 12))
    aware = Annotation(1, (ELSEWHERE,), updated_at=DAY)

    assert consensus([naive, aware]) == (box(),)


@pytest.mark.parametrize(
    ("sightings", "annotators", "stays"),
    [(1, 2, True), (1, 3, False), (2, 3, True), (2, 4, True), (2, 5, False), (3, 5, True)],
)
def test_half_of_the_annotators_are_enough(sightings, annotators, stays):
    answers = [answer(i, *[box()] * (i < sightings)) for i in range(annotators)]

    assert consensus(answers) == ((box(),) if stays else ())


def test_the_merged_box_is_the_median_of_each_side():
    lefts = [0.10, 0.12, 0.05]
    rights = [0.50, 0.40, 0.52]
    answers = [answer(i, box(left=lefts[i], right=rights[i], region_id=f"r{i}")) for i in range(3)]

    assert consensus(answers) == (box(left=0.10, right=0.50, region_id="r0"),)
    (two,) = consensus(answers[:2])
    assert two.xyxy == pytest.approx((0.11, 0.1, 0.45, 0.5))


def test_boxes_that_overlap_less_than_half_are_two_objects():
    more = box(bottom=0.31)  # IoU 0.525
    less = box(bottom=0.29)  # IoU 0.475

    assert len(consensus([answer(1, box()), answer(2, more)])) == 1
    assert len(consensus([answer(1, box()), answer(2, less)])) == 2


def test_two_objects_of_one_annotator_are_never_joined():
    twins = (box(region_id="a"), box(right=0.52, region_id="b"))
    nearer = box(right=0.53)

    both = consensus([answer(1, *twins), answer(2, nearer)])

    assert [found.region_id for found in both] == ["a", "b"]
    assert both[0] == twins[0]  # the other one was the better match
    assert both[1].xyxy[2] == pytest.approx(0.525)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["cat", "dog", "dog"], "dog"),
        (["cat", "dog"], "cat"),  # a tie: the earliest
        (["cow", "dog", "cat", "cat", "dog"], "dog"),  # the earliest of the tied ones
        (["cat", "dog", "cow"], "cat"),  # all saw something here
    ],
)
def test_one_object_with_several_labels_has_the_one_most_annotators_gave(labels, expected):
    answers = [answer(i, box(label)) for i, label in enumerate(labels)]

    assert [found.label for found in consensus(answers)] == [expected]
    assert [found.label for found in consensus(answers[::-1])] == [expected]


def test_the_earliest_answer_is_the_earliest_of_those_that_count():
    """Annotator 1 was first, but has annotated again since; an unknown one came before all."""
    answers = [
        answer(1, box("cow"), day=1),
        answer(None, box("cow"), day=0),
        answer(2, box("dog"), day=2),
        answer(1, box("cat"), day=3),
    ]

    assert [found.label for found in consensus([answers[0], *answers[2:]])] == ["dog"]
    assert [found.label for found in consensus(answers)] == ["cow"]


def test_a_tie_goes_by_time_and_not_by_how_near_the_boxes_are():
    boxes = [box("cow"), box("dog", right=0.52), box("cat"), box("cat"), box("dog", right=0.52)]

    (found,) = consensus([answer(i, one) for i, one in enumerate(boxes)])

    assert found.label == "dog"


def test_the_same_label_is_joined_before_the_nearer_box():
    """One annotator saw a cat on a dog's back: the cats belong together, not a cat and a dog."""
    one = answer(1, box("cat"), box("dog", right=0.55))
    two = answer(2, box("cat", right=0.55), box("dog"))

    found = consensus([one, two])

    assert [merged.label for merged in found] == ["cat", "dog"]
    assert [merged.xyxy[2] for merged in found] == pytest.approx([0.525, 0.525])


corners = st.integers(0, 8).map(lambda value: value / 10)
boxes = st.builds(
    lambda label, x, y, w, h, name: Box(name, label, (x, y, x + w / 10, y + h / 10)),
    st.sampled_from(["cat", "dog"]),
    corners,
    corners,
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from("abc"),
)
answers_of_an_image = st.lists(
    st.builds(
        Annotation,
        st.none() | st.integers(1, 4),
        st.lists(boxes, max_size=4).map(tuple),
        ground_truth=st.sampled_from([False, False, False, True]),
        was_cancelled=st.sampled_from([False, False, False, True]),
        updated_at=st.none() | st.integers(0, 3).map(lambda day: DAY + timedelta(days=day)),
    ),
    max_size=6,
)


@given(answers_of_an_image, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_has_no_influence(answers, random):
    shuffled = answers[:]
    random.shuffle(shuffled)

    assert consensus(shuffled) == consensus(answers)


@given(answers_of_an_image)
def test_merged_boxes_are_boxes_that_somebody_drew_about_there(answers):
    found = consensus(answers)

    given_answers = [one for one in answers if not one.was_cancelled]
    assert (found is None) == (not given_answers)
    drawn = [drawn for one in given_answers for drawn in one.boxes]
    for merged in found or ():
        left, top, right, bottom = merged.xyxy
        assert left < right
        assert top < bottom
        assert merged.label in {one.label for one in drawn}
        for side, value in enumerate(merged.xyxy):
            values = [one.xyxy[side] for one in drawn]
            assert min(values) <= value <= max(values)
