"""What a replay is to do, and the note of it that its folder keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.disk import write_whole
from backend.errors import SimulationError
from backend.settings import Settings
from backend.simulate.analysis import FULL
from backend.simulate.arms import check_arms
from backend.simulate.datasets import ReplayData
from backend.training.trainer import steps_for


@dataclass(frozen=True)
class ReplayPlan:
    """A replay of several arms with several seeds.

    Args:
        out: the replay's folder.
        model: the weights (.pt) or the architecture (.yaml) that every training starts from.
        arms: what picks, without "full".
        seeds: how many; they are numbered from 0.
        initial: images of the first round, picked at random.
        batch: images picked in the second round.
        rounds: trainings of a run, the one on the initial images included.
        image_size: longer side of the network's input in pixels, a multiple of 32.
        steps: optimiser steps of every training; 0: by the number of its images.
        growth: each further batch is so many times the one before; at least 1.
    """

    out: Path
    model: Path
    arms: tuple[str, ...]
    seeds: int
    initial: int
    batch: int
    rounds: int
    image_size: int
    steps: int
    growth: float = 1.0

    def runs(self) -> list[tuple[str, int]]:
        """(arm, seed) of all runs, in the order in which they are begun."""
        return [(arm, seed) for seed in range(self.seeds) for arm in (FULL, *self.arms)]

    def labels_of(self, arm: str, pool: int) -> list[int]:
        """How many images of a pool of `pool` are labelled in each round of an arm.

        Rounds for which the pool has no full batch left are not made.
        """
        if arm == FULL:
            return [pool]
        batches = (round(self.batch * self.growth**place) for place in range(self.rounds - 1))
        counts = accumulate(batches, initial=self.initial)
        return [count for count in counts if count <= pool]

    def steps_of(self, labels: int) -> int:
        """Optimiser steps of a training on so many images."""
        return self.steps or steps_for(labels)


def initial_order(seed: int, images: int) -> NDArray[np.intp]:
    """(images,) the pool in the random order of a seed: its beginning is labelled first."""
    return np.random.default_rng(seed).permutation(images)


def check_plan(plan: ReplayPlan, data: ReplayData) -> list[str]:
    """Look for what would stop the replay later, before any training.

    An initial set that lacks a class is allowed, as it happens to users too: all arms of a seed
    have it in common.

    Returns:
        What a reader of the results should know, one line each.

    Raises:
        SimulationError: the plan does not fit the data.
    """
    check_arms(plan.arms)
    pool = len(data.pool)
    if plan.initial + plan.batch > pool:
        raise SimulationError(
            f"--initial {plan.initial} and --batch {plan.batch} are more than the {pool} images of "
            "the pool: choose smaller ones"
        )
    if plan.image_size % 32:
        raise SimulationError(f"--imgsz {plan.image_size} is no multiple of 32")
    notes = []
    made = len(plan.labels_of(plan.arms[0], pool))
    if made < plan.rounds:
        notes.append(f"the pool is used up after {made} of {plan.rounds} rounds")
    for seed in range(plan.seeds):
        places = initial_order(seed, pool)[: plan.initial]
        seen = {index for place in places for index in data.pool[place].truth.class_ids.tolist()}
        if not seen:
            raise SimulationError(
                f"the {plan.initial} initial images of seed {seed} have no box to train on: choose "
                "a larger --initial"
            )
        lacking = [name for index, name in enumerate(data.class_names) if index not in seen]
        if lacking:
            notes.append(f"the initial images of seed {seed} lack {', '.join(lacking)}")
    return notes


def settle(plan: ReplayPlan, data: ReplayData, settings: Settings) -> None:
    """Write down in the replay's folder what decides its runs, or find the same there.

    More arms, seeds and rounds may be asked for later: what there is of them stays true.

    Raises:
        SimulationError: another replay's folder, or one that cannot be written.
    """
    ours = _deciding(plan, data, settings)
    path = plan.out / "plan.json"
    try:
        if not path.exists():
            plan.out.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(ours, indent=1).encode())
            return
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SimulationError(
            f"{plan.out} cannot be written ({error.strerror}): name another folder with --out"
        ) from None
    except ValueError:
        raise SimulationError(f"{path} is damaged: name another folder with --out") from None
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise SimulationError(
                f"{plan.out} holds a replay with another {name} ({theirs.get(name)}, not {value}): "
                "name another folder with --out"
            )


def _deciding(plan: ReplayPlan, data: ReplayData, settings: Settings) -> dict[str, Any]:
    from backend.vision.weights import content_hash

    encoder: str = settings.encoder
    if encoder == "openclip":
        encoder = f"{settings.clip_model} {settings.clip_pretrained}"
    return {
        "data": data.fingerprint(),
        # A published architecture is a name, not a file.
        "model": content_hash(plan.model)[:12] if plan.model.is_file() else plan.model.name,
        "initial": plan.initial,
        "batch": plan.batch,
        "growth": plan.growth,
        "imgsz": plan.image_size,
        "steps": plan.steps,
        "TRAIN_BATCH": settings.train_batch,
        "ENCODER": encoder,
        "STRATEGY_WEIGHTS": dict(settings.strategy_weights),
        "DIVERSITY_WEIGHT": settings.diversity_weight,
        "MODEL_SCORE_THRESHOLD": settings.model_score_threshold,
    }
