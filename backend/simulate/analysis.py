"""From the records of a replay to what each arm saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from backend.errors import ScoreError
from backend.simulate.records import RoundPoint, Run
from backend.simulate.savings import Curve, Difference, Need, Saving, difference, needed, saving

__all__ = ["COSTS", "FULL", "RANDOM", "TARGETS", "Analysis", "ArmResult", "Cost", "TargetResult"]

Cost = Literal["images", "boxes", "effort"]
COSTS: tuple[str, ...] = get_args(Cost)

# Shares of the full pool's mAP50.
TARGETS = (0.7, 0.8, 0.9, 0.95)

# Seconds that an annotator needs: to look at an image (assumed), and for each box in it
# (Papadopoulos et al., 2017, "Extreme clicking for efficient object annotation").
SECONDS_PER_IMAGE = 5.0
SECONDS_PER_BOX = 7.0

RANDOM = "random"
FULL = "full"

_Curves = Mapping[int, Curve]


@dataclass(frozen=True)
class TargetResult:
    """One arm at one target: what it needs, and what that saves."""

    need: Need
    saving: Saving


@dataclass(frozen=True)
class ArmResult:
    """One arm.

    Args:
        arm: its name.
        seeds: its finished seeds.
        targets: one for each of `TARGETS`.
        area: mean mAP50 over `Analysis.shared` costs; None where the runs share no range.
        rare: the same of the mean AP50 of the rare classes; None also where there are none.
    """

    arm: str
    seeds: tuple[int, ...]
    targets: tuple[TargetResult, ...]
    area: Difference | None
    rare: Difference | None


@dataclass(frozen=True)
class Analysis:
    """What a replay showed.

    Args:
        cost: what labels are counted in.
        full_map50: mean over seeds of the training on the whole pool.
        full_cost: of labelling the whole pool.
        full_seeds: how many seeds that is the mean of.
        shared: the first and last cost that all runs share.
        rare_classes: the rarest third of the classes; empty with fewer than three.
        arms: random first, then the others by falling area, or by name.
        unfinished: (arm, seed, rounds made) of runs that were left out.
    """

    cost: Cost
    full_map50: float
    full_cost: float
    full_seeds: int
    shared: tuple[float, float]
    rare_classes: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    unfinished: tuple[tuple[str, int, int], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`; None: a bound that is not known."""
        data: dict[str, Any] = _finite(asdict(self))
        return data


def analyse(runs: Sequence[Run], *, cost: Cost, class_boxes: Mapping[str, int]) -> Analysis:
    """What each arm saved against random picks. The order of `runs` does not matter.

    Args:
        runs: the records; unfinished ones are left out, and named in the result.
        cost: what labels are counted in.
        class_boxes: class name to its number of boxes in the pool.

    Raises:
        ScoreError: no finished run of "full" or "random", one run is there twice, or a run cannot
            be counted in this cost.
    """
    curves = learning_curves(runs, cost)
    full = curves.pop(FULL, {})
    if not full:
        raise ScoreError("no training on the full pool is finished: let the replay end first")
    if RANDOM not in curves:
        raise ScoreError("no run of the arm random is finished: savings are measured against it")
    full_map50 = float(np.mean([full[seed].quality[-1] for seed in sorted(full)]))
    every = [curve for by_seed in curves.values() for curve in by_seed.values()]
    shared = (
        max(float(curve.cost[0]) for curve in every),
        min(float(curve.cost[-1]) for curve in every),
    )
    rare = rare_classes(runs, class_boxes)
    areas = _means(curves, shared)
    rare_areas = _means(learning_curves(runs, cost, classes=rare), shared) if rare else {}
    results = [
        ArmResult(
            arm,
            tuple(sorted(by_seed)),
            tuple(
                TargetResult(
                    needed(by_seed, share * full_map50),
                    saving(by_seed, curves[RANDOM], share * full_map50),
                )
                for share in TARGETS
            ),
            _against_random(areas, arm),
            _against_random(rare_areas, arm),
        )
        for arm, by_seed in curves.items()
    ]
    return Analysis(
        cost,
        full_map50,
        float(np.mean([full[seed].cost[-1] for seed in sorted(full)])),
        len(full),
        shared,
        rare,
        tuple(sorted(results, key=_place)),
        tuple(sorted((run.arm, run.seed, len(run.rounds)) for run in runs if not run.done)),
    )


