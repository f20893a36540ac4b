"""The webhook that takes the place of Label Studio's own, on the real Label Studio."""

from __future__ import annotations

import json

import httpx
import pytest

from backend.errors import RefusedError
from backend.label_studio.client import Studio
from backend.label_studio.protocol import (
    PROJECT_HEADER,
    SECRET_HEADER,
    START_TRAINING,
    parse_webhook,
)
from backend.label_studio.records import BackendInfo
from backend.label_studio.versions import UNPUBLISHED, fresh_version
from backend.label_studio.webhooks import (
    ACTIONS,
    backend_webhook_url,
    ensure_webhook,
    is_own_server,
    reports_annotations,
)
from backend.settings import load_settings
from tests.api.server import served
from tests.label_studio.conftest import reply

SECRET = "a-secret-of-the-store"
ANNOTATION = {"result": [], "lead_time": 1.0}


class Listener:
    """An ML backend that notes what it receives: action, project, secret, fields of the body."""

    def __init__(self, web, version=UNPUBLISHED):
        self.web = web
        self.received = []
        for path, body in {"/health": {}, "/setup": {"model_version": version}}.items():
            web.answers[path] = self._answer(body)
        web.answers["/webhook"] = self._hear

    @staticmethod
    def _answer(body):
        text = json.dumps(body).encode()
        return lambda handler: reply(handler, 200, text, Content_Type="application/json")

    def _hear(self, handler):
        body = json.loads(handler.body)
        event = parse_webhook(body, project_header=handler.headers.get(PROJECT_HEADER))
        secret = handler.headers.get(SECRET_HEADER)
        self.received.append((event.action, event.project_id, secret, set(body)))
        self._answer({})(handler)

    def connect(self, owner, project, **fields):
        body = {"project": project.id, "url": self.web.url, "title": "Our model", **fields}
        return owner.call("POST", "/api/ml/", json=body)["id"]

    def actions(self):
        received, self.received = [action for action, *_ in self.received], []
        return received


@pytest.fixture
def listener(web):
    return Listener(web)


@pytest.fixture
def counted(label_studio):
    """A Studio that notes what it writes."""
    written = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request):
            if request.method != "GET" and "/token/" not in request.url.path:
                written.append(request.method)
            return super().handle_request(request)

    with Studio(
        label_studio.url, label_studio.admin.personal_token, transport=Counting()
    ) as studio:
        yield studio, written


def backend(number, version, *, state="Connected", url="http://model.example:9090/"):
    return BackendInfo(number, "A model", url, version, state, "", False)


@pytest.mark.parametrize(
    ("backends", "url"),
    [
        ([], None),
        ([backend(1, "")], None),
        ([backend(1, "yolo-3")], None),
        ([backend(1, "hf-something")], None),
        ([backend(1, UNPUBLISHED)], "http://model.example:9090/webhook"),
        ([backend(1, fresh_version())], "http://model.example:9090/webhook"),
        ([backend(1, "x", url="http://a"), backend(2, UNPUBLISHED, url="http://b")], "http://b"),
        (
            [
                backend(1, fresh_version(), url="http://a"),
                backend(2, fresh_version(), url="http://b"),
                backend(3, fresh_version(), url="http://c", state="Disconnected"),
            ],
            "http://b",
        ),
    ],
)
def test_the_backend_that_is_ours(backends, url):
    found = backend_webhook_url(backends)

    assert found == (url if url is None or url.endswith("/webhook") else f"{url}/webhook")


def test_label_studios_own_webhook_becomes_a_narrow_one(
    studio, make_project, owner, listener, counted
):
    project = make_project(tasks=2)
    listener.connect(owner, project)
    url = backend_webhook_url(studio.backends(project.id))
    (made_by_label_studio,) = studio.webhooks(project.id)
    assert (made_by_label_studio.url, made_by_label_studio.sends_all) == (url, True)

    counting, written = counted
    kept = ensure_webhook(counting, project.id, url=url, secret=SECRET)

    assert written == ["PATCH"]
    assert studio.webhooks(project.id) == [kept]
    assert reports_annotations(kept)
    assert (kept.sends_all, kept.sends_payload, kept.actions) == (False, False, ACTIONS)
    assert SECRET not in repr(kept)
    listener.received.clear()
    owner.call("POST", f"/api/tasks/{project.task_ids[0]}/annotations/", json=ANNOTATION)
    assert listener.received == [("ANNOTATION_CREATED", project.id, SECRET, {"action"})]
    assert ensure_webhook(counting, project.id, url=url, secret=SECRET) == kept
    assert written == ["PATCH"]


