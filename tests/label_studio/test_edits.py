"""What annotators did to the boxes they were shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.label_studio.edits import SAME_SIDE, Edits, compare
from backend.label_studio.label_map import rectangle_controls
from backend.label_studio.regions import Box, read_boxes

BOX = Box("r1", "cat", (0.1, 0.1, 0.5, 0.5))
APART = Box("r2", "cat", (0.6, 0.6, 0.9, 0.9))


def moved(box, right):
    """`box` with its two horizontal sides further right, by a share of the image."""
    left, top, end, bottom = box.xyxy
    return replace(box, xyxy=(left + right, top, end + right, bottom))


@pytest.mark.parametrize(
    ("shown", "answered", "expected"),
    [
        ([], [], Edits()),
        ([], [BOX], Edits(added=1)),
        ([BOX], [], Edits(deleted=1)),
        ([BOX, APART], [APART, BOX], Edits(accepted=2)),
        # A hundredth of a percent is rounding, more is a hand.
        ([BOX], [moved(BOX, SAME_SIDE * 0.9)], Edits(accepted=1)),
        ([BOX], [moved(BOX, SAME_SIDE * 1.1)], Edits(moved=1)),
        ([BOX], [replace(BOX, label="dog")], Edits(relabelled=1)),
        ([BOX], [moved(replace(BOX, label="dog"), 0.05)], Edits(relabelled=1)),
        # The region's id says that it is the same box, wherever it went,
        ([BOX], [moved(BOX, 0.5)], Edits(moved=1)),
        # even onto the place of another one.
        ([BOX, APART], [replace(BOX, xyxy=APART.xyxy)], Edits(moved=1, deleted=1)),
        # Deleted and drawn again: the place tells.
        ([BOX], [replace(BOX, region_id="new")], Edits(accepted=1)),
        ([BOX], [moved(replace(BOX, region_id="new"), 0.1)], Edits(moved=1)),
        ([BOX], [moved(replace(BOX, region_id="new"), 0.2)], Edits(added=1, deleted=1)),
        ([BOX], [replace(BOX, region_id="new", label="dog")], Edits(relabelled=1)),
        # An id is of one box only.
        ([BOX, BOX], [BOX], Edits(accepted=1, deleted=1)),
        ([BOX], [BOX, BOX], Edits(accepted=1, added=1)),
        # Without ids only the place tells: the better partner first, then the same label.
        (
            [replace(BOX, region_id="")],
            [moved(replace(BOX, region_id=""), 0.05), replace(BOX, region_id="")],
            Edits(accepted=1, added=1),
        ),
        (
            [replace(BOX, region_id="")],
            [replace(BOX, region_id=""), moved(replace(BOX, region_id=""), 0.05)],
            Edits(accepted=1, added=1),
        ),
        (
            [replace(BOX, region_id="")],
            [replace(BOX, region_id="", label="dog"), replace(BOX, region_id="")],
            Edits(accepted=1, added=1),
        ),
    ],
)
def test_what_became_of_each_box(shown, answered, expected):
    assert compare(shown, answered) == expected


def test_totals_add_up_over_annotations():
    total = sum([Edits(1, 2, 3, 4, 5), Edits(10, 20, 30, 40, 50)], Edits())

    assert total == Edits(accepted=11, moved=22, relabelled=33, added=44, deleted=55)
    assert total.shown == 11 + 22 + 33 + 55


CONTROL = rectangle_controls(
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="cat"/></RectangleLabels></View>'
)[0]


def region(region_id, x, **fields):
    value = {"x": x, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["cat"]}
    names = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
    return {"id": region_id, "original_width": 600, "original_height": 400, **names, **fields} | {
        "value": value
    }


def test_an_annotation_as_the_editor_submits_it():
    """One box kept, one pushed aside, one drawn; the prediction's other regions are not boxes."""
    prediction = [region("a", 10), region("b", 60), {"type": "choices", "value": {}}]
    annotation = [
        region("a", 10, origin="prediction", image_rotation=90),
        region("b", 61, origin="prediction-changed"),
        region("S76cZwmQff", 35, origin="manual"),
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    ]

    shown, answered = (read_boxes(found, CONTROL).boxes for found in (prediction, annotation))

    assert compare(shown, answered) == Edits(accepted=1, moved=1, added=1)


def boxes_with_ids(names):
    corners = st.integers(0, 8).map(lambda value: value / 10)
    return st.lists(
        st.builds(
            lambda name, label, x, y: Box(name, label, (x, y, x + 0.2, y + 0.2)),
            names,
            st.sampled_from(["cat", "dog"]),
            corners,
            corners,
        ),
        max_size=6,
    )


pictures = boxes_with_ids(st.sampled_from(["", "a", "b", "c"]))


@given(pictures, st.randoms(use_true_random=False))
def test_an_untouched_prediction_is_accepted_whole(shown, random):
    named = [replace(box, region_id=str(place)) for place, box in enumerate(shown)]
    answered = named[:]
    random.shuffle(answered)

    assert compare(named, answered) == Edits(accepted=len(shown))
    unnamed = [replace(box, region_id="") for box in answered]
    assert compare(named, unnamed) == Edits(accepted=len(shown))


@given(pictures, pictures)
def test_every_box_is_counted_once(shown, answered):
    edits = compare(shown, answered)

    kept = edits.accepted + edits.moved + edits.relabelled
    assert kept + edits.deleted == edits.shown == len(shown)
    assert kept + edits.added == len(answered)
    assert min(edits.deleted, edits.added) >= 0
