"""Labels and boxes: which class is which label, and what annotators see."""

from __future__ import annotations

import numpy as np
import pytest

from backend.detections import Detections
from backend.errors import LabelConfigError
from backend.label_studio.label_map import LabelMap, data_field, rectangle_controls
from backend.label_studio.results import to_results


def config(labels, image='<Image name="img" value="$photo"/>', control="RectangleLabels"):
    return (
        f'<View>{image}<{control} name="boxes" toName="img">{labels}</{control}>'
        '<Choices name="c" toName="img"><Choice value="ok"/></Choices></View>'
    )


CELLS = config('<Label value="RBC"/><Label value="WBC"/><Label value="Platelets"/>')


def test_names_of_the_control():
    control = LabelMap.build(CELLS, ["RBC"]).control

    assert (control.from_name, control.to_name, control.data_field) == ("boxes", "img", "photo")
    assert data_field(CELLS) == "photo"


def test_both_sides_are_reported():
    found = LabelMap.build(CELLS, ["RBC", "Dust"])

    assert found.labels == {"RBC": "RBC"}
    assert found.unmapped_classes == ("Dust",)
    assert found.unmapped_labels == ("WBC", "Platelets")
    assert len(found.warnings()) == 2
    assert "Dust" in found.warnings()[0]
    assert "WBC, Platelets" in found.warnings()[1]
    assert LabelMap.build(CELLS, ["RBC", "WBC", "Platelets"]).warnings() == ()


@pytest.mark.parametrize(
    ("labels", "name", "expected"),
    [
        ('<Label value="Car"/>', "Car", "Car"),
        ('<Label value="Car"/>', "car", "Car"),
        ('<Label value="car"/><Label value="CAR"/>', "CAR", "CAR"),  # exact wins over case
        ('<Label value="Vehicle" predicted_values="car, Truck"/>', "truck", "Vehicle"),
        ('<Label value="X" predicted_values="car"/><Label value="Car"/>', "car", "Car"),
        ('<Label value="Car" alias="c1"/>', "Car", "c1"),  # a result holds the alias
        ('<Label value="Car" alias="c1"/>', "c1", "c1"),
        ('<Label value="Car"/>', "bus", None),
        ('<Label value="Auto-École"/>', "auto-école", "Auto-École"),
    ],
)
def test_how_a_class_finds_its_label(labels, name, expected):
    assert LabelMap.build(config(labels), [name]).labels.get(name) == expected


def test_several_classes_may_share_a_label():
    labels = '<Label value="Vehicle" predicted_values="car,truck"/>'
    found = LabelMap.build(config(labels), ["car", "truck"])

    assert found.labels == {"car": "Vehicle", "truck": "Vehicle"}


TWO = """<View><Image name="img" value="$image"/>
<RectangleLabels name="first" toName="img"><Label value="Cat"/></RectangleLabels>
<RectangleLabels name="second" toName="img"><Label value="Dog"/></RectangleLabels></View>"""


@pytest.mark.parametrize(("name", "chosen"), [("Dog", "second"), ("Cat", "first"), ("x", "first")])
def test_the_first_control_that_maps_is_taken(name, chosen):
    assert [control.from_name for control in rectangle_controls(TWO)] == ["first", "second"]
    assert LabelMap.build(TWO, [name]).control.from_name == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("<View>", "cannot be read"),
        ("<View></View>", "no RectangleLabels"),
        (
            config('<Label value="a"/>', control="PolygonLabels"),
            "PolygonLabels on Image, and .* only",
        ),
        (
            '<View><Image name="i" value="$i"/><Choices name="c" toName="i"><Choice value="a"/>'
            "</Choices></View>",
            "Choices on Image, and this backend only supports boxes on images",
        ),
        (
            '<View><Video name="v" value="$v"/><VideoRectangle name="r" toName="v"/>'
            '<Labels name="l" toName="v"><Label value="a"/></Labels></View>',
            "Labels on Video, VideoRectangle on Video, and this backend only supports boxes",
        ),
        (
            '<View><Pdf name="p" value="$p"/><RectangleLabels name="r" toName="p">'
            '<Label value="a"/></RectangleLabels></View>',
            "RectangleLabels on Pdf, and this backend only supports",
        ),
        (config('<Label value="a"/>', image=""), "no Image"),
        (config('<Label value="a"/>', image='<Text name="img" value="$t"/>'), "Labels on Text"),
        (config('<Label value="a"/>', image='<Image name="img" valueList="$l"/>'), "no Image"),
        (config('<Label value="a"/>', image='<Image name="img" value="/a.png"/>'), "no Image"),
        (
            '<View><Image name="i" value="$i"/><Rectangle name="r" toName="i"/>'
            '<Labels name="l" toName="i"><Label value="a"/></Labels></View>',
            "draws with Rectangle and names with Labels",
        ),
    ],
)
def test_configs_that_will_not_do(text, message):
    with pytest.raises(LabelConfigError, match=message) as caught:
        LabelMap.build(text, ["a"])
    assert "\n" not in str(caught.value)


