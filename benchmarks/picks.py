"""What each way to score an image would label next: `python -m benchmarks.picks DATA_YAML OUT`.

A replay judges a way to pick by trainings, which take hours. This looks through the eyes of one
model that a replay (OUT, by `python -m backend simulate`) has left, at the images that were not
labelled then, and counts what the next picks of each side hold. All sides pick from the very same
detections. It prints JSON.

Sides are an aggregation and what it aggregates, each with the spread of the default strategy.
`top-k of those there` is what `top-k` was before: the mean of three boxes, or of fewer where there
are fewer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.embeddings import mean_direction
from backend.errors import HardestFirstError, SimulationError
from backend.loop.scoring import CROPS
from backend.settings import load_settings
from backend.simulate.arms import PoolView, order_by_model
from backend.simulate.datasets import ReplayData, read_data
from backend.simulate.plan import ReplayPlan
from backend.simulate.replay import read_picks, recorded, run_folder, score_columns
from backend.simulate.stage import Stage, observe
from backend.uncertainty import AGGREGATIONS, ImageScores, score_image
from backend.vision.decoder import DecoderOptions
from backend.vision.models import Models, Observation
from benchmarks.machine import machine, progress

ARM = "diverse_uncertainty"
_FORMER = "top-k of those there"


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
    still_open = [place for place in range(len(data.pool)) if place not in set(labelled)]
    rows = stage.joined(
        {
            str(place): mean_direction(one.object_embeddings)
            for place, one in enumerate(seen)
            if len(one.object_embeddings)
        }
    )
    sides = {}
    for aggregation in (*AGGREGATIONS, _FORMER):
        scores = [_score(seen[place], aggregation) for place in still_open]
        shown = np.zeros(len(still_open), dtype=np.intp)
        view = PoolView(score_columns(still_open, scores), shown, rows[still_open], rows[labelled])
        for strategy in ("combined", ARM):
            order = order_by_model(strategy, view, settings, picks=picks)
            sides[f"{aggregation}, {strategy}"] = _count(data, labelled, order[:picks])
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
    for one in observe(models, stage.data.pool, crops=CROPS):
        seen.append(one)
        if len(seen) % 500 == 0:
            progress(f"looked at {len(seen)} of {len(stage.data.pool)} images")
    return seen


def _score(seen: Observation, aggregation: str) -> ImageScores:
    found = seen.detections
    floor, k = DecoderOptions().floor, 3
    if aggregation == _FORMER:
        aggregation, k = "top-k", min(k, max(1, len(found)))
    return score_image(
        found.class_scores,
        peak_score=found.peak_score,
        floor=floor,
        aggregation=aggregation,
        k=k,
    )


def _count(data: ReplayData, labelled: Sequence[int], picks: Sequence[int]) -> Mapping[str, int]:
    """How many picks are empty, and how many scenes with objects they add to those labelled."""

    def scenes(places: Iterable[int]) -> set[str]:
        filled = (data.pool[place] for place in places if len(data.pool[place].truth))
        # Names of one sequence begin alike: see `pools`. A scene of its own has no such ending.
        return {image.path.stem.partition("-")[0] for image in filled}

    return {
        "empty": sum(not len(data.pool[place].truth) for place in picks),
        "new_scenes": len(scenes(picks) - scenes(labelled)),
        "boxes": sum(len(data.pool[place].truth) for place in picks),
    }


def main(arguments: list[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picks", description=__doc__)
    parser.add_argument("data_yaml", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arm", default=ARM)
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
