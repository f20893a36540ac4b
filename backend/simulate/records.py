"""The record of one run, one JSON file each: what a replay measured, round by round."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.disk import write_whole
from backend.errors import StoreError

_MISSING = "delete it, and the replay makes it again"


@dataclass(frozen=True)
class RoundPoint:
    """One round: what was labelled, and how good the model trained on it is on the test set.

    Args:
        labels: images labelled so far, at least 1.
        boxes: boxes in them.
        map50: mean over classes of AP at IoU 0.50, in 0..1, higher = better.
        map50_95: the same, averaged over the IoU thresholds 0.50, 0.55 .. 0.95.
        per_class: class name to its AP at IoU 0.50; None: the test set has no box of it.
        seconds: how long the round took.
    """

    labels: int
    boxes: int
    map50: float
    map50_95: float
    per_class: Mapping[str, float | None]
    seconds: float


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Args:
        arm: what picked the images; "full" is the training on the whole pool.
        seed: of the initial images and of training; runs of one seed are paired.
        done: whether all rounds were made.
        rounds: in order; labels and boxes never fall.
    """

    arm: str
    seed: int
    done: bool
    rounds: tuple[RoundPoint, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, for `json.dumps`."""
        return asdict(self)


def run_path(out: Path, arm: str, seed: int) -> Path:
    """Where the record of a run lies under the replay's folder `out`."""
    return out / "runs" / f"{arm}-s{seed}.json"


def write_run(run: Run, out: Path) -> Path:
    """Write or replace a record; a process killed meanwhile leaves the old one.

    Raises:
        StoreError: it cannot be written.
    """
    path = run_path(out, run.arm, run.seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(run.as_json(), indent=1).encode())
    except OSError as error:
        raise StoreError(
            f"The record {path} cannot be written ({error.strerror}): name another folder"
        ) from None
    return path


def read_run(path: Path) -> Run:
    """The run that `write_run` wrote, finished or not.

    Raises:
        StoreError: there is no such file, it is damaged, or it is the record of another run.
    """
    try:
        run = parse_run(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StoreError(f"The record {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"The record {path} is damaged ({error!r}): {_MISSING}") from None
    if path.name != run_path(path.parent, run.arm, run.seed).name:
        raise StoreError(f"The record {path} is of arm {run.arm}, seed {run.seed}: {_MISSING}")
    return run


def read_runs(out: Path) -> list[Run]:
    """All runs under the replay's folder `out`, by arm and seed; none where there is no folder.

    Raises:
        StoreError: one of them is damaged.
    """
    runs = [read_run(path) for path in (out / "runs").glob("*.json")]
    return sorted(runs, key=lambda run: (run.arm, run.seed))


def parse_run(data: Mapping[str, Any]) -> Run:
    """The run that `Run.as_json` made plain.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no run.
    """
    run = Run(
        arm=str(data["arm"]),
        seed=int(data["seed"]),
        done=bool(data["done"]),
        rounds=tuple(_point(point) for point in data["rounds"]),
    )
    for before, after in zip(run.rounds, run.rounds[1:], strict=False):
        if after.labels <= before.labels or after.boxes < before.boxes:
            raise ValueError("the number of labels falls from one round to the next")
    if run.done and not run.rounds:
        raise ValueError("done without a round")
    return run


def _point(data: Mapping[str, Any]) -> RoundPoint:
    point = RoundPoint(
        labels=int(data["labels"]),
        boxes=int(data["boxes"]),
        map50=float(data["map50"]),
        map50_95=float(data["map50_95"]),
        per_class={k: None if v is None else float(v) for k, v in data["per_class"].items()},
        seconds=float(data["seconds"]),
    )
    scores = [point.map50, point.map50_95, *(v for v in point.per_class.values() if v is not None)]
    if not all(math.isfinite(v) and 0 <= v <= 1 for v in scores):
        raise ValueError("an AP outside 0..1")
    if point.labels < 1 or point.boxes < 0:
        raise ValueError(f"{point.labels} images and {point.boxes} boxes")
    return point