NAMES = ["RBC", "WBC", "Dust"]
SEEN = Detections(
    xyxy=np.array([[20, 10, 120, 60], [0, 0, 200, 100], [1, 1, 9, 9], [50, 50, 60, 60]]),
    class_scores=np.array([[0.9, 0.1, 0], [0.2, 0.61, 0], [0, 0, 0.6], [0.24, 0.1, 0]]),
    peak_score=0.9,
    image_size=(200, 100),
)


def test_percentages_by_hand():
    regions = to_results(SEEN, NAMES, LabelMap.build(CELLS, NAMES), threshold=0.25)

    assert [region["value"] for region in regions] == [
        {
            **{"x": 10.0, "y": 10.0, "width": 50.0, "height": 50.0},
            **{"rotation": 0, "rectanglelabels": ["RBC"]},
        },
        {
            **{"x": 0.0, "y": 0.0, "width": 100.0, "height": 100.0},
            **{"rotation": 0, "rectanglelabels": ["WBC"]},
        },
    ]
    first = regions[0]
    assert {name: first[name] for name in first if name not in ("id", "value")} == {
        "type": "rectanglelabels",
        "from_name": "boxes",
        "to_name": "img",
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "score": 0.9,
    }


def test_what_is_left_out_is_counted():
    label_map = LabelMap.build(CELLS, NAMES)

    assert len(to_results(SEEN, NAMES, label_map, threshold=0.0)) == 3


def test_ids_are_unique_in_an_image_and_the_same_again():
    label_map = LabelMap.build(CELLS, NAMES)
    twice = Detections(np.array([[0, 0, 5, 5], [0, 0, 5, 5]]), np.full((2, 3), 0.5), 0.5, (10, 10))

    ids = [region["id"] for region in to_results(twice, NAMES, label_map, threshold=0)]

    assert len(set(ids)) == 2
    assert ids == [region["id"] for region in to_results(twice, NAMES, label_map, threshold=0)]


def test_boxes_over_the_edge_are_clipped_and_empty_ones_go():
    label_map = LabelMap.build(CELLS, NAMES)
    boxes = Detections(
        np.array([[-5, 50, 15, 110], [5, 5, 5, 9]]), np.full((2, 3), 0.5), 0.5, (10, 100)
    )

    (region,) = to_results(boxes, NAMES, label_map, threshold=0)

    assert [region["value"][name] for name in ("x", "y", "width", "height")] == [0, 50, 100, 50]


def test_no_boxes_no_regions():
    nothing = Detections(np.zeros((0, 4)), np.zeros((0, 3)), 0.01, (10, 10))

    assert to_results(nothing, NAMES, LabelMap.build(CELLS, NAMES), threshold=0) == []


def test_the_sdk_takes_our_regions():
    from label_studio_sdk.label_interface.interface import LabelInterface

    label_map = LabelMap.build(CELLS, NAMES)
    prediction = {
        "result": to_results(SEEN, NAMES, label_map, threshold=0.25),
        "score": 0.5,
        "model_version": "hf-x",
    }

    assert LabelInterface(CELLS).validate_prediction(prediction, return_errors=True) == []
