"""Small detectors with random weights whose outputs look like a trained one's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.vision.detector import Detector, Prepared
from backend.vision.letterbox import draw, fit
from benchmarks.random_models import settle

CLASS_NAMES = ("bolt", "nut", "washer")
INPUT_SIZE = 96


def boxes_of(detector: Detector, batch: Sequence[Prepared]) -> list[Detections]:
    """The objects of each image alone."""
    return [found.detections for found in detector.detect(batch)]


def scene(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB: coloured rectangles on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 160, (height, width, 3)).astype(np.uint8)
    for _ in range(6):
        left, top = rng.integers(0, width * 3 // 4), rng.integers(0, height * 3 // 4)
        w, h = rng.integers(width // 8, width // 3), rng.integers(height // 8, height // 3)
        image[top : top + h, left : left + w] = rng.integers(0, 255, 3)
    return image


def yolo(family: str, seed: int = 0) -> Any:
    """A DetectionModel of `family` (yolo11n, yolov10n, ...): about a tenth of its anchors score
    above 0.05, and its boxes measure a few strides.
    """
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    model = DetectionModel(f"{family}.yaml", nc=len(CLASS_NAMES), verbose=False)
    model.names = dict(enumerate(CLASS_NAMES))
    model.args = {"imgsz": INPUT_SIZE, "data": None}
    model.task = "detect"
    images = np.stack([_input(seed) for seed in range(4)])
    settle(model, images, mean_logit=-3.0)
    return model


def save(model: Any, path: Path) -> Path:
    """Write a checkpoint such as Ultralytics' trainer does."""
    import torch

    torch.save({"model": model, "train_args": {"imgsz": INPUT_SIZE}, "epoch": -1}, path)
    return path


def _input(seed: int) -> NDArray[np.uint8]:
    """A scene as the tests' detectors see it: what the weights are settled on."""
    return draw(scene(160, 120, seed), fit((160, 120), (INPUT_SIZE, INPUT_SIZE), 32))
