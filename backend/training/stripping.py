"""A trained network as a checkpoint that holds what inference needs, and nothing else."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

from backend.disk import write_whole


def save_stripped(model: Any, path: Path, *, image_size: int) -> None:
    """Write a detector in half precision: no optimiser, no history, no paths of this machine.

    Args:
        model: an Ultralytics `DetectionModel`; it is left as it is.
        path: the .pt file, which is there whole or not at all.
        image_size: longer side of its input in pixels.

    Raises:
        OSError: the file cannot be written.
    """
    import torch

    model = copy.deepcopy(model).to("cpu").half().eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    arguments = {"imgsz": image_size, "task": "detect"}
    model.args = arguments
    model.criterion = None
    model.pt_path = None
    # Ultralytics keeps the path of the layout a network was made from.
    model.yaml = {**model.yaml, "yaml_file": Path(model.yaml.get("yaml_file", "")).name}
    buffer = io.BytesIO()
    checkpoint = {"model": model, "train_args": arguments, "epoch": -1}
    torch.save({**checkpoint, "ema": None, "optimizer": None}, buffer)
    write_whole(path, buffer.getvalue())
