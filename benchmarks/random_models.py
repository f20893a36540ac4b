"""Models with random weights that take as long as trained ones, and find about as many boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.vision.ultralytics_import import import_ultralytics

_SETTLED_ON = 8
_SETTLED_SIZE = (640, 480)
# A yolo11n trained on COCO finds 20 to 60 boxes above 0.05 in a photograph of it.
_MEAN_LOGIT = -10.0


def make_models(folder: Path, images: Sequence[Path]) -> dict[str, Any]:
    """A yolo11n and a ViT-B-32, as settings.

    Args:
        folder: to write them to.
        images: files that the yolo11n is settled on.
    """
    import_ultralytics()
    import open_clip
    import torch
    from ultralytics import YOLO

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    detector = YOLO("yolo11n.yaml")
    settle(detector.model, _inputs(images), mean_logit=_MEAN_LOGIT)
    detector.save(str(folder / "yolo11n-random.pt"))
    encoder = open_clip.create_model("ViT-B-32")
    torch.save(encoder.state_dict(), folder / "vit-b-32-random.pt")
    return {
        "model": "yolo11n-random.pt",
        "model_dir": folder,
        "clip_model": "ViT-B-32",
        "clip_pretrained": "vit-b-32-random.pt",
        "device": "cpu",
    }


def settle(model: Any, images: NDArray[np.uint8], *, mean_logit: float) -> None:
    """Give a detection model with random weights the outputs of a trained one.

    Args:
        model: an Ultralytics DetectionModel.
        images: (N, 3, H, W) that it is settled on.
        mean_logit: mean of the class logits; they spread by 1.5, and boxes by a few strides.
    """
    import torch

    pixels = torch.from_numpy(images) / 255
    _settle_normalisation(model, pixels)
    head = model.model[-1]
    branches = [(head.cv2, head.cv3)]
    if getattr(head, "one2one_cv2", None) is not None:
        branches.append((head.one2one_cv2, head.one2one_cv3))
    for boxes, scores in branches:
        _spread_scores(model, pixels, scores, mean_logit)
        _shrink_boxes(boxes, head.reg_max)
    model.eval()


def _inputs(images: Sequence[Path]) -> NDArray[np.uint8]:
    """(N, 3, H, W): without the padding that images of other shapes would need."""
    opened = [Image.open(path).convert("RGB") for path in images[:_SETTLED_ON]]
    resized = [np.asarray(image.resize(_SETTLED_SIZE)) for image in opened]
    return np.stack(resized).transpose(0, 3, 1, 2)


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


def _spread_scores(model: Any, images: Any, scores: Sequence[Any], mean_logit: float) -> None:
    import torch

    seen: list[Any] = []
    hooks = [level[-1].register_forward_hook(lambda m, i, o: seen.append(o)) for level in scores]
    with torch.no_grad():
        model(images)
        for level, logits, hook in zip(scores, seen, hooks, strict=True):
            last = level[-1]
            scale = 1.5 / logits.std()
            last.weight *= scale
            mean = (logits - last.bias[:, None, None]).mean((0, 2, 3))
            last.bias.copy_(mean_logit - scale * mean)
            hook.remove()


def _shrink_boxes(boxes: Sequence[Any], reg_max: int) -> None:
    import torch

    with torch.no_grad():
        for level in boxes:
            last = level[-1]
            last.weight *= 0.1
            if reg_max > 1:
                # Distances are an expectation over reg_max bins: favour the second and third.
                bias = torch.full((4, reg_max), -6.0)
                bias[:, 2:4] = 1.0
                last.bias.copy_(bias.flatten())
            else:
                last.bias.fill_(2.0)
