"""Ultralytics' trainer, made to take an exact number of optimiser steps and to resume after a kill.

An Ultralytics training is counted in epochs of the data set. Here an "epoch" is a tenth of the
steps, whatever the number of images: batches are always full, small data sets are gone through
again and again, and a checkpoint is written after each tenth. Random numbers are reseeded at
each, so that a training that was killed and resumed ends in the same weights as an undisturbed one
(on a CPU, with the same number of threads).
"""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.disk import write_whole
from backend.errors import TrainingError
from backend.training.plan import TrainingPlan

_PARTS = 10
_WARM_UP = 0.1

# Share of the images of a training that may be without objects, of which one learns little.
_MOST_BACKGROUND = 0.2

RECIPE: dict[str, Any] = {
    # AdamW's steps are of one size for every layer, so that a fresh head learns in few of them.
    "optimizer": "AdamW",
    "lr0": 0.002,
    # Nothing that a short training would first have to get used to: no mosaics, small changes.
    "mosaic": 0.0,
    "close_mosaic": 0,
    "scale": 0.2,
    "translate": 0.05,
}
"""Chosen by AP after 120 steps on 120 generated frames; the rest is Ultralytics' default.

The rate: against 0.001, mAP50 after 250 steps rose from 0.53 to 0.58 with 200 scenes of the
benchmarks' pool A (batches of 16), and from 0.66 to 0.67 with 60 photographs of BCCD (of 8).
"""


def learning_rate_factor(step: int, steps: int) -> float:
    """0..1, what the learning rate is multiplied by at a step (from 0): a short rise, then a half
    cosine down to 0.01.

    >>> [round(learning_rate_factor(step, 100), 2) for step in (0, 9, 55, 99)]
    [0.1, 1.0, 0.51, 0.01]
    """
    rise = max(1, round(steps * _WARM_UP))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


class Order:
    """Indices of images in an endless order. A torch sampler.

    Images without objects make up at most `_MOST_BACKGROUND` of it, dealt in at even distances.
    Among those with objects, and among those without, each comes equally often.

    Attributes:
        position: how many indices were given; a resumed training sets it.
    """

    def __init__(self, is_background: Sequence[bool], *, epoch_length: int, seed: int) -> None:
        """Order images; `is_background[i]`: image i has no boxes.

        `len` of the sampler is `epoch_length`.
        """
        self.position = 0
        empty = np.asarray(is_background, dtype=bool)
        self._objects, self._backgrounds = np.flatnonzero(~empty), np.flatnonzero(empty)
        natural = len(self._backgrounds) / len(empty)
        self._share = min(natural, _MOST_BACKGROUND) if len(self._objects) else 1.0
        self._epoch_length = epoch_length
        self._seed = seed

    def __len__(self) -> int:
        return self._epoch_length

    def __iter__(self) -> Iterator[int]:
        while True:
            before, after = (int(self._share * at) for at in (self.position, self.position + 1))
            self.position += 1
            if after > before:
                yield self._nth(self._backgrounds, before, 1)
            else:
                yield self._nth(self._objects, self.position - 1 - before, 0)

    def _nth(self, images: NDArray[np.intp], count: int, kind: int) -> int:
        """The image that comes after `count` others of its kind."""
        lap, place = divmod(count, len(images))
        return int(images[_shuffled(len(images), (self._seed, kind, lap))[place]])


