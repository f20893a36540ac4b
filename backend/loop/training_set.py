"""From answers to what a model learns from, and to what it is judged on.

- Skipped and cancelled answers are none; a submitted image without boxes is a background image.
- Several annotators of one image are merged (`label_studio/consensus.py`).
- Images of the random share are never trained on, unless the user says so.
- What cannot be used is left out, counted, and told in one line each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from backend.errors import ImageError, TrainingError
from backend.label_studio.consensus import Answer, consensus
from backend.label_studio.images import image_uri
from backend.label_studio.label_map import RectangleControl
from backend.label_studio.records import TaskRef
from backend.label_studio.regions import Box, Note, note_lines, read_boxes
from backend.loop.answer_store import StoredAnswer
from backend.training.matching import Boxes


@dataclass(frozen=True)
class Example:
    """One answered image.

    Args:
        task_id: its task.
        uri: where it is, as in the task.
        boxes: what is on it, coordinates as shares (0..1) of the upright image.
    """

    task_id: int
    uri: str
    boxes: Boxes


@dataclass(frozen=True)
class TrainingSet:
    """The answered images of a project.

    Args:
        class_names: the project's labels, in the order of the class ids.
        training: what is trained on.
        random_share: what models are judged on.
        notes: what was left out or mended, one line each.
    """

    class_names: tuple[str, ...]
    training: tuple[Example, ...]
    random_share: tuple[Example, ...]
    notes: tuple[str, ...]


def build_training_set(
    tasks: Sequence[TaskRef],
    answers: Mapping[int, Sequence[StoredAnswer]],
    control: RectangleControl,
    class_names: Sequence[str],
    *,
    held_out: Set[int],
) -> TrainingSet:
    """Make examples of all answered tasks.

    Args:
        tasks: the project's tasks; answers of others (deleted ones) are left out.
        answers: by task.
        control: the rectangles that count.
        class_names: the names of `control.labels`, in the order that the model will have.
        held_out: the tasks of the random share.

    Raises:
        TrainingError: there is no answer, or no box in any.
    """
    noted: Counter[Note] = Counter()
    training: list[Example] = []
    random_share: list[Example] = []
    for task in tasks:
        boxes = _agreed(answers.get(task.id, ()), control, noted)
        if boxes is None:
            continue
        try:
            uri = image_uri(task, control.data_field)
        except ImageError:
            noted[Note("answered task", "without an image")] += 1
            continue
        example = Example(task.id, uri, _as_boxes(boxes, class_names))
        (random_share if task.id in held_out else training).append(example)
    _check(training, random_share, noted)
    return TrainingSet(tuple(class_names), tuple(training), tuple(random_share), note_lines(noted))


def ordered_labels(control: RectangleControl, base_classes: Sequence[str]) -> tuple[str, ...]:
    """The labels of a control in the order that a model is trained with.

    Where the base model has the same classes, its order is kept: what its head has learnt is then
    carried over.
    """
    names = tuple(label.name for label in control.labels)
    return tuple(base_classes) if set(names) == set(base_classes) else names


def _agreed(
    answers: Sequence[StoredAnswer], control: RectangleControl, noted: Counter[Note]
) -> tuple[Box, ...] | None:
    read = []
    for answer in answers:
        found = read_boxes(answer.result, control)
        if not answer.was_cancelled:
            noted.update(found.noted)
        read.append(
            Answer(
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


def _check(
    training: Sequence[Example], random_share: Sequence[Example], noted: Mapping[Note, int]
) -> None:
    if not training and not random_share:
        raise TrainingError("there are no answers to learn from yet: label some images first")
    if any(len(example.boxes) for example in training):
        return
    left_out = "; left out: " + ", ".join(note_lines(noted)) if noted else ""
    raise TrainingError(
        f"there is no box to learn from on the {len(training)} answered images that may be trained "
        f"on ({len(random_share)} more are the random share): draw some first{left_out}"
    )
