"""One run of a replay: an arm, a seed, round after round of pick, reveal, train and evaluate.

After each round the run is on disk: the record, the picks, and the weights that make the next
picks. A run that is called again goes on after its last finished round. A training whose images
another arm of the same seed had in the same round is not made twice: it would end in the same
weights.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from backend.disk import write_whole
from backend.errors import SimulationError
from backend.scoring.scorer import score_detections
from backend.selection.class_weights import class_weights
from backend.simulate.analysis import FULL
from backend.simulate.arms import (
    PoolView,
    compares_objects,
    fixed_order,
    order_by_model,
    spreads,
)
from backend.simulate.plan import initial_order
from backend.simulate.records import RoundPoint, Run, read_run, read_runs, run_path, write_run
from backend.simulate.stage import Stage, image_name, observe
from backend.store.scores import ScoreColumns
from backend.training.matching import match_image, relative_predictions
from backend.training.plan import TrainingPlan
from backend.training.quality import EVALUATION_FLOOR, Quality, measure
from backend.uncertainty import ImageScores
from backend.vision.encoder import DetectorEncoder
from backend.vision.models import Models

# Seeds of trainings: another one each round, the same for all arms.
_SEEDS_A_RUN = 1000

_PICKS = "picks.json"


def recorded(out: Path, arm: str, seed: int) -> Run:
    """The record of a run so far, without rounds where it has not begun.

    Raises:
        StoreError: the record is damaged.
    """
    path = run_path(out, arm, seed)
    return read_run(path) if path.exists() else Run(arm, seed, False, ())


class Replay:
    """One run, from its last round to its end. One process at a time may work on it.

    Args:
        stage: what all runs share, prepared.
        arm: what picks.
        seed: of the initial images and of the trainings.
        device: "cpu" or "cuda:N".
        threads: of torch on a CPU.
    """

    def __init__(self, stage: Stage, arm: str, seed: int, *, device: str, threads: int) -> None:
        self._stage = stage
        self._arm = arm
        self._seed = seed
        self._device = device
        self._threads = threads
        self._permutation = initial_order(seed, len(stage.data.pool))
        self._folder = run_folder(stage.plan.out, arm, seed)
        self._fixed = fixed_order(arm, self._permutation, stage.joined(), stage.settings)

    def run(self, on_steps: Callable[[int], None]) -> Run:
        """Make the rounds that are missing.

        Args:
            on_steps: called with the optimiser steps that this run has taken, those of earlier
                calls included.

        Raises:
            HardestFirstError: a training or a file failed; finished rounds are kept.
        """
        plan = self._stage.plan
        record = recorded(plan.out, self._arm, self._seed)
        counts = plan.labels_of(self._arm, len(self._stage.data.pool))
        for number in range(len(record.rounds), len(counts)):
            began = time.monotonic()
            before = sum(map(plan.steps_of, counts[:number]))
            labelled = self._labelled(number, counts)
            point = self._twin(number, labelled)
            if point is None:
                weights = self._train(number, labelled, _after(before, on_steps))
                quality = self._evaluate(weights)
                point = self._point(labelled, quality, time.monotonic() - began)
                if number == 0 and self._arm != FULL:
                    weights.replace(self._first_weights)
            on_steps(before + plan.steps_of(len(labelled)))
            record = Run(self._arm, self._seed, False, (*record.rounds, point))
            write_run(record, plan.out)
            shutil.rmtree(self._round_folder(number - 1), ignore_errors=True)
        if len(record.rounds) >= len(counts) and not record.done:
            record = Run(self._arm, self._seed, True, record.rounds)
            write_run(record, plan.out)
        return record

    def _round_folder(self, number: int) -> Path:
        return self._folder / f"round-{number:02d}"

    def _labelled(self, number: int, counts: Sequence[int]) -> list[int]:
        """The places in the pool that are labelled in a round, in the order of picking."""
        path = self._folder / _PICKS
        picks = read_picks(self._folder)
        if number and len(picks) < counts[number - 1]:
            raise self._lost(path)
        if len(picks) < counts[number]:
            picks += self._pick(picks, counts[number] - len(picks), number)
            self._folder.mkdir(parents=True, exist_ok=True)
            # Before the training: one that is begun again has the same images.
            write_whole(path, json.dumps(picks).encode())
        return picks[: counts[number]]

    def _lost(self, path: Path) -> SimulationError:
        record = run_path(self._stage.plan.out, self._arm, self._seed)
        return SimulationError(f"{path} is gone: delete {record}, and the run is made again")

    def _pick(self, labelled: Sequence[int], count: int, number: int) -> list[int]:
        if number == 0:
            order = self._permutation.tolist()
        elif self._fixed is not None:
            order = self._fixed
        else:
            view = self._look(self._weights(number - 1), labelled)
            order = order_by_model(self._arm, view, self._stage.settings, picks=count)
        known = set(labelled)
        return [place for place in order if place not in known][:count]

    def _twin(self, number: int, labelled: Sequence[int]) -> RoundPoint | None:
        """What another arm of this seed measured in this round with the very same images."""
        # An arm that asks the model needs the weights too: kept of the first round only.
        if not (self._first_weights.exists() if number == 0 else self._fixed):
            return None
        for run in read_runs(self._stage.plan.out):
            if run.seed == self._seed and len(run.rounds) > number:
                picks = read_picks(run_folder(self._stage.plan.out, run.arm, run.seed))
                if set(picks[: run.rounds[number].labels]) == set(labelled):
                    return run.rounds[number]
        return None

    @property
    def _first_weights(self) -> Path:
        """Of the first round, which all arms of a seed have in common."""
        return self._stage.plan.out / "work" / f"first-s{self._seed}.pt"

    def _weights(self, number: int) -> Path:
        path = self._round_folder(number) / "weights.pt" if number else self._first_weights
        if not path.exists():
            raise self._lost(path)
        return path

    def _look(self, weights: Path, labelled: Sequence[int]) -> PoolView:
        """Score the pool with the model of the last round."""
        from backend.vision.yolo import load_detector

        detector = load_detector(weights, device=self._device, export_dir=None)
        with_objects = compares_objects(self._arm)
        pool = self._stage.data.pool
        known = set(labelled)
        open_places = [place for place in self._permutation.tolist() if place not in known]
        # Labelled images are looked at for the sake of their objects only.
        looked_at = [*open_places, *labelled] if with_objects else open_places
        of_classes = class_weights(self._stage.data.boxes_on(labelled))
        scores, by_class, shown, objects = [], [], [], []
        models = Models(detector, DetectorEncoder(detector))
        for seen in observe(models, [pool[place] for place in looked_at]):
            found = seen.detections
            scored, weight = score_detections(found, floor=detector.floor, class_weights=of_classes)
            scores.append(scored)
            by_class.append(weight)
            shown.append(len(found.above(self._stage.settings.model_score_threshold)))
            objects.append(seen.object_vector)
        opened = slice(len(open_places))
        columns = score_columns(open_places, scores[opened], by_class[opened])
        counted = np.array(shown[opened], dtype=np.intp)
        if not spreads(self._arm):
            return PoolView(columns, counted)
        # In the order of the pool; every image was looked at.
        by_place = np.array(objects)[np.argsort(looked_at)] if with_objects else None
        rows = self._stage.joined(by_place)
        return PoolView(columns, counted, rows[open_places], rows[list(labelled)])

    def _train(self, number: int, labelled: Sequence[int], on_step: Callable[[int], None]) -> Path:
        from backend.training.process import train_here

        plan = TrainingPlan(
            base=self._stage.base,
            data_yaml=self._link_images(labelled),
            folder=self._round_folder(number),
            image_size=self._stage.plan.image_size,
            steps=self._stage.plan.steps_of(len(labelled)),
            batch=self._stage.settings.train_batch,
            device=self._device,
            seed=_SEEDS_A_RUN * self._seed + number,
            threads=self._threads,
        )
        train_here(plan, on_step, keep_checkpoints=False)
        shutil.rmtree(plan.scratch, ignore_errors=True)
        return plan.weights

    def _link_images(self, places: Sequence[int]) -> Path:
        """A YOLO data set of some images of the pool, by links; its YAML."""
        folder = (self._folder / "data").absolute()
        shutil.rmtree(folder, ignore_errors=True)
        pool = self._stage.pool_folder.absolute()
        for part, ending in (("images", ".jpg"), ("labels", ".txt")):
            (folder / part).mkdir(parents=True)
            for place in places:
                name = f"{image_name(place)}{ending}"
                (folder / part / name).symlink_to(pool / part / name)
        content = json.loads((pool / "data.yaml").read_text(encoding="utf-8"))
        path = folder / "data.yaml"
        path.write_text(json.dumps({**content, "path": str(folder)}), encoding="utf-8")
        return path

    def _evaluate(self, weights: Path) -> Quality:
        from backend.vision.decoder import DecoderOptions
        from backend.vision.yolo import load_detector

        options = DecoderOptions(floor=EVALUATION_FLOOR)
        detector = load_detector(weights, device=self._device, export_dir=None, options=options)
        test = self._stage.data.test
        seen_all = observe(Models(detector, DetectorEncoder(detector)), test)
        matches = [
            match_image(relative_predictions(seen.detections), image.truth)
            for image, seen in zip(test, seen_all, strict=True)
        ]
        return measure(matches, self._stage.data.class_names, resamples=0)

    def _point(self, labelled: Sequence[int], quality: Quality, seconds: float) -> RoundPoint:
        pool = self._stage.data.pool
        return RoundPoint(
            labels=len(labelled),
            boxes=sum(len(pool[place].truth) for place in labelled),
            map50=quality.map50.value,
            map50_95=quality.map50_95.value,
            per_class={n: None if ap is None else ap.value for n, ap in quality.per_class.items()},
            seconds=seconds,
        )


def _after(before: int, on_steps: Callable[[int], None]) -> Callable[[int], None]:
    """`on_steps`, called with so many steps more."""
    return lambda steps: on_steps(before + steps)


def read_picks(folder: Path) -> list[int]:
    """The places in the pool that a run has picked, in order; none where it has not begun."""
    path = folder / _PICKS
    picks: list[int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return picks


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where a run keeps its picks, its data and its last weights."""
    return out / "work" / f"{arm}-s{seed}"


def score_columns(
    places: Sequence[int], scores: Sequence[ImageScores], class_weight: Sequence[float]
) -> ScoreColumns:
    """The scores of images, given by their places in the pool."""
    return ScoreColumns.of(places, [str(place) for place in places], scores, class_weight)
