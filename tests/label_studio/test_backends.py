"""A connected ML backend: the tab, and what Label Studio asks and takes."""

from __future__ import annotations

import json

import pytest

from backend.label_studio.protocol import WebhookEvent, parse_webhook
from backend.label_studio.publish import OrderedTask, fresh_version, publish
from backend.label_studio.tabs import ORDERING, TITLE, ensure_tab
from tests.label_studio.conftest import WebServer, find_tab, reply, tasks_of_view


def be_a_backend(web: WebServer, version: str, predict=None) -> None:
    """Answer as an ML backend that has published `version`."""

    def answer(body):
        return lambda handler: reply(
            handler, 200, json.dumps(body).encode(), Content_Type="application/json"
        )

    web.answers["/health"] = answer({"status": "UP"})
    web.answers["/setup"] = answer({"model_version": version})
    web.answers["/webhook"] = answer({})
    if predict is not None:
        web.answers["/predict"] = lambda handler: reply(
            handler,
            200,
            json.dumps({"results": predict(json.loads(handler.body))}).encode(),
            Content_Type="application/json",
        )


def connect(owner, project, web, **fields):
    body = {"project": project.id, "url": web.url, "title": "Our model", **fields}
    return owner.call("POST", "/api/ml/", json=body)


def ranked(order):
    return [OrderedTask(task_id) for task_id in order]


def test_without_a_backend_the_tab_shows_the_only_order(studio, make_project, owner):
    project = make_project(tasks=5)
    order = project.task_ids[::-1]
    version = fresh_version()
    publish(studio, project.id, ranked(order), version=version)

    tab = ensure_tab(studio, project.id, version)

    assert (tab.did, tab.note) == ("made", "")
    assert tasks_of_view(studio, tab.view_id, project.id) == order
    task = owner.next_task(project.id)
    owner.submit(task)
    assert tasks_of_view(studio, tab.view_id, project.id) == order[1:]


def test_without_a_backend_two_orders_are_averaged_and_the_tab_says_so(studio, make_project):
    project = make_project(tasks=3)
    for order in (project.task_ids, project.task_ids[::-1]):
        version = fresh_version()
        publish(studio, project.id, ranked(order), version=version)

    assert "no ML backend is connected" in ensure_tab(studio, project.id, version).note


def test_with_a_backend_the_tab_shows_the_published_order(studio, make_project, owner, web):
    project = make_project(tasks=5)
    first, second = fresh_version(), fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=first)
    be_a_backend(web, first)
    connect(owner, project, web)
    order = project.task_ids[2:] + project.task_ids[:2]

    publish(studio, project.id, ranked(order), version=second)
    be_a_backend(web, second)
    tab = ensure_tab(studio, project.id, second)

    assert tab.note == ""
    assert tasks_of_view(studio, tab.view_id, project.id) == order
    assert owner.next_task(project.id)["id"] == order[0]


def test_a_backend_that_answers_another_version_is_named(studio, make_project, owner, web):
    project = make_project(tasks=2)
    version = fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=version)
    be_a_backend(web, "yesterday's")
    connect(owner, project, web)

    assert "does not answer /setup with it" in ensure_tab(studio, project.id, version).note


def test_the_tab_is_found_again_and_repaired(studio, make_project, owner):
    project = make_project(tasks=1)
    made = ensure_tab(studio, project.id)
    assert [view.title for view in studio.views(project.id)] == ["Default", TITLE]
    assert ensure_tab(studio, project.id).did == "found"

    view = find_tab(studio, project.id)
    changed = {**view.data, "ordering": ["-tasks:id"], "gridWidth": 7}
    owner.call("PATCH", f"/api/dm/views/{view.id}/", json={"project": project.id, "data": changed})
    repaired = ensure_tab(studio, project.id)

    assert (repaired.view_id, repaired.did) == (made.view_id, "repaired")
    view = find_tab(studio, project.id)
    assert list(view.ordering) == ORDERING
    assert view.data["gridWidth"] == 7
    studio.delete_view(view.id)
    assert find_tab(studio, project.id) is None


# What Label Studio takes from /predict. These tests hold Label Studio's behaviour, which the
# backend's answers are built on.


def retrieve(owner, project):
    everything = {"selectedItems": {"all": True, "excluded": []}}
    path = f"/api/dm/actions/?id=retrieve_tasks_predictions&project={project.id}"
    return owner.http.post(path, json=everything)


def test_only_tasks_without_the_version_of_setup_are_predicted(studio, make_project, owner, web):
    project = make_project(tasks=3)
    version = fresh_version()
    publish(studio, project.id, ranked(project.task_ids[:2]), version=version)
    asked = []

    def predict(request):
        asked.extend(task["id"] for task in request["tasks"])
        return [{"result": [], "score": 0.9, "model_version": version} for _ in request["tasks"]]

    be_a_backend(web, version, predict)
    connect(owner, project, web)
    retrieve(owner, project)

    assert asked == project.task_ids[2:]
    assert studio.model_versions(project.id) == {version: 3}


@pytest.mark.parametrize(
    ("answers", "created"),
    [
        ([{"result": [], "score": 0.5}, {"result": [], "score": 0.5}], 2),
        ([{"result": [], "score": None}, {"result": []}], 2),  # a null score is stored as null
        ([{"result": [], "score": 0.5}, []], 1),  # an empty list: nothing for this task
        ([{"result": [], "score": 0.5}, {}], 1),  # no `result`: logged and left out
        ([{"result": [], "score": 0.5}, None], 0),
        ([], 0),
    ],
)
def test_what_label_studio_makes_of_odd_answers(studio, make_project, owner, web, answers, created):
    project = make_project(tasks=2)
    be_a_backend(web, "v1", lambda request: answers)
    connect(owner, project, web)

    retrieve(owner, project)

    assert sum(studio.model_versions(project.id).values()) == created


def test_label_studio_makes_a_webhook_and_reports_annotations(make_project, owner, web):
    project = make_project(tasks=1)
    be_a_backend(web, "v1")
    heard = []

    def hear(handler):
        heard.append(parse_webhook(json.loads(handler.body)))
        reply(handler, 200, b"{}", Content_Type="application/json")

    web.answers["/webhook"] = hear
    connect(owner, project, web)
    owner.submit(owner.next_task(project.id))

    assert WebhookEvent("ANNOTATION_CREATED", project.id) in heard
