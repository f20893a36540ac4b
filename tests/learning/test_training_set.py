"""From answers to what is trained on: each kind of odd answer has its rule and its line."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from backend.errors import TrainingError
from backend.label_studio.label_map import rectangle_controls
from backend.label_studio.records import TaskRef
from backend.learning.edit_stats import Savings, add_up
from backend.learning.training_set import TrainingSet, build_training_set, ordered_labels
from backend.store.annotations import StoredAnnotation
from demo.project import label_config

NAMES = ("bolt", "nut")
CONTROL = rectangle_controls(label_config(NAMES))[0]
TASKS = [TaskRef(id=i, data={"image": f"/data/{i}.jpg"}) for i in range(1, 8)]


def box(label: str = "bolt", **value: Any) -> dict[str, Any]:
    sides = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 0}
    return {
        "id": "a",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 640,
        "original_height": 480,
        "value": {**sides, "rectanglelabels": [label], **value},
    }


def answer(
    number: int, *regions: dict[str, Any], skipped: bool = False, shown: Any = None
) -> StoredAnnotation:
    return StoredAnnotation(
        annotation_id=number,
        task_id=number,
        annotator=number,
        was_cancelled=skipped,
        ground_truth=False,
        lead_time=10.0,
        result=list(regions),
        shown=shown,
        updated_at=datetime(2026, 11, 22, tzinfo=timezone.utc),
    )


def build(
    answers: dict[int, list[StoredAnnotation]], held_out: frozenset[int] = frozenset()
) -> TrainingSet:
    return build_training_set(TASKS, answers, CONTROL, NAMES, held_out=held_out)


def test_without_answers_there_is_one_clear_line() -> None:
    with pytest.raises(TrainingError, match="no annotations to learn from yet"):
        build({})
    with pytest.raises(TrainingError, match="no annotations to learn from yet"):
        build({1: [answer(1, box(), skipped=True)]})


def test_without_a_box_to_train_on_the_line_says_what_was_left_out() -> None:
    with pytest.raises(TrainingError, match=r"no box to learn from on the 1 .*gear2"):
        build({1: [answer(1, box("gear2"))], 2: [answer(2, box())]}, held_out=frozenset({2}))


def test_the_random_share_is_not_trained_on_and_an_empty_answer_is_a_background() -> None:
    found = build(
        {1: [answer(1, box())], 2: [answer(2, box("nut"))], 3: [answer(3)]}, frozenset({2})
    )
    assert [example.task_id for example in found.training] == [1, 3]
    assert [len(example.boxes) for example in found.training] == [1, 0]
    assert [example.task_id for example in found.random_share] == [2]
    assert found.training[0].boxes.xyxy.tolist() == [pytest.approx([0.1, 0.2, 0.4, 0.6])]
    assert found.random_share[0].boxes.class_ids.tolist() == [1]
    assert found.notes == ()


def test_one_class_only_is_enough() -> None:
    found = build({1: [answer(1, box())], 2: [answer(2, box())]})
    assert {int(k) for example in found.training for k in example.boxes.class_ids} == {0}


def test_answers_of_deleted_tasks_are_left_out() -> None:
    assert len(build({1: [answer(1, box())], 99: [answer(99, box())]}).training) == 1


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        (box("gear2"), "gear2"),
        (box(x=120.0), "outside of the image"),
        (box(width=0.0), "without area"),
        ({"type": "relation", "from_id": "a", "to_id": "b"}, "1 relation"),
        ({**box(), "type": "brushlabels"}, "1 brush region"),
        ({"id": "x"}, "malformed"),
    ],
)
def test_an_odd_region_is_told_and_the_others_count(odd: dict[str, Any], line: str) -> None:
    found = build({1: [answer(1, box(), odd)]})
    assert len(found.training[0].boxes) == 1
    assert line in " ".join(found.notes)


def test_a_renamed_label_keeps_its_answers_by_its_old_name() -> None:
    config = label_config(("screw", "nut")).replace(
        'value="screw"', 'value="screw" predicted_values="bolt"'
    )
    control = rectangle_controls(config)[0]
    found = build_training_set(
        TASKS, {1: [answer(1, box("bolt"))]}, control, ("screw", "nut"), held_out=set()
    )
    assert found.training[0].boxes.class_ids.tolist() == [0]


def test_the_base_models_order_of_classes_is_kept_where_it_has_the_same() -> None:
    assert ordered_labels(CONTROL, ("nut", "bolt")) == ("nut", "bolt")
    assert ordered_labels(CONTROL, ("bolt", "nut", "gear")) == NAMES
    assert ordered_labels(CONTROL, ("car",)) == NAMES


def test_what_annotators_did_to_the_boxes_they_were_shown() -> None:
    assert add_up([], CONTROL) == Savings()
    moved, drawn = box(x=12.0), {**box("nut", x=60.0), "id": "b"}
    answers = [
        answer(1, box(), shown=[box()]),
        answer(2, moved, drawn, shown=[box()]),
        answer(3, box("nut"), shown=[box()]),
        answer(4, shown=[box()]),
        answer(5, box()),
        answer(6, box(), shown=[box()], skipped=True),
    ]
    found = add_up(answers, CONTROL)
    assert (found.answers, found.prefilled, found.shown) == (5, 4, 4)
    edits = found.edits
    assert (edits.accepted, edits.moved, edits.relabelled) == (1, 1, 1)
    assert (edits.added, edits.deleted) == (1, 1)
    assert found.seconds_each == 10.0
    later = found - add_up(answers[:1], CONTROL)
    assert (later.answers, later.edits.accepted, later.edits.moved) == (4, 0, 1)
    assert Savings.from_json(found.as_json()) == found
