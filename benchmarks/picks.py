"""What each way to score an image would label next: `python -m benchmarks.picks DATA_YAML OUT`.

A replay evaluates a way to pick by trainings, which take hours. This looks through the eyes of one
model that a replay (OUT, by `python -m backend simulate`) has left, at the images that were not
labelled then, and counts what the next picks of each side hold. All sides pick from the very same
detections. It prints JSON.

A side is a way to score an image, in the order of its scores alone (`combined`) and with the spread
of the default strategy. Besides the aggregations there is `top-k of those there`, which is what
`top-k` was before: the mean of three boxes, or of fewer where there are fewer. The default is also
there with weights by class to several powers, and with a box weighed by its classes alone, as if
none were background.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.errors import HardestFirstError, SimulationError
from backend.selection.class_weights import class_weights, weigh_image
from backend.settings import load_settings
from backend.simulate.analysis import rare_classes
from backend.simulate.arms import DEFAULT, PoolView, order_by_model
from backend.simulate.datasets import ReplayData, read_data
from backend.simulate.plan import ReplayPlan
from backend.simulate.records import read_runs
from backend.simulate.replay import read_picks, recorded, run_folder, score_columns
from backend.simulate.stage import Stage, observe
from backend.uncertainty import (
    AGGREGATIONS,
    MEASURES,
    ImageScores,
    aggregate,
    score_image,
)
from backend.vision.decoder import DecoderOptions
from backend.vision.models import Models, Observation
from benchmarks.machine import machine, progress

_CLASS_POWERS = (0.25, 0.5, 1.0)
_K = 3  # boxes that top-k looks at
_FLOOR = DecoderOptions().floor

Scoring = Callable[[Detections], ImageScores]
Weighing = Callable[[Detections], float]


def measure(data_yaml: Path, out: Path, *, arm: str, seed: int, picks: int) -> dict[str, Any]:
    """Look at a pool as the last model of one run does, and count what each side picks.

    Args:
        data_yaml: the labelled data set.
        out: the replay's folder.
        arm, seed: the run whose last model looks.
        picks: how many images each side picks.

    Raises:
        HardestFirstError: the data set or the run cannot be read.
    """
    data = read_data(data_yaml)
    settings = load_settings(encoder="detector")
    plan = ReplayPlan(out, out / "base.pt", (arm,), seed + 1, 1, 1, 1, 32, 1)
    stage = Stage(plan, data, settings)
    rounds = recorded(out, arm, seed).rounds
    if not rounds:
        raise SimulationError(f"{out} holds no round of {arm}, seed {seed}: replay it first")
    folder = run_folder(out, arm, seed)
    labelled = read_picks(folder)[: rounds[-1].labels]
    seen = _look(stage, folder / f"round-{len(rounds) - 1:02d}" / "weights.pt")
    rare = rare_classes(read_runs(out), data.boxes_by_class())
    still_open = sorted(set(range(len(data.pool))) - set(labelled))
    rows = stage.joined(np.array([one.object_vector for one in seen]))
    found = [seen[place].detections for place in still_open]
    shown = np.zeros(len(found), dtype=np.intp)

    def count(strategy: str, score: Scoring, weigh: Weighing) -> Mapping[str, int]:
        columns = score_columns(still_open, list(map(score, found)), list(map(weigh, found)))
        view = PoolView(columns, shown, rows[still_open], rows[labelled])
        order = order_by_model(strategy, view, settings, picks=picks)
        return _count(data, labelled, order[:picks], rare)

    sides = {}
    for side, score in _scorings().items():
        for strategy in ("combined", "no_class_weights"):
            sides[f"{side}, {strategy}"] = count(strategy, score, lambda _: 1.0)
    for side, weigh in _weighings(data.boxes_on(labelled)).items():
        sides[f"top-k, {DEFAULT}, {side}"] = count(DEFAULT, _score, weigh)
    return {
        **machine(),
        "run": {"arm": arm, "seed": seed, "labels": len(labelled), "map50": rounds[-1].map50},
        "picks": picks,
        "sides": sides,
    }


def _look(stage: Stage, weights: Path) -> list[Observation]:
    from backend.vision.yolo import load_detector

    models = Models(load_detector(weights, device="cpu", export_dir=None), stage.encoder("cpu"))
    seen = []
    for one in observe(models, stage.data.pool):
        seen.append(one)
        if len(seen) % 500 == 0:
            progress(f"looked at {len(seen)} of {len(stage.data.pool)} images")
    return seen


def _scorings() -> dict[str, Scoring]:
    """Every way to score an image, by name."""
    return {
        **{name: partial(_score, aggregation=name) for name in AGGREGATIONS},
        "top-k of those there": lambda found: _score(found, k=min(_K, max(1, len(found)))),
    }


def _weighings(boxes: Sequence[int]) -> dict[str, Weighing]:
    """Every way to weigh an image by its classes, by name; `boxes`: (C,) how many are labelled."""

    def weigh(weights: NDArray[np.float64], found: Detections) -> float:
        return weigh_image(found.class_scores, weights, floor=_FLOOR)

    return {
        **{
            f"power {power}": partial(weigh, class_weights(boxes, power=power))
            for power in _CLASS_POWERS
        },
        "classes alone": partial(_by_classes_alone, class_weights(boxes)),
    }


def _score(found: Detections, *, aggregation: str = "top-k", k: int = _K) -> ImageScores:
    return score_image(
        found.class_scores,
        peak_score=found.peak_score,
        floor=_FLOOR,
        aggregation=aggregation,
        k=k,
    )


def _by_classes_alone(weights: NDArray[np.float64], found: Detections) -> float:
    if not len(found):
        return 1.0
    rows = found.class_scores
    utilities = np.mean([measure(rows) for measure in MEASURES.values()], axis=0)
    by_class = rows @ weights / rows.sum(axis=1)
    return aggregate(utilities * by_class, k=_K) / aggregate(utilities, k=_K)


def _count(
    data: ReplayData, labelled: Sequence[int], picks: Sequence[int], rare: Sequence[str]
) -> Mapping[str, int]:
    """How many picks are empty, how many scenes with objects they add to those labelled, and how
    many boxes, some of them of `rare` classes."""

    def scenes(places: Iterable[int]) -> set[str]:
        filled = (data.pool[place] for place in places if len(data.pool[place].truth))
        # Names of one sequence begin alike: see `pools`. A scene of its own has no such ending.
        return {image.path.stem.partition("-")[0] for image in filled}

    boxes = data.boxes_on(picks)
    return {
        "empty": sum(not len(data.pool[place].truth) for place in picks),
        "new_scenes": len(scenes(picks) - scenes(labelled)),
        "boxes": sum(boxes),
        "rare_boxes": sum(boxes[data.class_names.index(name)] for name in rare),
    }


def main(arguments: list[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picks", description=__doc__)
    parser.add_argument("data_yaml", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arm", default=DEFAULT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picks", type=int, default=36)
    chosen = parser.parse_args(arguments)
    try:
        found = measure(
            chosen.data_yaml, chosen.out, arm=chosen.arm, seed=chosen.seed, picks=chosen.picks
        )
    except HardestFirstError as error:
        progress(str(error))
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
