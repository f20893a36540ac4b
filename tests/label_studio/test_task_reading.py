"""Which tasks changed, and what annotators answered: against the real Label Studio."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import httpx
import pytest

from backend.errors import LabelStudioError, RefusedError
from backend.label_studio import task_reading
from backend.label_studio.client import Studio

BOX = {
    "id": "box",
    "type": "rectanglelabels",
    "from_name": "label",
    "to_name": "image",
    "original_width": 10,
    "original_height": 10,
    "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["RBC"]},
}


class Desk:
    """An annotator at a project whose first task has an annotation, and its second a skip."""

    def __init__(self, person, studio, project):
        self.person, self.studio, self.project = person, studio, project
        self.done = self.annotate(0)
        self.skipped = self.annotate(1, was_cancelled=True)

    def call(self, method, path, **body):
        return self.person.call(method, path, json=body or None)

    def annotate(self, place, **fields):
        path = f"/api/tasks/{self.project.task_ids[place]}/annotations/"
        return self.call("POST", path, **{"result": [BOX], **fields})["id"]

    def predict(self, version="v1"):
        rows = [
            {"task": task_id, "result": [BOX], "score": 0.5, "model_version": version}
            for task_id in self.project.task_ids
        ]
        assert self.studio.import_predictions(self.project.id, rows) == len(rows)

    def act(self, action, places, **fields):
        ids = [self.project.task_ids[place] for place in places]
        path = f"/api/dm/actions/?id={action}&project={self.project.id}"
        self.call("POST", path, selectedItems={"all": False, "included": ids}, **fields)

    def draft(self):
        path = f"/api/tasks/{self.project.task_ids[2]}/drafts"
        return self.call("POST", path, result=[BOX], lead_time=1.0)

    def publish_and_clean_up(self):
        for version in ("v1", "v2"):
            self.predict(version)
            self.studio.set_order(self.project.id, version)
        self.studio.delete_model_version(self.project.id, "v1")

    def submit_a_prediction(self):
        self.predict()
        self.act("predictions_to_annotations", [2], model_version="v1")


@pytest.fixture
def desk(owner, studio, make_project):
    return Desk(owner, studio, make_project(tasks=3))


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (lambda desk: None, []),
        (lambda desk: desk.annotate(2), [2]),
        (lambda desk: desk.annotate(2, was_cancelled=True), [2]),
        (lambda desk: desk.submit_a_prediction(), [2]),
        (lambda desk: desk.call("PATCH", f"/api/annotations/{desk.done}/", result=[]), [0]),
        (lambda desk: desk.call("DELETE", f"/api/annotations/{desk.done}/"), [0]),
        (lambda desk: desk.call("DELETE", f"/api/annotations/{desk.skipped}/"), [1]),
        (lambda desk: desk.act("delete_tasks_annotations", [0]), [0]),
        (lambda desk: desk.call("POST", f"/api/annotations/{desk.done}/convert-to-draft"), [0]),
        (
            lambda desk: desk.call(
                "PATCH", f"/api/tasks/{desk.project.task_ids[2]}/", data={"image": "https://x.y/z"}
            ),
            [2],
        ),
        (lambda desk: desk.draft(), []),
        (lambda desk: desk.publish_and_clean_up(), []),
        (lambda desk: desk.person.next_task(desk.project.id), []),
        (lambda desk: desk.call("DELETE", f"/api/tasks/{desk.project.task_ids[0]}/"), []),
    ],
)
def test_what_changes_a_task(desk, studio, event, changed):
    last = max(task.updated_at for task in studio.tasks(desk.project.id))

    event(desk)

    later = last + timedelta(microseconds=1)
    found = [task.id for task in studio.changed_tasks(desk.project.id, later)]
    assert [desk.project.task_ids.index(task_id) for task_id in found] == changed


def test_the_moment_counts_to_the_microsecond_in_any_time_zone(desk, studio):
    task_ids = desk.project.task_ids
    moments = sorted(task.updated_at for task in studio.tasks(desk.project.id))
    elsewhere = timezone(timedelta(hours=-7))

    def changed(since, **options):
        return {task.id for task in studio.changed_tasks(desk.project.id, since, **options)}

    assert changed(None) == set(task_ids)
    assert changed(moments[0], page_size=1) == set(task_ids)
    assert changed(moments[-1]) == changed(moments[-1].astimezone(elsewhere)) == {task_ids[1]}
    assert changed(moments[-1] + timedelta(microseconds=1)) == set()
    assert changed(moments[-1].replace(microsecond=0)) >= {task_ids[1]}
    with pytest.raises(ValueError, match="no time zone"):
        changed(datetime(2026, 1, 1))


@pytest.mark.parametrize("value", ["", "2026-11-22", "2026-11-22T04:08:50Z", 1795320590.5])
def test_label_studio_refuses_a_moment_that_it_cannot_read(label_studio, desk, value):
    """So a moment in a wrong form can never pass for "no condition"."""
    wrong = {
        "filter": "filter:tasks:updated_at",
        "operator": "greater_or_equal",
        "type": "Datetime",
        "value": value,
    }
    token = label_studio.admin.personal_token
    with Studio(label_studio.url, token, retries=0) as studio, pytest.raises(RefusedError):
        list(studio.tasks(desk.project.id, filters=[wrong]))


def a_server_without_filters(request):
    task = {"id": 7, "data": {}, "updated_at": "2026-01-01T00:00:00.000000Z", "annotations": []}
    rest = {"total": 1, "total_annotations": 0, "total_predictions": 0}
    return httpx.Response(200, json={"tasks": [task], **rest})


def test_a_server_that_ignores_filters_is_told_at_once():
    transport = httpx.MockTransport(a_server_without_filters)
    studio = Studio("http://studio.example", "a-legacy-token", transport=transport)

    with pytest.raises(LabelStudioError, match="ignores the filter on the time of change"):
        list(studio.changed_tasks(1, datetime(2026, 1, 2, tzinfo=timezone.utc)))
    with pytest.raises(LabelStudioError, match="ignores the filter on task ids"):
        studio.annotations_of(1, [8])


def test_the_answers_of_tasks(desk, studio, owner, colleague, monkeypatch):
    monkeypatch.setattr(task_reading, "TASKS_A_REQUEST", 2)
    project = desk.project
    desk.predict()
    desk.draft()
    (prediction,) = studio.predictions_of_task(project.task_ids[2])
    body = {"result": [], "lead_time": 2.5, "parent_prediction": prediction.id}
    body |= {"ground_truth": True}
    colleague.call("POST", f"/api/tasks/{project.task_ids[2]}/annotations/", json=body)
    desk.annotate(2)

    assert studio.annotations_of(project.id, []) == []
    found = studio.annotations_of(project.id, project.task_ids[::-1])

    plain, skipped, reviewed, second = found
    assert [answer.task_id for answer in found] == [*project.task_ids, project.task_ids[2]]
    assert (plain.id, plain.annotator, plain.result) == (desk.done, owner.account.user_id, [BOX])
    assert (plain.lead_time, plain.parent_prediction, plain.was_cancelled) == (None, None, False)
    assert (skipped.id, skipped.was_cancelled) == (desk.skipped, True)
    assert (reviewed.annotator, reviewed.result) == (colleague.account.user_id, [])
    assert (reviewed.lead_time, reviewed.ground_truth) == (2.5, True)
    assert reviewed.parent_prediction == prediction.id
    assert second.id > reviewed.id
    task = next(task for task in studio.tasks(project.id) if task.id == plain.task_id)
    assert plain.created_at < plain.updated_at <= task.updated_at
    desk.call("DELETE", f"/api/tasks/{project.task_ids[0]}/")
    assert studio.annotations_of(project.id, project.task_ids[:2]) == [skipped]


def test_the_prediction_an_answer_began_from_is_forgotten_with_its_order(desk, studio):
    desk.predict()
    (shown,) = studio.predictions_of_task(desk.project.task_ids[2])
    desk.annotate(2, parent_prediction=shown.id)
    assert studio.prediction(shown.id) == [BOX]

    studio.delete_model_version(desk.project.id, "v1")

    assert studio.prediction(shown.id) is None
    (answer,) = studio.annotations_of(desk.project.id, desk.project.task_ids[2:])
    assert answer.parent_prediction is None
