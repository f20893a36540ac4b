"""The training process: `python -m backend.training.process PLAN.json`, started by `trainer.train`.

It reports every step to its parent, or why it failed, as lines of JSON on standard output. Whatever
Ultralytics prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from backend.disk import is_disk_full, write_whole
from backend.errors import HardestFirstError, TrainingError
from backend.parent import end_with_parent
from backend.training.plan import TrainingPlan, read_plan

_NICENESS = 10
_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def main(arguments: list[str]) -> int:
    """Train as the plan says. Returns the exit status."""
    end_with_parent(os.getppid())
    os.nice(_NICENESS)
    # The pipe to the parent gets a number of its own: libraries print to standard output.
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as parent:
        os.dup2(2, 1)
        plan = read_plan(Path(arguments[0]))
        try:
            train_here(plan, lambda steps: _tell(parent, steps=steps))
        except BrokenPipeError:
            return 1  # the parent is gone
        except Exception as error:
            traceback.print_exc()
            _tell(parent, error=explain(error))
            return 1
    return 0


def explain(error: Exception) -> str:
    """One line that says why a training failed, and the remedy."""
    if isinstance(error, HardestFirstError):
        return str(error)
    text = " ".join(str(error).split())
    if is_disk_full(error):
        return "the disk is full: free some space under DATA_DIR and train again"
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return (
            "the training ran out of memory: set a smaller TRAIN_BATCH or TRAIN_IMAGE_SIZE, or "
            "stop what else uses the device"
        )
    return f"the training failed ({type(error).__name__}: {text[:200]}); see train.log"


def train_here(
    plan: TrainingPlan, on_step: Callable[[int], None], *, keep_checkpoints: bool = True
) -> None:
    """Train in this very process; `plan.weights` are there when it returns.

    Args:
        plan: what to train; nobody else works in its folder.
        on_step: called with the number of optimiser steps done, after each.
        keep_checkpoints: write one after each tenth of the steps. In short trainings that takes a
            quarter of the time.

    Raises:
        TrainingError: the training diverged.
        WeightsError: the base weights cannot be trained.
    """
    import torch

    from backend.training.steps import build_trainer, training_seconds
    from backend.training.stripping import save_stripped
    from backend.vision.yolo import read_checkpoint

    read_checkpoint(plan.base, dynamic=False)  # raises, with the remedy, what cannot be trained
    # A name of our own: ultralytics takes some names for other files, and downloads those.
    base = plan.scratch / "base.pt"
    plan.scratch.mkdir(parents=True, exist_ok=True)
    base.unlink(missing_ok=True)
    base.symlink_to(plan.base.resolve())
    trainer = build_trainer(plan, base, on_step)
    trainer.args.save = keep_checkpoints
    torch.set_num_threads(plan.threads or max(1, (os.cpu_count() or 1) // 2))
    trainer.train()
    network = trainer.ema.ema
    if not all(bool(x.isfinite().all()) for x in network.state_dict().values()):
        raise TrainingError(
            "the training diverged: its weights are not finite; set MODEL to other base weights, "
            "or raise TRAIN_BATCH"
        )
    save_stripped(network, plan.weights, image_size=plan.image_size)
    result = {"key": plan.key(), "steps": trainer.steps_done, "seconds": training_seconds(trainer)}
    write_whole(plan.result, json.dumps(result).encode())
    plan.checkpoint.unlink(missing_ok=True)


def _tell(parent: TextIO, **message: Any) -> None:
    parent.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
