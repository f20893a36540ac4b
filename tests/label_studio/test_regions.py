"""What annotators drew becomes boxes; whatever is no box is named, and never an error."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.detections import Detections
from backend.errors import LabelConfigError
from backend.label_studio.label_map import LabelMap, rectangle_controls
from backend.label_studio.regions import (
    Box,
    ReadBoxes,
    find_control,
    note_lines,
    overlaps,
    read_boxes,
)
from backend.label_studio.results import to_results

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image">
<Label value="Gear"/><Label value="Bolt" predicted_values="screw, Rivet"/>
<Label value="Nut" alias="n1"/></RectangleLabels>
<BrushLabels name="paint" toName="image"><Label value="Rust"/></BrushLabels></View>"""
CONTROL = rectangle_controls(CONFIG)[0]


def region(x=10, y=20, width=30, height=40, *, labels=("Gear",), rotation=0, **fields):
    """A region as the editor submits it, in an image of 200 x 100 pixels."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    if labels is not None:
        value["rectanglelabels"] = list(labels)
    return {
        "id": "r1",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "origin": "manual",
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "value": value,
        **fields,
    }


def other(kind, **value):
    return {**region(labels=None), "type": kind, "from_name": "paint", "value": value}


def sides(found: ReadBoxes) -> list[float]:
    assert len(found.boxes) == 1, found
    return pytest.approx(found.boxes[0].xyxy, abs=1e-9)


@pytest.mark.parametrize("result", [[], None])
def test_an_annotation_without_regions_has_no_boxes(result):
    assert read_boxes(result, CONTROL) == ReadBoxes()
    assert read_boxes(result, CONTROL).notes == ()


def test_a_box_is_shares_of_the_image_with_its_id_and_label():
    found = read_boxes([region()], CONTROL)

    assert found == ReadBoxes((Box("r1", "Gear", (0.1, 0.2, 0.4, 0.6000000000000001)),))


@pytest.mark.parametrize(
    ("x", "y", "width", "height", "expected", "notes"),
    [
        (-10, 50, 30, 80, [0, 0.5, 0.2, 1], ("1 box cut at the edge of the image",)),
        (90, 0, 20, 100, [0.9, 0, 1, 1], ("1 box cut at the edge of the image",)),
        # What the editor's own rounding leaves is not worth a word.
        (0, 0, 100.00000000000001, 100, [0, 0, 1, 1], ()),
        # A box of one pixel is a box.
        (0, 0, 0.5, 1, [0, 0, 0.005, 0.01], ()),
    ],
)
def test_a_box_over_the_edge_is_cut_off(x, y, width, height, expected, notes):
    found = read_boxes([region(x, y, width, height)], CONTROL)

    assert sides(found) == expected
    assert found.notes == notes


@pytest.mark.parametrize(
    ("regions", "note"),
    [
        ([region(101, 20)], "1 box outside of the image"),
        ([region(20, -40, 10, 40)], "1 box outside of the image"),
        ([region(101, 20), region(0, 100)], "2 boxes outside of the image"),
        ([region(width=0), region(height=0), region(width=-0.1)], "3 boxes without area"),
        # Half of one of 200 pixels is 0.25 percent.
        ([region(width=0.24)], "1 box without area"),
        ([region(labels=[])], "1 box without a label"),
        ([region(labels=None)], "1 box without a label"),
        ([region(width=math.nan), region(x=math.inf)], "2 malformed boxes"),
        ([region(x="ten"), region(y=None), region(height=True)], "3 malformed boxes"),
        ([region(x=10**400), region(rotation="nan"), region(value=None)], "3 malformed boxes"),
        ([region(value={"x": 1, "y": 2, "width": 3})], "1 malformed box"),
        ([7, {}, {"type": 3}], "3 malformed regions"),
        ({"type": "what"}, "1 what result"),
        (
            [{"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}],
            "1 relation",
        ),
        ([other("brushlabels", format="rle", rle=[0], brushlabels=["Rust"])], "1 brush region"),
        ([other("polygonlabels", points=[[1, 2]])] * 2, "2 polygon regions"),
        ([other("keypointlabels", x=1, y=1, width=1)], "1 keypoint region"),
        ([other("textarea", text=["a scratch"])], "1 textarea result"),
        ([other("choices", choices=["blurred"])], "1 choices result"),
        ([{**region(labels=None), "type": "rectangle"}], "1 rectangle result"),
        ([region(from_name="second")], "1 box of another control"),
        ([region(to_name="second")], "1 box of another control"),
    ],
)
def test_what_is_no_box_is_named_and_the_others_stand(regions, note):
    assert read_boxes(regions, CONTROL).boxes == ()
    assert read_boxes(regions, CONTROL).notes == (note,)

    if isinstance(regions, list):
        assert sides(read_boxes([*regions, region()], CONTROL)) == [0.1, 0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["Gear"], "Gear"),
        (["gear "], "Gear"),
        (["screw"], "Bolt"),  # an old name, kept in predicted_values
        (["RIVET"], "Bolt"),
        (["n1"], "n1"),  # an alias is what a result holds
        (["Nut"], "n1"),  # from before the alias
    ],
)
def test_a_renamed_label_keeps_its_answers(labels, expected):
    found = read_boxes([region(labels=labels)], CONTROL)

    assert [box.label for box in found.boxes] == [expected]
    assert found.notes == ()


def test_a_removed_label_is_left_out_with_the_remedy():
    found = read_boxes([region(labels=["gear2"]), region()], CONTROL)

    assert [box.label for box in found.boxes] == ["Gear"]
    assert found.notes == (
        "1 box left out, as label 'gear2' is not in the label config: add it there, or name it in "
        "predicted_values of the label that replaces it",
    )


def test_of_several_labels_the_first_known_one_counts():
    found = read_boxes([region(labels=["gear2", "Bolt", "Gear"])], CONTROL)

    assert [box.label for box in found.boxes] == ["Bolt"]
    assert found.notes == ("1 box with several labels, of which the first known one counts",)


def test_a_strange_label_stays_on_one_short_line():
    (note,) = read_boxes([region(labels=["a\nb" * 500])], CONTROL).notes

    assert "\n" not in note
    assert len(note) < 250


# 200 x 100 pixels; a box of 60 x 40 pixels at (20, 20).
@pytest.mark.parametrize(
    ("rotation", "pixels"),
    [
        (0, [20, 20, 80, 60]),
        (360, [20, 20, 80, 60]),
        (None, [20, 20, 80, 60]),
        # A quarter turn clockwise about (20, 20): 40 wide, to the left of it, and 60 high.
        (90, [-20, 20, 20, 80]),
        (-270, [-20, 20, 20, 80]),
        (270, [20, -40, 60, 20]),
        (180, [-40, -20, 20, 20]),
        (
            30,
            [
                20 - 40 * math.sin(math.pi / 6),
                20,
                20 + 60 * math.cos(math.pi / 6),
                20 + 60 * math.sin(math.pi / 6) + 40 * math.cos(math.pi / 6),
            ],
        ),
    ],
)
def test_a_rotated_box_becomes_the_box_around_it(rotation, pixels):
    found = read_boxes([region(10, 20, 30, 40, rotation=rotation)], CONTROL)

    cut = [
        min(max(side / length, 0), 1) for side, length in zip(pixels, (200, 100) * 2, strict=True)
    ]
    assert sides(found) == cut
    assert bool(found.notes) == (min(pixels) < 0)


def test_a_rotated_box_needs_the_size_of_the_image():
    unknown = {"original_width": None, "original_height": "100"}
    turned = region(10, 20, 30, 40, rotation=90, **unknown)

    assert read_boxes([turned], CONTROL).notes == ("1 rotated box in an image of unknown size",)
    assert sides(read_boxes([turned], CONTROL, image_size=(200, 100))) == [0, 0.2, 0.1, 0.8]
    stated = region(10, 20, 30, 40, rotation=90)
    square = read_boxes([stated], CONTROL, image_size=(100, 100))  # ours, not what a region states
    assert sides(square) == [0, 0.2, 0.1, 0.5]
    half = region(50, 50, 30, 40, rotation=180, **unknown)
    assert sides(read_boxes([half], CONTROL)) == [0.2, 0.1, 0.5, 0.5]
    assert sides(read_boxes([region(**unknown)], CONTROL)) == [0.1, 0.2, 0.4, 0.6]


def test_a_turned_view_changes_no_box():
    """As the editor submits a box drawn in a view turned by 90 degrees: the image's own axes."""
    turned = region(30.03, 55.05, 14.92, 30.03, image_rotation=90)

    assert sides(read_boxes([turned], CONTROL)) == [0.3003, 0.5505, 0.4495, 0.8508]