def analyse_otherwise(
    runs: Sequence[Run], *, cost: Cost, class_boxes: Mapping[str, int]
) -> tuple[Analysis, ...]:
    """The same in the costs other than `cost`: a saving of images may be none of boxes.

    Boxes are left out where some run labelled none in its first round.

    Args:
        runs, cost, class_boxes: that `analyse` has taken.
    """
    others: list[Cost] = [other for other in get_args(Cost) if other != cost]
    if any(run.done and not run.rounds[0].boxes for run in runs):
        others = [other for other in others if other != "boxes"]
    return tuple(analyse(runs, cost=other, class_boxes=class_boxes) for other in others)


def learning_curves(
    runs: Sequence[Run], cost: Cost, *, classes: Sequence[str] = ()
) -> dict[str, dict[int, Curve]]:
    """Arm to seed to the learning curve of each finished run.

    Args:
        runs: the records.
        cost: what labels are counted in.
        classes: the curve is the mean of their AP50; none: it is mAP50.

    Raises:
        ScoreError: one run is there twice, or cannot be counted in this cost.
    """
    curves: dict[str, dict[int, Curve]] = {}
    for run in (run for run in runs if run.done):
        by_seed = curves.setdefault(run.arm, {})
        if run.seed in by_seed:
            raise ScoreError(f"the run of arm {run.arm}, seed {run.seed} is there twice")
        try:
            by_seed[run.seed] = Curve(
                np.array([_cost_of(point, cost) for point in run.rounds]),
                np.array([_quality_of(point, classes) for point in run.rounds]),
            )
        except ScoreError as error:
            raise ScoreError(f"arm {run.arm}, seed {run.seed}, in {cost}: {error}") from None
    return curves


def rare_classes(runs: Sequence[Run], class_boxes: Mapping[str, int]) -> tuple[str, ...]:
    """The rarest third, rounded down, of the classes that can be evaluated, rarest first.

    These have a box in the pool and one in the test set. Equally rare ones go by name.
    """
    tested = {
        name
        for run in runs
        for point in run.rounds
        for name, ap in point.per_class.items()
        if ap is not None
    }
    known = sorted((n, name) for name, n in class_boxes.items() if n and name in tested)
    return tuple(name for _, name in known[: len(known) // 3])


def _cost_of(point: RoundPoint, cost: Cost) -> float:
    if cost == "images":
        return float(point.labels)
    if cost == "boxes":
        return float(point.boxes)
    return SECONDS_PER_IMAGE * point.labels + SECONDS_PER_BOX * point.boxes


def _quality_of(point: RoundPoint, classes: Sequence[str]) -> float:
    if not classes:
        return point.map50
    values = [point.per_class.get(name) for name in classes]
    return float(np.mean([math.nan if value is None else value for value in values]))


def _means(
    curves: Mapping[str, _Curves], shared: tuple[float, float]
) -> dict[str, dict[int, float]]:
    """Arm to seed to the mean of its curve over the shared costs; nothing where there are none."""
    if shared[0] >= shared[1]:
        return {}
    return {
        arm: {seed: curve.mean(*shared) for seed, curve in by_seed.items()}
        for arm, by_seed in curves.items()
        if arm != FULL
    }


def _against_random(means: Mapping[str, Mapping[int, float]], arm: str) -> Difference | None:
    return difference(means[arm], means[RANDOM]) if means else None


def _place(result: ArmResult) -> tuple[bool, float, str]:
    area = -result.area.value if result.area else 0.0
    return result.arm != RANDOM, area, result.arm


def _finite(value: Any) -> Any:
    """`value` with None for infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