def test_a_server_that_is_not_ours_keeps_the_payload(
    studio, make_project, owner, listener, counted
):
    project = make_project(tasks=1)
    listener.connect(owner, project)
    url = backend_webhook_url(studio.backends(project.id))
    (made_by_label_studio,) = studio.webhooks(project.id)
    counting, written = counted

    assert is_own_server(url) is False
    assert (
        ensure_webhook(counting, project.id, url=url, secret=SECRET, payload=True)
        == made_by_label_studio
    )
    assert written == []

    # An earlier version took the payload away: it comes back.
    ensure_webhook(studio, project.id, url=url, secret=SECRET)
    kept = ensure_webhook(studio, project.id, url=url, secret=SECRET, payload=True)
    assert studio.webhooks(project.id) == [kept]
    listener.received.clear()
    owner.call("POST", f"/api/tasks/{project.task_ids[0]}/annotations/", json=ANNOTATION)
    ((action, number, _, fields),) = listener.received
    assert (action, number) == ("ANNOTATION_CREATED", project.id)
    assert {"project", "annotation", "task"} <= fields


def test_our_own_server_is_asked_who_it_is(web, tmp_path):
    url = f"{web.url}/webhook"
    assert is_own_server(url) is False  # 404, and no JSON
    web.answers["/health"] = lambda handler: reply(
        handler, 200, b'{"status": "UP", "model_class": "HardestFirst"}'
    )
    assert is_own_server(url) is False
    assert is_own_server("http://127.0.0.1:9/webhook") is None
    settings = load_settings(
        data_dir=tmp_path, label_studio_url="http://127.0.0.1:9", label_studio_api_key="nobody's"
    )
    with served(settings) as server:
        assert is_own_server(f"{server.url}/webhook") is True


def test_what_is_told(studio, make_project, owner, listener, web):
    project = make_project(tasks=4)
    ensure_webhook(studio, project.id, url=f"{web.url}/webhook", secret=SECRET)
    first, second, third, fourth = project.task_ids

    def act(action, task_id, **fields):
        items = {"selectedItems": {"all": False, "included": [task_id]}, **fields}
        owner.call("POST", f"/api/dm/actions/?id={action}&project={project.id}", json=items)

    owner.call("POST", f"/api/tasks/{first}/drafts", json=ANNOTATION)
    assert listener.actions() == []
    made = owner.call("POST", f"/api/tasks/{first}/annotations/", json=ANNOTATION)
    owner.call("PATCH", f"/api/annotations/{made['id']}/", json=ANNOTATION)
    owner.call("DELETE", f"/api/annotations/{made['id']}/")
    skip = {**ANNOTATION, "was_cancelled": True}
    owner.call("POST", f"/api/tasks/{first}/annotations/?was_cancelled=1", json=skip)
    assert listener.actions() == [
        *("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"),
        "ANNOTATION_CREATED",
    ]
    row = {"task": second, "result": [], "score": 0.5, "model_version": "v1"}
    studio.import_predictions(project.id, [row])
    assert listener.actions() == []
    studio.set_order(project.id, "v1")
    assert listener.actions() == ["PROJECT_UPDATED"]
    act("predictions_to_annotations", second, model_version="v1")
    act("delete_tasks_annotations", second)
    act("delete_tasks", third)
    owner.call("DELETE", f"/api/tasks/{fourth}/")
    image = {"data": {"image": "https://images.example/new.jpg"}}
    owner.call("POST", f"/api/projects/{project.id}/import", json=[image])
    assert listener.actions() == [
        *("ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED", "TASKS_DELETED", "TASKS_DELETED"),
        "TASKS_CREATED",
    ]
    owner.call("DELETE", f"/api/projects/{project.id}/tasks/")
    assert listener.actions() == []  # deleting all at once sends no event: polling finds it


