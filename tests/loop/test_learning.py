"""Training by hand, promotion, rollback and auto-label, on the real Label Studio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backend.label_studio.importing import import_rows
from backend.publishing import prelabel
from backend.store.annotations import AnnotationStore
from backend.store.rounds import RoundStore
from demo.project import label_config
from demo.scene import HEIGHT, WIDTH, Frame
from tests.loop.conftest import Command, running, wait_until
from tests.person import Person

MakeProject = Callable[..., tuple[int, list[int]]]

QUICK = {"TRAIN_STEPS": "10", "TRAIN_BATCH": "4", "TRAIN_IMAGE_SIZE": "96", "TRAIN_AFTER": "0"}


@pytest.fixture
def learning(command: Command) -> Command:
    command.environment.update(QUICK)
    return command


def region(frame: Frame, place: int, **value: Any) -> dict[str, Any]:
    left, top, right, bottom = frame.xyxy[place].tolist()
    sides = {
        "x": 100 * left / WIDTH,
        "y": 100 * top / HEIGHT,
        "width": 100 * (right - left) / WIDTH,
        "height": 100 * (bottom - top) / HEIGHT,
    }
    return {
        "id": f"box{place}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**sides, "rotation": 0, "rectanglelabels": ["bolt"], **value},
    }


def test_a_model_is_trained_promoted_rolled_back_and_promoted_again(
    learning: Command, make_project: MakeProject, frames: list[Frame], owner: Person
) -> None:
    learning.environment["VALIDATION_SHARE"] = "0.5"
    project, task_ids = make_project()
    _, errors = learning.run("train", project, status=1)
    assert "no annotations to learn from yet" in errors
    assert "Traceback" not in errors
    learning.run("score", project)
    held_out = AnnotationStore(learning.store).held_out(project)
    base = learning.store.publication(project)
    assert base is not None
    before = learning.store.score_columns(project, base.detector, task_ids)
    assert set(before.class_weight.tolist()) == {1.0}
    for task, frame in zip(task_ids[:24], frames, strict=False):
        boxes = [region(frame, place) for place in range(len(frame.xyxy))]
        # Among the rectangles what people leave behind.
        odd = [
            {"type": "relation", "from_id": "box0", "to_id": "box1", "direction": "right"},
            {**region(frame, 0, x=150.0), "id": "outside"},
            {**region(frame, 0, height=0.0), "id": "flat"},
        ]
        body = {"result": [*boxes, *(odd if task == task_ids[0] else [])]}
        owner.call("POST", f"/api/tasks/{task}/annotations/", json=body)
    trained_on = [task for task in task_ids[:24] if task not in held_out]
    # A task that is gone costs nothing but its own answer.
    owner.call("DELETE", f"/api/tasks/{trained_on[-1]}/")
    output, errors = learning.run("train", project)
    assert "round 1: r1-" in output
    if task_ids[0] in trained_on:
        for line in ("1 relation", "outside of the image", "without area"):
            assert line in errors
    (row,) = RoundStore(learning.store).rounds(project)
    assert row.labels == len(trained_on) - 1
    assert row.judged_on == 24 - len(trained_on)
    if not row.promoted:
        learning.run("promote", project, row.version)
    served = owner.call("GET", f"/api/projects/{project}")["model_version"]
    output, _ = learning.run("rollback", project)
    assert f"served by base (MODEL=detector.pt) from now on, no longer by {row.version}" in output
    rolled_back = owner.call("GET", f"/api/projects/{project}")["model_version"]
    assert rolled_back > served
    _, errors = learning.run("rollback", project, status=1)
    assert "nothing to roll back to" in errors
    _, errors = learning.run("promote", project, "r9-none", status=1)
    assert row.version in errors
    learning.run("promote", project, row.version)
    live = learning.store.publication(project)
    assert live is not None
    assert live.detector == row.detector
    # It has seen bolts only: what looks like another class counts more.
    after = learning.store.score_columns(project, live.detector, task_ids)
    assert len(set(after.class_weight.tolist())) > 1
    assert after.class_weight.max() <= 1
    # Weights that were changed on disk serve nobody.
    weights = next((learning.data_dir / "trained" / str(project)).glob("r1-*.pt"))
    weights.write_bytes(b"something else")
    _, errors = learning.run("score", project, status=1)
    assert "were changed after they were trained" in errors


def test_a_training_that_fails_leaves_the_serving_model_as_it_was(
    learning: Command, make_project: MakeProject, frames: list[Frame], owner: Person
) -> None:
    project, task_ids = make_project(config=label_config(["bolt"]))
    output, errors = learning.run("score", project)
    assert "with the model base" in output
    assert "No label for nut" in errors
    before = owner.call("GET", f"/api/projects/{project}")["model_version"]
    boxes = [region(frames[0], place) for place in range(len(frames[0].xyxy))]
    owner.call("POST", f"/api/tasks/{task_ids[0]}/annotations/", json={"result": boxes})
    learning.environment["TRAIN_MINUTES"] = "0.001"
    _, errors = learning.run("train", project, "--all-labels", status=1)
    assert "TRAIN_MINUTES" in errors
    assert "Traceback" not in errors
    assert owner.call("GET", f"/api/projects/{project}")["model_version"] == before
    assert RoundStore(learning.store).rounds(project) == []
    jobs = learning.run("jobs", project)[0]
    assert "failed" in jobs
    # Nothing is held out, so nothing could be evaluated: that is said before a minute is spent.
    _, errors = learning.run("train", project, status=1)
    assert "could not be evaluated (0 images of the hold-out" in errors
    assert "VALIDATION_SHARE" in errors
    assert "TRAIN_MINUTES" not in errors
    del learning.environment["TRAIN_MINUTES"]
    output, _ = learning.run("train", project, "--all-labels")
    assert "not promoted: not evaluated: it was trained on the hold-out too" in output
    assert RoundStore(learning.store).serving(project) is None
    assert owner.call("GET", f"/api/projects/{project}")["model_version"] == before
    # Which model serves is said everywhere, and labels are compared with the classes of that one.
    (row,) = RoundStore(learning.store).rounds(project)
    _, errors = learning.run("promote", project, row.version)
    assert "No label for" not in errors
    output, _ = learning.run("doctor", project)
    assert f"served by {row.version}" in output
    assert "No label for" not in output
    output, _ = learning.run("queue", project)
    assert f"scored by the model {row.version}" in output
    assert learning.json("queue", project)["scored_by"] == row.version
    output, errors = learning.run("rollback", project)
    assert "served by base (MODEL=detector.pt)" in output
    assert "No label for nut" in " ".join(errors.split())
    output, _ = learning.run("doctor", project)
    assert "served by base (MODEL=detector.pt)" in output
    assert "No label for nut" in output


def test_a_short_queue_is_refilled_before_it_runs_dry(
    learning: Command, make_project: MakeProject, annotators: list[Person]
) -> None:
    project, _ = make_project()
    learning.environment.update(PUBLISH="queue", QUEUE_LIMIT="8", POLL_SECONDS="5")
    first = [row["image_id"] for row in learning.json("score", project)["queue"]]
    assert [_label(annotators[0], project) for _ in range(4)] == first[:4]
    before = learning.store.publication(project)
    with running(learning, "worker"):
        wait_until(lambda: learning.store.publication(project) != before, "a new order")
    second = [row["image_id"] for row in learning.json("queue", project)["queue"]]
    assert len(second) == 8
    assert not set(second) & set(first[:4])
    # Nobody is served at random: what was open comes again, and more behind it.
    assert [_label(annotators[0], project) for _ in range(6)] == second[:6]


def _label(person: Person, project: int) -> int:
    task = person.next_task(project)
    assert task is not None
    person.submit(task)
    return int(task["id"])


def predictions(owner: Person, project: int) -> list[tuple[str, int, float]]:
    rows = owner.call("GET", f"/api/predictions/?project={project}")
    return sorted((row["model_version"], row["task"], row["score"]) for row in rows)


def test_auto_label_draws_boxes_everywhere_and_changes_no_order(
    command: Command, make_project: MakeProject, owner: Person, annotators: list[Person]
) -> None:
    project, task_ids = make_project()
    command.environment["PUBLISH"] = "queue"
    queue = [row["image_id"] for row in command.json("score", project, "--limit", "5")["queue"]]
    before = predictions(owner, project)
    assert len(before) == 5
    report = command.json("auto-label", project)
    assert (report["prelabelled"], report["had_one"], report["skipped"]) == (31, 5, 0)
    after = predictions(owner, project)
    assert [row for row in after if row in before] == before
    assert sorted(task for _, task, _ in after) == task_ids
    assert {version for version, _, _ in after} == {before[0][0]}
    # Again: nothing is left to do.
    assert command.json("auto-label", project)["prelabelled"] == 0
    assert predictions(owner, project) == after
    served = []
    for turn in range(7):
        task = annotators[turn % 2].next_task(project)
        assert task is not None
        assert task["predictions"]
        served.append(task["id"])
        annotators[turn % 2].submit(task)
    assert served[:5] == queue
    assert not set(served[5:]) & set(queue)


def test_auto_label_before_any_order_leaves_the_order_of_import(
    command: Command, make_project: MakeProject, owner: Person, annotators: list[Person]
) -> None:
    project, task_ids = make_project()
    sampling = owner.call("GET", f"/api/projects/{project}")["sampling"]
    assert command.json("auto-label", project)["prelabelled"] == len(task_ids)
    assert owner.call("GET", f"/api/projects/{project}")["sampling"] == sampling
    for task_id in task_ids[:3]:
        task = annotators[0].next_task(project)
        assert task is not None
        assert task["id"] == task_id
        assert task["predictions"]
        annotators[0].submit(task)


def test_auto_label_does_not_take_another_models_place(
    command: Command, make_project: MakeProject, owner: Person
) -> None:
    project, task_ids = make_project()
    body = [{"task": task_ids[0], "result": [], "score": 0.5, "model_version": "theirs"}]
    owner.call("POST", f"/api/projects/{project}/import/predictions", json=body)
    owner.call("PATCH", f"/api/projects/{project}", json={"model_version": "theirs"})
    _, errors = command.run("auto-label", project, status=1)
    assert "'theirs'" in errors
    assert len(predictions(owner, project)) == 1


def test_auto_label_leaves_what_was_published_meanwhile(
    command: Command, make_project: MakeProject, owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, task_ids = make_project()

    def meanwhile(*args: Any, **options: Any) -> None:
        import_rows(*args, **options)
        body = [{"task": task_ids[0], "result": [], "score": 0.5, "model_version": "theirs"}]
        owner.call("POST", f"/api/projects/{project}/import/predictions", json=body)
        owner.call("PATCH", f"/api/projects/{project}", json={"model_version": "theirs"})

    monkeypatch.setattr(prelabel, "import_rows", meanwhile)
    _, errors = command.run("auto-label", project, status=1)

    assert "was switched to 'theirs' while boxes were drawn" in " ".join(errors.split())
    assert owner.call("GET", f"/api/projects/{project}")["model_version"] == "theirs"


def test_jobs_are_shown_and_an_unknown_one_is_one_line(
    command: Command, make_project: MakeProject
) -> None:
    project, _ = make_project()
    command.run("score", project)
    output, _ = command.run("jobs", project)
    assert "publish" in output
    assert "36 scored, 36 ranked" in " ".join(output.replace("│", " ").split())
    picture = command.data_dir / "curve.png"
    _, errors = command.run("rounds", project, "--plot", picture)
    assert "there is no learning curve to draw" in " ".join(errors.split())
    assert not picture.exists()
    _, errors = command.run("jobs", "--cancel", "99999", status=1)
    assert "there is no job 99999" in errors
