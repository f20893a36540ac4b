"""Vectors of an image and of its objects, from feature maps made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.detections import Detections
from backend.vision.letterbox import fit
from backend.vision.regions import image_vector, object_vector

# A photograph of 128 x 64 pixels lies in the lower half of an input of 64 x 64 at half its size.
LETTERBOX = fit((128, 64), (64, 64), None)


def maps(*places: tuple[int, int, int, int]) -> list[NDArray[np.float32]]:
    """Two scales, of cells of 8 and 16 pixels; a channel each is 1 in these input pixels."""
    found = []
    for cell in (8, 16):
        level = np.zeros((len(places), 64 // cell, 64 // cell), dtype=np.float32)
        for channel, (left, top, right, bottom) in enumerate(places):
            level[channel, top // cell : bottom // cell, left // cell : right // cell] = 1
        found.append(level)
    return found


def detections(*boxes: tuple[list[float], float]) -> Detections:
    boxes = tuple(sorted(boxes, key=lambda box: -box[1]))
    return Detections(
        np.array([xyxy for xyxy, _ in boxes], dtype=np.float32).reshape(-1, 4),
        np.array([[score] for _, score in boxes], dtype=np.float32).reshape(-1, 1),
        1.0,
        (128, 64),
    )


# The left and the right half of the picture inside the input.
LEFT, RIGHT = (0, 16, 32, 48), (32, 16, 64, 48)
LEFT_BOX, RIGHT_BOX = [16.0, 16.0, 48.0, 48.0], [80.0, 16.0, 112.0, 48.0]


def test_an_image_is_the_mean_of_its_maps() -> None:
    vector = image_vector(maps((0, 0, 64, 64), LEFT))
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert vector == pytest.approx(np.array([4, 1, 4, 1]) / np.sqrt(34), abs=1e-6)


@pytest.mark.parametrize(("box", "channel"), [(LEFT_BOX, 0), (RIGHT_BOX, 1)])
def test_an_object_is_what_lies_inside_its_box(box: list[float], channel: int) -> None:
    vector = object_vector(maps(LEFT, RIGHT), detections((box, 0.5)), LETTERBOX)
    others = [place for place in range(4) if place % 2 != channel]
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert np.abs(vector[others]).max() < 0.2 < vector[channel]


def test_the_three_most_uncertain_objects_count_alike() -> None:
    sure = ([0.0, 0.0, 30.0, 60.0], 0.99)
    doubtful = [(LEFT_BOX, 0.6), (RIGHT_BOX, 0.5), (RIGHT_BOX, 0.45)]
    with_it = object_vector(maps(LEFT, RIGHT), detections(sure, *doubtful), LETTERBOX)
    without = object_vector(maps(LEFT, RIGHT), detections(*doubtful), LETTERBOX)
    assert with_it == pytest.approx(without)
    assert with_it[1] > with_it[0] > 0.2


def test_an_image_without_objects_is_its_own() -> None:
    found = maps(LEFT, RIGHT)
    assert object_vector(found, detections(), LETTERBOX) == pytest.approx(image_vector(found))


def test_a_box_of_no_width_has_a_vector() -> None:
    vector = object_vector(
        maps(LEFT, RIGHT), detections(([20.0, 20.0, 20.0, 20.0], 0.5)), LETTERBOX
    )
    assert np.linalg.norm(vector) == pytest.approx(1)