@lru_cache(maxsize=2)  # the laps of both kinds: each is gone through image by image
def _shuffled(count: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(count)


class _FixedSteps:
    """What is ours of the trainer. It overrides what Ultralytics documents as overridable."""

    steps_done = 0
    seconds_before = 0.0

    def run_callbacks(self: Any, event: str) -> None:
        # Nobody else is called: no reports, no loggers that happen to be installed.
        if event == "on_train_epoch_start":
            _seed_everything(self.plan.seed, self.epoch)

    def get_dataset(self: Any) -> dict[str, Any]:
        # Ultralytics' own looks for fonts to download.
        return _read_data(self.plan.data_yaml)

    def get_dataloader(
        self: Any, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        if mode != "train":
            return self.train_loader  # nothing is validated here
        from ultralytics.data.build import InfiniteDataLoader

        dataset = self.build_dataset(dataset_path, mode, batch_size)
        # Ultralytics halves a batch that does not fit into a GPU, and takes two for a step.
        epoch_length = part_steps(self.plan.steps) * self.plan.batch
        empty = [not len(label["cls"]) for label in dataset.labels]
        self.order = Order(empty, epoch_length=epoch_length, seed=self.plan.seed)
        self.order.position = self.steps_done * self.plan.batch
        return InfiniteDataLoader(
            dataset=dataset,
            batch_size=batch_size,
            sampler=self.order,
            num_workers=0,
            collate_fn=dataset.collate_fn,
        )

    def resume_training(self: Any, ckpt: Any) -> None:
        saved = _read_checkpoint(self.plan)
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        self.ema.ema.load_state_dict(saved["ema"])
        self.ema.updates = self.steps_done = saved["steps"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.seconds_before = saved["seconds"]
        self.order.position = self.steps_done * self.plan.batch
        self.resume = True
        super().resume_training({"epoch": saved["epoch"]})  # type: ignore[misc]

    def optimizer_step(self: Any) -> None:
        if not self.loss.isfinite():
            raise TrainingError(
                f"the training diverged: its loss was {self.loss.item()} at step "
                f"{self.steps_done + 1}; set MODEL to other base weights, or raise TRAIN_BATCH"
            )
        factor = learning_rate_factor(self.steps_done, self.plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        super().optimizer_step()  # type: ignore[misc]
        self.steps_done += 1
        self.stop = self.steps_done >= self.plan.steps
        self.report(self.steps_done)

    def validate(self: Any) -> tuple[dict[str, float], None]:
        return {}, None

    def save_metrics(self: Any, metrics: dict[str, Any]) -> None:
        losses = (f"{k} {v:.3f}" for k, v in metrics.items() if k.startswith("train/"))
        print(f"step {self.steps_done} of {self.plan.steps}:", ", ".join(losses))

    def save_model(self: Any) -> bool:
        if self.steps_done < self.plan.steps:
            _write_checkpoint(self.plan, self)
        return True

    def final_eval(self: Any) -> None:
        """Nothing: the caller evaluates the weights on data that this process never sees."""


def build_trainer(plan: TrainingPlan, model: Path, report: Callable[[int], None]) -> Any:
    """An Ultralytics `DetectionTrainer` for the plan; `train()` runs it.

    Args:
        plan: what to train on what.
        model: the base weights.
        report: called with the number of optimiser steps done, after each.
    """
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    from ultralytics.models.yolo.detect import DetectionTrainer

    class FixedStepsTrainer(_FixedSteps, DetectionTrainer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.plan, self.report = plan, report
            super().__init__(overrides=_arguments(plan, model))

    return FixedStepsTrainer()


def part_steps(steps: int) -> int:
    """Optimiser steps from one checkpoint to the next."""
    return math.ceil(steps / _PARTS)


def training_seconds(trainer: Any) -> float:
    """How long a trainer has trained, in seconds, before a kill and since."""
    return float(trainer.seconds_before + time.time() - trainer.train_time_start)


def _arguments(plan: TrainingPlan, model: Path) -> dict[str, Any]:
    """Ultralytics' arguments for a plan."""
    import torch

    # Not float16: Ultralytics would download a model to try it with.
    half = plan.device != "cpu" and torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        **RECIPE,
        "task": "detect",
        "model": str(model),
        "data": str(plan.data_yaml),
        "imgsz": plan.image_size,
        "epochs": math.ceil(plan.steps / part_steps(plan.steps)),
        "batch": plan.batch,
        "nbs": plan.batch,  # one batch is one optimiser step
        "warmup_epochs": 0,
        "patience": 0,
        "device": plan.device,
        "seed": plan.seed,
        "amp": "bf16" if half else False,
        "workers": 0,
        "cache": False,
        "val": False,
        "plots": False,
        "verbose": False,
        "project": str(plan.scratch),
        "name": "run",
        "exist_ok": True,
    }


def _read_data(data_yaml: Path) -> dict[str, Any]:
    """What Ultralytics wants to know of a data set."""
    from ultralytics.utils import YAML

    content = YAML.load(data_yaml)
    names = content["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else names
    folder = Path(content["path"])
    images = str(folder / content["train"])
    # What an interrupted scan may have left damaged; Ultralytics rewrites it.
    (folder / "labels.cache").unlink(missing_ok=True)
    facts = {"names": names, "nc": len(names), "channels": 3}
    return {"path": folder, "train": images, "val": images, **facts}


def _seed_everything(seed: int, epoch: int) -> None:
    import torch

    random.seed(seed * 1000 + epoch)
    np.random.seed((seed * 1000 + epoch) % 2**32)
    torch.manual_seed(seed * 1000 + epoch)


def _write_checkpoint(plan: TrainingPlan, trainer: Any) -> None:
    # Ultralytics' own checkpoint keeps only the averaged weights, in half precision: a resumed
    # training would go on from other weights. It is also loaded by unpickling, and a kill while it
    # is written may leave half a file.
    import torch

    buffer = io.BytesIO()
    content = {
        "key": plan.key(),
        "epoch": trainer.epoch,
        "steps": trainer.steps_done,
        "seconds": training_seconds(trainer),
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
    }
    torch.save(content, buffer)
    write_whole(plan.checkpoint, buffer.getvalue())


def _read_checkpoint(plan: TrainingPlan) -> dict[str, Any] | None:
    """Where this training was stopped; None where it begins."""
    import torch

    if not plan.checkpoint.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(plan.checkpoint, map_location="cpu", weights_only=True)
    # A damaged file may raise anything; what was trained is lost, and trained again.
    except Exception as error:
        print(f"the checkpoint is damaged ({type(error).__name__}): training from the beginning")
        return None
    return saved if saved["key"] == plan.key() else None
