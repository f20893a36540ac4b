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
    images = torch.from_numpy(np.stack([_input(seed) for seed in range(4)])) / 255
    _settle_normalisation(model, images)
    head = model.model[-1]
    branches = [(head.cv2, head.cv3)]
    if getattr(head, "one2one_cv2", None) is not None:
        branches.append((head.one2one_cv2, head.one2one_cv3))
    for boxes, scores in branches:
        _spread(model, images, head, boxes, scores)
    return model.eval()


def save(model: Any, path: Path) -> Path:
    """Write a checkpoint such as Ultralytics' trainer does."""
    import torch

    torch.save({"model": model, "train_args": {"imgsz": INPUT_SIZE}, "epoch": -1}, path)
    return path


def _input(seed: int) -> NDArray[np.uint8]:
    """A scene as the tests' detectors see it: what the weights are settled on."""
    return draw(scene(160, 120, seed), fit((160, 120), (INPUT_SIZE, INPUT_SIZE), 32))


def _settle_normalisation(model: Any, images: Any) -> None:
    """Give the batch norms the statistics of real activations; random ones would fade to zero."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(images)
    model.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _spread(model: Any, images: Any, head: Any, boxes: Any, scores: Any) -> None:
    """Scale the last layers: logits of -3 +- 1.5, sides of about two strides either way."""
    import torch

    seen: list[Any] = []
    hooks = [level[-1].register_forward_hook(lambda m, i, o: seen.append(o)) for level in scores]
    with torch.no_grad():
        model(images)
        for level, logits, hook in zip(scores, seen, hooks, strict=True):
            last = level[-1]
            scale = 1.5 / logits.std()
            last.weight *= scale
            last.bias.copy_(-3.0 - scale * (logits - last.bias[:, None, None]).mean((0, 2, 3)))
            hook.remove()
        for level in boxes:
            last = level[-1]
            last.weight *= 0.1
            if head.reg_max > 1:
                # Distances are an expectation over reg_max bins: favour the second and third.
                bias = torch.full((4, head.reg_max), -6.0)
                bias[:, 2:4] = 1.0
                last.bias.copy_(bias.flatten())
            else:
                last.bias.fill_(2.0)
