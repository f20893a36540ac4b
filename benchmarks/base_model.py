"""The detector that every arm of a replay starts from: `python -m benchmarks.base_model OUT.pt`.

Users start from weights trained on COCO. So that a replay is like that, a narrow YOLO11 is trained
once, from scratch, on scenes of classes that the pools do not have (`shapes.BASE_KINDS`). Stopped,
it goes on where it was; what it has made lies in the work folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from backend.errors import HardestFirstError
from backend.training.plan import TrainingPlan
from backend.training.trainer import train
from benchmarks.machine import progress
from benchmarks.pools import SIDE, Drawing, Mix, write_data_yaml, write_frames
from benchmarks.shapes import BASE_KINDS

WIDTH = 0.1875
"""Width multiple of YOLO11; its smallest published model has 0.25."""

_DEPTH = 0.5
_IMAGES = 12_000
_STEPS = 10_000
_WORK = Path(__file__).parents[1] / "var" / "base-model"


def make_base(
    out: Path,
    *,
    work: Path = _WORK,
    side: int = SIDE,
    width: float = WIDTH,
    images: int = _IMAGES,
    steps: int = _STEPS,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> Path:
    """Train the base model.

    Args:
        out: the weights, a .pt file.
        work: for pictures, checkpoints and log; used by one set of arguments only.
        side: width and height of the pictures in pixels, a multiple of 32.
        width: width multiple of YOLO11.
        images: pictures to learn from.
        steps: optimiser steps of 16 pictures.
        seed: of the pictures, the first weights and the training.
        threads: of torch.
        device: "cpu" or "cuda:N".

    Raises:
        TrainingError: it failed; one line says why.
    """
    data = work / "data"
    if not (data / "data.yaml").exists():
        shutil.rmtree(data, ignore_errors=True)  # of a killed run
        frames = Drawing(BASE_KINDS, side).frames(Mix(), images, [seed, 2])
        write_frames(data, "train", frames)
        write_data_yaml(data, list(BASE_KINDS))
    start = work / "start.pt"
    if not start.exists():
        write_untrained(start, width=width, classes=len(BASE_KINDS), side=side, seed=seed)
    plan = TrainingPlan(
        base=start,
        data_yaml=data / "data.yaml",
        folder=work / "training",
        image_size=side,
        steps=steps,
        batch=16,
        device=device,
        seed=seed,
        minutes=600,
        threads=threads,
    )
    trained = train(plan, on_progress=_say)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained.path, out)
    return out


def write_untrained(path: Path, *, width: float, classes: int, side: int, seed: int) -> None:
    """Write a YOLO11 with random weights.

    Args:
        path: the .pt file; its folder must be there.
        width: width multiple.
        classes: number of classes of its head.
        side: longer side of its input in pixels.
        seed: of the weights.
    """
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    import torch
    import yaml
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import ROOT

    from backend.training.stripping import save_stripped

    layout = yaml.safe_load((ROOT / "cfg/models/11/yolo11.yaml").read_text())
    layout["scales"] = {"n": [_DEPTH, width, 1024]}
    layout["scale"] = "n"
    torch.manual_seed(seed)
    save_stripped(DetectionModel(layout, nc=classes, verbose=False), path, image_size=side)


def _say(done: int, total: int) -> None:
    if done % 100 == 0:
        progress(f"step {done} of {total}")


def main(arguments: list[str]) -> int:
    """Make the weights that the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.base_model", description="Train the start of a replay."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=_WORK)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels")
    parser.add_argument("--width", type=float, default=WIDTH, help="width multiple of YOLO11")
    parser.add_argument("--images", type=int, default=_IMAGES)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = vars(parser.parse_args(arguments))
    try:
        print(make_base(given.pop("out"), **given))
    except HardestFirstError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