def test_the_parts_of_one_region_are_one_box():
    comment = {**region(labels=None), "type": "textarea", "from_name": "why"}
    comment["value"] = {**comment["value"], "text": ["half hidden"]}

    found = read_boxes([region(), comment], CONTROL)

    assert len(found.boxes) == 1
    assert found.notes == ("1 textarea result",)


def test_notes_of_several_annotations_add_up():
    one = read_boxes([region(101, 20), region(labels=[])], CONTROL)
    two = read_boxes([region(101, 20)], CONTROL)

    assert note_lines(Counter(one.noted) + Counter(two.noted)) == (
        "2 boxes outside of the image",
        "1 box without a label",
    )


TWO = """<View><Image name="image" value="$image"/>
<RectangleLabels name="first" toName="image"><Label value="Cat"/><Label value="Cow"/>
</RectangleLabels><RectangleLabels name="second" toName="image"><Label value="Dog"/>
<Label value="Cat"/></RectangleLabels></View>"""


@pytest.mark.parametrize(
    ("class_names", "expected"),
    [
        ([], "first"),
        (["Horse"], "first"),
        (["Cat"], "first"),
        (["Dog"], "second"),
        (["Dog", "Cat"], "second"),  # a model trained on the answers of the second
        (["Cat", "Cow"], "first"),
    ],
)
def test_answers_are_read_from_where_predictions_go(class_names, expected):
    control = find_control(TWO, class_names)

    assert control.from_name == expected
    assert control == LabelMap.build(TWO, class_names).control


