from __future__ import annotations

import numpy as np
import pytest

from backend.vision.letterbox import draw, fit


def test_a_landscape_photograph_by_hand() -> None:
    # 1280 x 720 into 640: scaled by 1/2 to 640 x 360; the next multiple of 32 is 384, so 12 rows
    # of grey above and below.
    box = fit((1280, 720), (640, 640), 32)
    assert box.scaled_size == (640, 360)
    assert box.input_size == (640, 384)
    assert (box.left, box.top) == (0, 12)
    seen = box.to_image(np.array([[100, 62, 200, 112]], dtype=np.float32))
    assert seen.tolist() == [[200, 100, 400, 200]]


def test_a_square_canvas_by_hand() -> None:
    box = fit((1280, 720), (640, 640), None)
    assert box.input_size == (640, 640)
    assert (box.left, box.top) == (0, 140)


def test_small_images_are_enlarged() -> None:
    box = fit((80, 160), (640, 640), 32)
    assert box.scaled_size == (320, 640)
    assert box.to_image(np.array([[0, 0, 320, 640]], dtype=np.float32)).tolist() == [
        [0, 0, 80, 160]
    ]


def test_boxes_are_clipped_to_the_image() -> None:
    box = fit((100, 100), (100, 100), None)
    seen = box.to_image(np.array([[-5, 20, 300, 130]], dtype=np.float32))
    assert seen.tolist() == [[0, 20, 100, 100]]


def test_no_boxes() -> None:
    assert fit((9, 9), (32, 32), 32).to_image(np.zeros((0, 4), dtype=np.float32)).shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (639, 641), (4032, 3024), (7, 5)])
@pytest.mark.parametrize("stride", [32, 64, None])
def test_corners_of_any_image_come_back(size: tuple[int, int], stride: int | None) -> None:
    box = fit(size, (640, 640), stride)
    width, height = box.input_size
    assert stride is None or (width % stride, height % stride) == (0, 0)
    assert max(width, height) == 640
    low = np.array([box.left, box.top])
    whole = np.concatenate([low, low + box.scaled_size]).astype(np.float32)[None]
    assert np.allclose(box.to_image(whole), [[0, 0, *size]], rtol=1e-5)


@pytest.mark.parametrize("stride", [32, None])
def test_drawn_pixels_are_where_the_letterbox_says(stride: int | None) -> None:
    # A white square from (40, 20) to (60, 40) of a 200 x 100 image, decoded at half scale.
    pixels = np.zeros((50, 100, 3), dtype=np.uint8)
    pixels[10:20, 20:30] = 255
    box = fit((200, 100), (320, 320), stride)
    drawn = draw(pixels, box)
    assert drawn.shape == (3, box.input_size[1], box.input_size[0])
    rows, columns = np.nonzero(drawn[0] > 200)
    found = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    assert np.abs(box.to_image(found.astype(np.float32)) - [[40, 20, 60, 40]]).max() < 1


def test_padding_is_grey_and_channels_stay_rgb() -> None:
    drawn = draw(np.full((10, 20, 3), (1, 2, 3), dtype=np.uint8), fit((20, 10), (32, 32), None))
    assert drawn[:, 0, 0].tolist() == [114, 114, 114]
    assert drawn[:, 16, 16].tolist() == [1, 2, 3]
