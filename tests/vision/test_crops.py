from __future__ import annotations

import numpy as np

from backend.detections import Detections
from backend.vision.crops import object_crops
from backend.vision.picture import Picture


def detections(boxes: list[list[float]], best: list[float]) -> Detections:
    xyxy = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.array(best, dtype=np.float32)[:, None]
    return Detections(xyxy, scores, float(max(best, default=0.0)), (400, 200))


# A 400 x 200 image decoded at half scale; a pixel's red is its column, its green its row.
ROWS, COLUMNS = np.mgrid[0:100, 0:200]
PICTURE = Picture(np.stack([COLUMNS, ROWS, ROWS * 0], axis=2).astype(np.uint8), (400, 200))


def test_no_boxes_no_crops() -> None:
    assert object_crops(PICTURE, detections([], [])) == []


def test_a_crop_by_hand() -> None:
    # 100..200 x 40..120 of the image is 50..100 x 20..60 of the pixels; 10 % is 5 and 4 pixels.
    [crop] = object_crops(PICTURE, detections([[100, 40, 200, 120]], [0.5]))
    assert crop.shape == (48, 60, 3)
    assert crop[0, 0].tolist() == [45, 16, 0]


def test_closest_to_one_half_first_and_no_more_than_the_limit() -> None:
    boxes = [[0, 0, 80, 80], [100, 0, 180, 80], [200, 0, 280, 80], [300, 0, 380, 80]]
    crops = object_crops(PICTURE, detections(boxes, [0.95, 0.1, 0.45, 0.7]), limit=2, margin=0)
    assert [int(crop[0, 0, 0]) for crop in crops] == [100, 150]


def test_margins_stop_at_the_border() -> None:
    [crop] = object_crops(PICTURE, detections([[0, 0, 400, 200]], [0.5]), margin=0.5)
    assert crop.shape == PICTURE.pixels.shape


def test_slivers_are_left_out_and_do_not_count() -> None:
    boxes = [[0, 0, 400, 10], [100, 40, 200, 120]]
    crops = object_crops(PICTURE, detections(boxes, [0.5, 0.9]), limit=1)
    assert [crop.shape for crop in crops] == [(48, 60, 3)]


def test_crops_own_their_memory() -> None:
    [crop] = object_crops(PICTURE, detections([[100, 40, 200, 120]], [0.5]))
    assert not np.shares_memory(crop, PICTURE.pixels)