def test_a_config_without_rectangles_has_no_control():
    with pytest.raises(LabelConfigError, match="RectangleLabels"):
        find_control("<View><Image name='i' value='$i'/></View>", ["Gear"])


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "id": json,
        "type": st.just("rectanglelabels") | json,
        "from_name": st.just("label") | json,
        "to_name": st.just("image") | json,
        "original_width": json,
        "original_height": json,
        "value": json
        | st.fixed_dictionaries(
            {"x": json, "y": json, "width": json, "height": json},
            optional={"rotation": json, "rectanglelabels": st.just(["Gear"]) | json},
        ),
    },
)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (region(x=40, width=-30), region(x=10, width=30)),
        (region(y=60, height=-40), region(y=20, height=40)),
        (region(x=40, y=60, width=-30, height=-40), region()),
        (region(x="10", y="20", width=" 30.0", height="4e1"), region()),
        (region(rotation="90"), region(rotation=90)),
        # Turned about the corner where it was begun.
        (region(x=40, y=20, width=-20, rotation=180), region(x=40, y=-20, width=20, height=40)),
    ],
    ids=["to the left", "upwards", "both", "texts", "turned text", "turned"],
)
def test_boxes_drawn_backwards_and_numbers_as_texts_are_read(given, same):
    assert read_boxes([given], CONTROL).boxes[0].xyxy == pytest.approx(
        read_boxes([same], CONTROL).boxes[0].xyxy
    )


numbers = st.floats() | st.integers() | st.floats(-50, 150)
nearly = st.builds(
    region,
    *[numbers] * 4,
    rotation=numbers,
    original_width=numbers,
    original_height=numbers,
)


@given(json | st.lists(json | fields | nearly))
def test_nothing_in_a_result_is_an_error(result):
    found = read_boxes(result, CONTROL)

    for box in found.boxes:
        left, top, right, bottom = box.xyxy
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert box.label in ("Gear", "Bolt", "n1")
    assert all("\n" not in note for note in found.notes)
    if isinstance(result, list):
        mended = ("cut", "with several")
        left_out = sum(n for note, n in found.noted.items() if not note.why.startswith(mended))
        assert len(found.boxes) + left_out == len(result)


@st.composite
def pictures(draw):
    """What a detector saw in some image: boxes of at least two pixels."""
    width, height = (draw(st.integers(40, 6000)) for _ in range(2))
    count = draw(st.integers(0, 6))
    starts = [
        [draw(st.floats(0, width - 2, width=32)), draw(st.floats(0, height - 2, width=32))]
        for _ in range(count)
    ]
    ends = [
        [draw(st.floats(left + 2, width, width=64)), draw(st.floats(top + 2, height, width=64))]
        for left, top in starts
    ]
    xyxy = np.hstack([np.reshape(starts, (-1, 2)), np.reshape(ends, (-1, 2))])
    scores = [[draw(st.floats(0.25, 0.875, width=16)) for _ in "abc"] for _ in range(count)]
    scores = np.array(scores, dtype=np.float32).reshape(count, 3)
    order = np.argsort(-scores.max(axis=1), kind="stable")
    return Detections(xyxy[order], scores[order], 0.95, (width, height))


@given(pictures())
def test_published_boxes_are_read_back_within_their_rounding(seen):
    label_map = LabelMap.build(CONFIG, ["Gear", "Bolt", "Nut"])
    regions = to_results(seen, ["Gear", "Bolt", "Nut"], label_map, threshold=0)

    found = read_boxes(regions, label_map.control, image_size=seen.image_size)

    assert found.notes == ()
    assert [box.region_id for box in found.boxes] == [shown["id"] for shown in regions]
    names = ["Gear", "Bolt", "n1"]
    assert [box.label for box in found.boxes] == [names[i] for i in seen.class_ids]
    read = np.array([box.xyxy for box in found.boxes]).reshape(-1, 4)
    np.testing.assert_allclose(read, seen.xyxy / (seen.image_size * 2), rtol=0, atol=5.1e-6)


def test_overlap_is_intersection_over_union():
    whole, half, apart = (
        Box("", "a", (0.0, 0.0, 0.5, 1.0)),
        Box("", "b", (0.0, 0.0, 0.5, 0.5)),
        Box("", "a", (0.5, 0.5, 1.0, 1.0)),
    )

    assert overlaps([], []).shape == (0, 0)
    assert overlaps([whole], []).shape == (1, 0)
    np.testing.assert_allclose(overlaps([whole, half], [whole, apart]), [[1, 0], [0.5, 0]])
