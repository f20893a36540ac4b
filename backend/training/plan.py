"""The parameters of one training, and the paths of its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.vision.weights import content_hash, short_hash

# Raise it when the same plan would end in other weights: older checkpoints are then ignored.
_RECIPE = 1


@dataclass(frozen=True)
class TrainingPlan:
    """One training, from base weights to trained weights.

    Args:
        base: the base weights, a .pt file.
        data_yaml: the data set, see `dataset.write_dataset`.
        folder: the training's own folder; everything it writes lies there.
        image_size: longer side of the network's input in pixels, a multiple of 32.
        steps: optimiser steps.
        batch: images in one step.
        device: "cpu" or "cuda:N".
        seed: of the order of the images, of augmentation and of fresh layers.
        minutes: a training that takes longer is ended.
        threads: of torch on a CPU; 0 leaves half of the cores free.
    """

    base: Path
    data_yaml: Path
    folder: Path
    image_size: int
    steps: int
    batch: int
    device: str = "cpu"
    seed: int = 0
    minutes: float = 120.0
    threads: int = 0

    @property
    def weights(self) -> Path:
        """Where the trained weights will lie."""
        return self.folder / "weights.pt"

    @property
    def result(self) -> Path:
        """What is written last of all: it says that `weights` are of this plan."""
        return self.folder / "result.json"

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted training goes on."""
        return self.folder / "checkpoint.pt"

    @property
    def scratch(self) -> Path:
        """For what Ultralytics writes; gone when the training has ended."""
        return self.folder / "scratch"

    @property
    def log(self) -> Path:
        """What the training process printed last."""
        return self.folder / "train.log"

    def key(self) -> str:
        """12 hex digits that change whenever the trained weights would change.

        Raises:
            WeightsError: the base weights cannot be read.
        """
        data = str(self.data_yaml.absolute())
        numbers = (self.image_size, self.steps, self.batch, self.seed)
        return short_hash(_RECIPE, content_hash(self.base), data, *numbers)

    def save(self, path: Path) -> None:
        """Write the plan as JSON.

        Raises:
            OSError: it cannot be written.
        """
        content = {
            name: str(value.absolute()) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_plan(path: Path) -> TrainingPlan:
    """The plan that `TrainingPlan.save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    paths = {name: Path(content[name]) for name in ("base", "data_yaml", "folder")}
    return TrainingPlan(**{**content, **paths})
