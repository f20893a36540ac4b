"""Trains the demo's detector and encoder on generated frames, and writes `demo/weights`.

`python -m demo.train [data] [detector] [encoder] [figures]`, all four when none is named. Both
models start from random weights. The detector is trained on a line that hardly ever shows the rare
parts, so that it is unsure of them in the demo, as a detector at work would be.

On two busy cores the data took 12 minutes, the detector 8, the encoder 20. A stopped training goes
on where it was.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from demo.scene import BALANCED, CLASSES, POOL, TRAINING, Mix, generate, write_frames

WEIGHTS = Path(__file__).parent / "weights"
WORK = Path(__file__).parent.parent / "var" / "demo-train"

IMAGE_SIDE = 256
EPOCHS = 12
WIDTH_MULTIPLE = 0.125

# The demo's pool has seed 1; training must not see it.
SETS: dict[str, tuple[int, int, Mix]] = {
    "train-a": (500, 101, TRAINING),
    "train-b": (500, 102, TRAINING),
    "check": (240, 202, POOL),
    "check-balanced": (160, 203, BALANCED),
}
"""Folder -> number of frames, seed, and what is on the line."""


def main(wanted: list[str]) -> None:
    """Do what is asked for, in the order data, detector, encoder, figures."""
    # No update checks, no package installs, no settings outside of the work folder.
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_CONFIG_DIR=str(WORK))
    WORK.mkdir(parents=True, exist_ok=True)
    WEIGHTS.mkdir(exist_ok=True)
    steps = {
        "data": make_data,
        "detector": train_detector,
        "encoder": _train_encoder,
        "figures": print_figures,
    }
    for name, step in steps.items():
        if name in wanted or not wanted:
            step()


def make_data() -> None:
    """Draw the detector's pictures that are not there yet."""
    missing = [name for name in SETS if not (WORK / name / "data.yaml").exists()]
    with ProcessPoolExecutor(max_workers=2) as workers:
        list(workers.map(_make_set, missing))
    data = {
        "path": str(WORK),
        "train": ["train-a/images", "train-b/images"],
        "val": "check/images",
        "names": dict(enumerate(CLASSES)),
    }
    (WORK / "data.yaml").write_text(json.dumps(data))
    (WORK / "balanced.yaml").write_text(json.dumps({**data, "val": "check-balanced/images"}))


def _make_set(name: str) -> None:
    import cv2

    cv2.setNumThreads(1)
    count, seed, mix = SETS[name]
    write_frames(WORK / name, generate(count, seed, mix=mix, lengths=(2, 2), singles=0.5))


def train_detector() -> None:
    """A narrow YOLO11 from scratch, at half resolution; goes on where it was stopped."""
    import yaml
    from ultralytics import YOLO
    from ultralytics.utils import ROOT as ULTRALYTICS

    last = WORK / "detector" / "weights" / "last.pt"
    if _is_finished(last):
        strip_detector(last, WEIGHTS / "detector.pt")
        return
    if last.exists():
        model, resume = YOLO(str(last)), True
    else:
        layout = yaml.safe_load((ULTRALYTICS / "cfg/models/11/yolo11.yaml").read_text())
        layout["scales"] = {"n": [0.5, WIDTH_MULTIPLE, 1024]}
        sketch = WORK / "yolo11n-narrow.yaml"
        sketch.write_text(yaml.safe_dump(layout))
        model, resume = YOLO(str(sketch), task="detect"), False
    model.add_callback("on_model_save", lambda _: strip_detector(last, WEIGHTS / "detector.pt"))
    model.train(
        data=str(WORK / "data.yaml"),
        resume=resume,
        imgsz=IMAGE_SIDE,
        rect=True,
        epochs=EPOCHS,
        batch=8,
        nbs=8,
        optimizer="AdamW",
        lr0=0.0015,
        cos_lr=True,
        warmup_epochs=1,
        fliplr=0.5,
        flipud=0.5,
        translate=0.05,
        scale=0.2,
        workers=0,
        cache="ram",
        device="cpu",
        seed=0,
        plots=False,
        val=False,
        amp=False,
        project=str(WORK),
        name="detector",
        exist_ok=True,
    )


def _is_finished(checkpoint: Path) -> bool:
    """Whether a checkpoint is of a training that ran to its end; Ultralytics marks it so."""
    import torch

    if not checkpoint.exists():
        return False
    return bool(torch.load(checkpoint, map_location="cpu", weights_only=False)["epoch"] == -1)


def strip_detector(trained: Path, to: Path) -> None:
    """Keep what inference needs, in half precision: no optimiser, no paths, no history."""
    import torch

    from backend.training.stripping import save_stripped

    checkpoint = torch.load(trained, map_location="cpu", weights_only=False)
    save_stripped(checkpoint.get("ema") or checkpoint["model"], to, image_size=IMAGE_SIDE)


def _train_encoder() -> None:
    from demo.encoder import train_encoder

    train_encoder(WEIGHTS, WORK)


def print_figures() -> None:
    """Print how good the weights are on frames that no training has seen, as JSON."""
    from demo.encoder import encoder_figures

    figures: dict[str, Any] = {"detector": detector_figures("data.yaml")}
    figures["detector, balanced classes"] = detector_figures("balanced.yaml")
    figures["encoder"] = encoder_figures(WEIGHTS)
    print(json.dumps(figures, indent=2))


def detector_figures(data: str) -> dict[str, Any]:
    """AP50 over all and per class on a data set of the work folder."""
    from ultralytics import YOLO

    found = YOLO(str(WEIGHTS / "detector.pt")).val(
        data=str(WORK / data), plots=False, workers=0, verbose=False, project=str(WORK), name="val"
    )
    per_class = zip(found.box.ap_class_index, found.box.ap50, strict=True)
    return {
        "mAP50": round(float(found.box.map50), 3),
        "AP50": {CLASSES[int(i)]: round(float(ap), 3) for i, ap in per_class},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
