"""A picture scaled to a detector's input with its shape kept, and the way back for boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PADDING_GREY = 114  # what YOLO models saw around images in training


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies inside a detector's input.

    Args:
        image_size: (width, height) in pixels of the full upright image.
        scaled_size: (width, height) in pixels of the image inside the input.
        input_size: (width, height) in pixels of the input.
        left: input column at which the image begins.
        top: input row at which the image begins.
    """

    image_size: tuple[int, int]
    scaled_size: tuple[int, int]
    input_size: tuple[int, int]
    left: int
    top: int

    def to_image(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 4) boxes in input pixels -> the same boxes in image pixels, clipped to the image."""
        offset = np.array([self.left, self.top] * 2, dtype=np.float32)
        scale = np.divide(self.image_size * 2, self.scaled_size * 2, dtype=np.float32)
        limit = np.array(self.image_size * 2, dtype=np.float32)
        moved: NDArray[np.float32] = np.clip((xyxy - offset) * scale, 0, limit)
        return moved

    def to_input(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 4) boxes in image pixels -> the same boxes in input pixels."""
        offset = np.array([self.left, self.top] * 2, dtype=np.float32)
        scale = np.divide(self.scaled_size * 2, self.image_size * 2, dtype=np.float32)
        moved: NDArray[np.float32] = xyxy * scale + offset
        return moved


def fit(image_size: tuple[int, int], canvas: tuple[int, int], stride: int | None) -> Letterbox:
    """Centre an image in a detector's input.

    Args:
        image_size: (width, height) in pixels of the full upright image.
        canvas: (width, height) in pixels that the image is scaled to fit into.
        stride: the padding is cut to the next multiple of this, as the detector allows: a
            640 x 480 photograph then costs a quarter less than a square. None keeps the canvas.

    >>> fit((1280, 960), (640, 640), 32).input_size
    (640, 480)
    >>> fit((1280, 960), (640, 640), None).top
    80
    """
    ratio = min(canvas[0] / image_size[0], canvas[1] / image_size[1])
    scaled = (max(1, round(image_size[0] * ratio)), max(1, round(image_size[1] * ratio)))
    pad_x, pad_y = canvas[0] - scaled[0], canvas[1] - scaled[1]
    if stride is not None:
        pad_x, pad_y = pad_x % stride, pad_y % stride
    return Letterbox(
        image_size=image_size,
        scaled_size=scaled,
        input_size=(scaled[0] + pad_x, scaled[1] + pad_y),
        left=pad_x // 2,
        top=pad_y // 2,
    )


def draw(pixels: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    """The input a detector is given.

    Args:
        pixels: (h, w, 3) uint8 RGB, at any scale of the letterbox's image.
        letterbox: where to put it.

    Returns:
        (3, H, W) uint8 RGB with grey padding.
    """
    import cv2

    width, height = letterbox.scaled_size
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    canvas = np.full((3, *letterbox.input_size[::-1]), _PADDING_GREY, dtype=np.uint8)
    rows = slice(letterbox.top, letterbox.top + height)
    columns = slice(letterbox.left, letterbox.left + width)
    canvas[:, rows, columns] = pixels.transpose(2, 0, 1)
    return canvas