def test_the_training_button_calls_the_backend_itself(studio, make_project, owner, listener, web):
    project = make_project()
    user = {"basic_auth_user": "us", "basic_auth_pass": "pass"}
    number = listener.connect(owner, project, auth_method="BASIC_AUTH", **user)
    ensure_webhook(studio, project.id, url=f"{web.url}/webhook", secret=SECRET)
    web.requests.clear()

    owner.call("POST", f"/api/ml/{number}/train", json={})

    assert listener.received == [(START_TRAINING, project.id, None, {"action", "project"})]
    ((_, path, headers),) = web.requests
    assert path == "/webhook"
    assert headers["Authorization"].startswith("Basic ")


def test_connecting_again_makes_no_second_webhook(studio, make_project, owner, listener, web):
    project = make_project()
    number = listener.connect(owner, project)
    kept = ensure_webhook(studio, project.id, url=f"{web.url}/webhook", secret=SECRET)

    change = {"project": project.id, "url": web.url, "title": "Another title"}
    owner.call("PATCH", f"/api/ml/{number}", json=change)
    owner.call("DELETE", f"/api/ml/{number}")
    listener.connect(owner, project)

    assert studio.webhooks(project.id) == [kept]


@pytest.mark.parametrize(
    "change",
    [
        {"is_active": False},
        {"actions": ["TASKS_CREATED"]},
        {"send_for_all_actions": True},
        {"send_payload": True},
        {"headers": {}},
        {"headers": {SECRET_HEADER: "yesterday's", PROJECT_HEADER: "1"}},
    ],
)
def test_a_changed_webhook_is_repaired(studio, make_project, owner, web, change):
    project = make_project()
    url = f"{web.url}/webhook"
    kept = ensure_webhook(studio, project.id, url=url, secret=SECRET)
    owner.call("PATCH", f"/api/webhooks/{kept.id}/", json={"actions": sorted(ACTIONS), **change})
    assert studio.webhooks(project.id) != [kept]

    assert ensure_webhook(studio, project.id, url=url, secret=SECRET) == kept
    assert studio.webhooks(project.id) == [kept]


def test_others_are_left_alone_and_doubles_go(studio, make_project, owner, web):
    project, elsewhere = make_project(), make_project()
    url = f"{web.url}/webhook"
    theirs = [(project, f"{web.url}/theirs"), (elsewhere, url)]
    doubles = [(project, url), (project, url)]
    made = [
        owner.call("POST", "/api/webhooks/", json={"project": where.id, "url": address})["id"]
        for where, address in theirs + doubles
    ]

    kept = ensure_webhook(studio, project.id, url=url, secret=SECRET)

    assert [hook.id for hook in studio.webhooks(project.id)] == [made[0], made[2]]
    assert kept.id == made[2]
    for where, number in ((project, made[0]), (elsewhere, made[1])):
        (hook,) = (hook for hook in studio.webhooks(where.id) if hook.id == number)
        assert hook.sends_all
        assert hook.sends_payload
        assert not hook.headers


def test_a_header_that_somebody_added_stays(studio, make_project, owner, web):
    project = make_project()
    url = f"{web.url}/webhook"
    kept = ensure_webhook(studio, project.id, url=url, secret=SECRET)
    added = {**kept.headers, "X-Proxy": "let me in"}
    change = {"actions": sorted(ACTIONS), "headers": added}
    owner.call("PATCH", f"/api/webhooks/{kept.id}/", json=change)

    ensure_webhook(studio, project.id, url=url, secret="a new secret")

    (hook,) = studio.webhooks(project.id)
    assert hook.headers == {**added, SECRET_HEADER: "a new secret"}


def test_an_address_that_label_studio_takes_no_webhook_for(studio, make_project):
    with pytest.raises(RefusedError, match="Enter a valid URL"):
        ensure_webhook(studio, make_project().id, url="no address", secret=SECRET)
