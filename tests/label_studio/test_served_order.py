"""What Label Studio serves and shows by its predictions. Auto-labelling is built on this."""

from __future__ import annotations

import pytest

from backend.label_studio.client import Studio
from tests.label_studio.conftest import CONFIG, Project

BOX = {
    "type": "rectanglelabels",
    "from_name": "label",
    "to_name": "image",
    "original_width": 10,
    "original_height": 10,
    "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["RBC"]},
}


def predict(studio: Studio, project: Project, scores: dict[int, float], version: str) -> None:
    rows = [
        {"task": task_id, "result": [BOX], "score": score, "model_version": version}
        for task_id, score in scores.items()
    ]
    assert studio.import_predictions(project.id, rows) == len(rows)


def serve_all(person, project) -> list[tuple[int, list[str]]]:
    """Label until the end: the tasks served, and which predictions came with each."""
    served = []
    while (task := person.next_task(project.id)) is not None:
        served.append((task["id"], [shown["model_version"] for shown in task["predictions"]]))
        person.submit(task)
    return served


def test_later_predictions_of_the_live_version_go_behind(studio, make_project, owner):
    project = make_project(tasks=5)
    first, second, third, *later = project.task_ids
    predict(studio, project, {third: 1 / 6, first: 3 / 6, second: 5 / 6}, "live")
    studio.set_order(project.id, "live")

    predict(studio, project, dict.fromkeys(later, 1.0), "live")

    served = serve_all(owner, project)
    assert [task_id for task_id, _ in served[:3]] == [third, first, second]
    assert sorted(task_id for task_id, _ in served[3:]) == later
    assert {tuple(shown) for _, shown in served} == {("live",)}


@pytest.mark.parametrize("chosen", ["", "auto-1"])
def test_predictions_are_shown_once_their_version_is_chosen(studio, make_project, owner, chosen):
    """Choosing it alone leaves the sequence of tasks as it was."""
    project = make_project(tasks=3)
    for version in ("auto-1", "auto-2"):
        predict(studio, project, dict(zip(project.task_ids, (0.9, 0.5, 0.1), strict=True)), version)
    if chosen:
        studio.set_order(project.id, chosen, sampling="Sequential sampling")

    shown = [chosen] if chosen else []
    assert serve_all(owner, project) == [(task_id, shown) for task_id in project.task_ids]


def test_an_order_is_served_where_annotators_see_no_predictions(studio, make_project, owner):
    project = make_project(tasks=2, show_collab_predictions=False)
    predict(studio, project, dict(zip(project.task_ids, (0.9, 0.1), strict=True)), "live")
    studio.set_order(project.id, "live")

    assert not studio.project(project.id).show_predictions
    assert serve_all(owner, project) == [(task_id, []) for task_id in project.task_ids[::-1]]


@pytest.mark.parametrize(
    ("change", "validate", "save"),
    [
        (("WBC", "Platelets"), 200, 200),
        (("RBC", "Red"), 400, 200),
        (('<Label value="RBC"/>', ""), 400, 200),
        (('"label"', '"other"'), 400, 400),
    ],
)
def test_a_label_in_use_can_be_removed_though_only_by_the_api(
    make_project, owner, change, validate, save
):
    """The settings page asks `validate` first; a script need not."""
    project = make_project(tasks=1)
    path = f"/api/tasks/{project.task_ids[0]}/annotations/"
    owner.call("POST", path, json={"result": [BOX]})
    config = {"label_config": CONFIG.replace(*change)}

    checked = owner.http.post(f"/api/projects/{project.id}/validate/", json=config)
    saved = owner.http.patch(f"/api/projects/{project.id}/", json=config)

    assert (checked.status_code, saved.status_code) == (validate, save)
