"""From annotations to what a model is trained on, and to what it is evaluated on.

- Skipped and cancelled annotations do not count; a submitted image without boxes is background.
- Several annotators of one image are merged (`label_studio/consensus.py`).
- Images of the hold-out are never trained on, unless the user says so.
- What cannot be used is left out, counted, and named in one line each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from backend.errors import ImageError, TrainingError
from backend.images.source import image_uri
from backend.label_studio.client import Studio
from backend.label_studio.consensus import Annotation, consensus
from backend.label_studio.label_map import RectangleControl
from backend.label_studio.records import ProjectInfo, TaskRef
from backend.label_studio.regions import Box, Note, find_control, note_lines, read_boxes
from backend.settings import Settings
from backend.store.annotations import AnnotationStore, StoredAnnotation
from backend.store.scores import Store
from backend.training.matching import Boxes

# With fewer images of the hold-out, any figure would be luck.
FEWEST_JUDGED = 5


@dataclass(frozen=True)
class Example:
    """One labelled image.

    Args:
        task_id: its task.
        uri: where it is, as in the task.
        boxes: its boxes, coordinates as shares (0..1) of the upright image.
    """

    task_id: int
    uri: str
    boxes: Boxes


@dataclass(frozen=True)
class TrainingSet:
    """The labelled images of a project.

    Args:
        class_names: the project's labels, in the order of the class ids.
        training: what is trained on.
        random_share: the hold-out, which models are evaluated on.
        notes: what is not used for training, or not as it was drawn, one line each.
    """

    class_names: tuple[str, ...]
    training: tuple[Example, ...]
    random_share: tuple[Example, ...]
    notes: tuple[str, ...]


def build_training_set(
    tasks: Sequence[TaskRef],
    answers: Mapping[int, Sequence[StoredAnnotation]],
    control: RectangleControl,
    class_names: Sequence[str],
    *,
    held_out: Set[int],
) -> TrainingSet:
    """Make examples of all labelled tasks.

    Args:
        tasks: the project's tasks; annotations of others (deleted ones) are left out.
        answers: by task.
        control: the rectangles that count.
        class_names: the names of `control.labels`, in the order that the model will have.
        held_out: the tasks of the hold-out.

    Raises:
        TrainingError: there is no annotation, or no box in any.
    """
    noted: Counter[Note] = Counter()
    examples = _examples(tasks, answers, control, class_names, noted)
    training = [example for example in examples if example.task_id not in held_out]
    random_share = [example for example in examples if example.task_id in held_out]
    _check(training, random_share, noted)
    return TrainingSet(tuple(class_names), tuple(training), tuple(random_share), _lines(noted))


def ordered_labels(control: RectangleControl, base_classes: Sequence[str]) -> tuple[str, ...]:
    """The labels of a control in the order that a model is trained with.

    Where the base model has the same classes, its order is kept: what its head has learnt is then
    carried over.
    """
    names = tuple(label.name for label in control.labels)
    return tuple(base_classes) if set(names) == set(base_classes) else names


def too_few_to_evaluate(truth: Sequence[Boxes]) -> str:
    """Why no model can be evaluated on these labelled images, in one line; "": one can.

    Args:
        truth: the boxes of each labelled image of the hold-out.
    """
    boxes = sum(len(found) for found in truth)
    if len(truth) >= FEWEST_JUDGED and boxes:
        return ""
    return (
        f"{len(truth)} images of the hold-out are labelled, with {boxes} boxes; "
        f"{FEWEST_JUDGED} images with a box among them are needed"
    )


def why_not_evaluated(
    settings: Settings, studio: Studio, store: Store, project: ProjectInfo
) -> str:
    """Why a model trained on the stored annotations could not be evaluated, and the remedy.

    Reads only the labelled tasks of the hold-out.

    Returns:
        One line; "": it can be evaluated.

    Raises:
        LabelConfigError: the label config has no rectangles.
        LabelStudioError: Label Studio went away.
    """
    answers = AnnotationStore(store)
    live = store.publication(project.id)
    names = (store.class_names(live.detector) if live else None) or ()
    control = find_control(project.label_config, names)
    answered = sorted(answers.held_out(project.id) & answers.answered_tasks(project.id))
    examples = _examples(
        studio.tasks_by_id(project.id, answered).values(),
        {task_id: answers.of_task(project.id, task_id) for task_id in answered},
        control,
        ordered_labels(control, names),
        Counter(),
    )
    reason = too_few_to_evaluate([example.boxes for example in examples])
    if not reason:
        return ""
    if live is None:
        remedy = f"run `python -m backend score {project.id}` first, which picks the hold-out"
    elif not settings.validation_share:
        remedy = f"set VALIDATION_SHARE above 0 and run `python -m backend score {project.id}`"
    else:
        remedy = "label more images"
    return (
        f"a model trained now could not be evaluated ({reason}): {remedy}; or train on all labels "
        f"with `python -m backend train {project.id} --all-labels`, and `promote` what comes of it"
    )


def _examples(
    tasks: Iterable[TaskRef],
    answers: Mapping[int, Sequence[StoredAnnotation]],
    control: RectangleControl,
    class_names: Sequence[str],
    noted: Counter[Note],
) -> list[Example]:
    """The answered tasks; counts in `noted` what is left out or mended."""
    examples = []
    for task in tasks:
        boxes = _agreed(answers.get(task.id, ()), control, noted)
        if boxes is None:
            continue
        try:
            uri = image_uri(task, control.data_field)
        except ImageError:
            noted[Note("answered task", "without an image")] += 1
            continue
        examples.append(Example(task.id, uri, _as_boxes(boxes, class_names)))
    return examples


def _agreed(
    answers: Sequence[StoredAnnotation], control: RectangleControl, noted: Counter[Note]
) -> tuple[Box, ...] | None:
    read = []
    for answer in answers:
        found = read_boxes(answer.result, control)
        if not answer.was_cancelled:
            noted.update(found.noted)
        read.append(
            Annotation(
                annotator=answer.annotator,
                boxes=found.boxes,
                ground_truth=answer.ground_truth,
                was_cancelled=answer.was_cancelled,
                updated_at=answer.updated_at,
            )
        )
    return consensus(read)


def _as_boxes(boxes: Sequence[Box], class_names: Sequence[str]) -> Boxes:
    return Boxes(
        np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4),
        np.array([class_names.index(box.label) for box in boxes], dtype=np.intp),
    )


def _lines(noted: Mapping[Note, int]) -> tuple[str, ...]:
    unused = {note: count for note, count in noted.items() if not note.mended}
    mended = {note: count for note, count in noted.items() if note.mended}
    return (
        *(f"not used for training: {line}" for line in note_lines(unused)),
        *note_lines(mended),
    )


def _check(
    training: Sequence[Example], random_share: Sequence[Example], noted: Mapping[Note, int]
) -> None:
    if not training and not random_share:
        raise TrainingError("there are no annotations to learn from yet: label some images first")
    if any(len(example.boxes) for example in training):
        return
    left_out = "; left out: " + ", ".join(note_lines(noted)) if noted else ""
    raise TrainingError(
        f"there is no box to learn from on the {len(training)} answered images that may be trained "
        f"on ({len(random_share)} more are the hold-out): draw some first{left_out}"
    )
