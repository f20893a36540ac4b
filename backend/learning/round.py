"""One training round of a project: collect annotations, train, evaluate, promote.

A repeated attempt of the same job resumes where the one before was killed: the data set is written
once, training resumes at its last checkpoint, weights are stored under their content hash, and
evaluation and promotion are one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from backend.errors import ImageError
from backend.label_studio.client import Studio
from backend.label_studio.label_map import listed
from backend.label_studio.records import ProjectInfo
from backend.label_studio.regions import find_control
from backend.learning.edit_stats import Savings, total_savings
from backend.learning.evaluate import Evaluation, LabelMappedDetector, evaluate
from backend.learning.training_set import Example, TrainingSet, build_training_set, ordered_labels
from backend.progress import Progress
from backend.scoring.model_files import ModelFiles
from backend.scoring.models import Scorers
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.rounds import RoundRow, RoundStore
from backend.store.scores import Store
from backend.training.dataset import DatasetSummary, TrainingImage, write_dataset
from backend.training.matching import Boxes, Predictions
from backend.training.plan import TrainingPlan
from backend.training.trainer import Trained, steps_for, train
from backend.vision.picture import decode

_ALL_LABELS = (
    "not evaluated: it was trained on the hold-out too, and nothing unbiased is left; "
    "`promote` lets it serve"
)


@dataclass(frozen=True)
class Hooks:
    """How a training reports, and is stopped.

    Args:
        on_progress: called with (what is done, how much of it, how much there is).
        on_log: called with lines for people.
        check: called often; what it raises stops the training.
    """

    on_progress: Progress
    on_log: Callable[[str], None]
    check: Callable[[], None]


class Learner:
    """Trains models for any project of one Label Studio.

    Args:
        settings: steps, sizes, limits.
        studio: where annotations come from.
        store: what is kept.
        scorers: the models that serve until now.
    """

    def __init__(self, settings: Settings, studio: Studio, store: Store, scorers: Scorers) -> None:
        self._settings = settings
        self._studio = studio
        self._scorers = scorers
        self._answers = AnnotationStore(store)
        self._rounds = RoundStore(store)

    def run(
        self, project_id: int, job_id: int, hooks: Hooks, *, all_labels: bool = False
    ) -> RoundRow:
        """Train one model on the stored annotations, and evaluate it.

        It is promoted if it is not worse than the one that serves now.

        Args:
            project_id: the project.
            job_id: the same for a repeated attempt, another for a new training.
            hooks: progress, log and stop.
            all_labels: train on the hold-out too. Nothing unbiased is left to evaluate the
                model by then: it is kept, and not promoted.

        Raises:
            TrainingError: there is nothing to learn from, or training failed; the serving model
                is as it was.
            LabelStudioError: Label Studio went away.
        """
        row = self._rounds.begin(project_id, job_id)
        if row.state == "judged":
            return row
        project = self._studio.project(project_id)
        examples = self._examples(project, hooks, all_labels=all_labels)
        files = ModelFiles(self._settings.trained_dir, project_id)
        folder = files.work_folder(job_id)
        data = self._write(examples, folder, hooks)
        trained = self._train(data, folder, row, hooks)
        started = time.monotonic()
        version, digest = files.keep(trained.path, row.round)
        weights = files.find(version, digest)
        judgement = (
            Evaluation(promoted=False, reason=_ALL_LABELS)
            if all_labels
            else self._evaluate(weights, project, examples, hooks)
        )
        detector = self._scorers.base().models.with_detector(weights, self._settings).detector
        row = replace(
            row,
            state="judged",
            version=version,
            content_hash=digest,
            detector=detector.version,
            labels=data.images,
            boxes=data.boxes,
            judged_on=judgement.new.images if judgement.new else 0,
            judgement={
                **judgement.as_json(),
                "savings": self._savings(project).as_json(),
                "boxes_by_class": data.boxes_by_class,
            },
            promoted=judgement.promoted,
            reason=judgement.reason,
            seconds=trained.seconds + time.monotonic() - started,
        )
        self._rounds.close(row)
        hooks.on_log(row.reason)
        return row

    def _examples(self, project: ProjectInfo, hooks: Hooks, *, all_labels: bool) -> TrainingSet:
        base = self._scorers.base().class_names
        control = find_control(project.label_config, base)
        examples = build_training_set(
            list(self._studio.tasks(project.id)),
            self._answers.by_task(project.id),
            control,
            ordered_labels(control, base),
            held_out=set() if all_labels else self._answers.held_out(project.id),
        )
        for note in examples.notes:
            hooks.on_log(note)
        return examples

    def _write(self, examples: TrainingSet, folder: Path, hooks: Hooks) -> DatasetSummary:
        total = len(examples.training)
        data = write_dataset(
            folder / "data",
            self._pictures(examples.training, hooks),
            examples.class_names,
            image_size=self._image_size(),
            on_progress=lambda done: hooks.on_progress("collecting", done, total),
        )
        for name, reason in data.skipped.items():
            hooks.on_log(f"left out {name}: {reason}")
        boxes = listed([f"{name} {count}" for name, count in data.boxes_by_class.items()])
        hooks.on_log(
            f"{data.images} images ({data.backgrounds} without boxes), {data.boxes} boxes: {boxes}"
        )
        return data

    def _pictures(self, examples: Sequence[Example], hooks: Hooks) -> Iterator[TrainingImage]:
        for example in examples:
            try:
                data = self._scorers.source.fetch(example.uri, task_id=example.task_id)
            except ImageError as error:
                hooks.on_log(f"left out task {example.task_id}: {error}")
                continue
            yield TrainingImage(
                f"task-{example.task_id}", data, example.boxes.xyxy, example.boxes.class_ids
            )

    def _train(self, data: DatasetSummary, folder: Path, row: RoundRow, hooks: Hooks) -> Trained:
        from backend.vision.engines import choose_device

        settings = self._settings
        plan = TrainingPlan(
            base=self._scorers.weights_of(None, row.project_id),
            data_yaml=data.data_yaml,
            folder=folder,
            image_size=self._image_size(),
            steps=settings.train_steps or steps_for(data.images),
            batch=settings.train_batch,
            device=choose_device(settings.device),
            minutes=settings.train_minutes,
        )
        return train(
            plan,
            on_progress=partial(hooks.on_progress, "training"),
            on_log=hooks.on_log,
            check=hooks.check,
        )

    def _image_size(self) -> int:
        return self._settings.train_image_size or self._scorers.base().models.detector.input_size

    def _savings(self, project: ProjectInfo) -> Savings:
        control = find_control(project.label_config, self._scorers.base().class_names)
        return total_savings(self._answers, project.id, control)

    def _evaluate(
        self, weights: Path, project: ProjectInfo, examples: TrainingSet, hooks: Hooks
    ) -> Evaluation:
        serving = self._scorers.weights_of(self._rounds.serving(project.id), project.id)
        new_model, serving_model = (
            LabelMappedDetector(path, project.label_config, examples.class_names, self._settings)
            for path in (weights, serving)
        )
        long_side = max(new_model.input_size, serving_model.input_size)
        truth: list[Boxes] = []
        new: list[Predictions] = []
        old: list[Predictions] = []
        total = len(examples.random_share)
        for done, example in enumerate(examples.random_share):
            hooks.on_progress("evaluating", done, total)
            try:
                data = self._scorers.source.fetch(example.uri, task_id=example.task_id)
                picture = decode(data, long_side=long_side)
            except ImageError as error:
                hooks.on_log(f"not evaluated on task {example.task_id}: {error}")
                continue
            truth.append(example.boxes)
            new += new_model.predict([picture])
            old += serving_model.predict([picture])
        hooks.on_progress("evaluating", total, total)
        threshold = self._settings.model_score_threshold
        return evaluate(truth, new, old, examples.class_names, threshold=threshold)
