"""The ML backend's server, spoken to as Label Studio does, with the demo's models."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from backend.server import create_app
from backend.settings import Settings, load_settings
from backend.store.job_queue import JobQueue
from backend.store.scores import Publication, RankRow, Store
from demo.project import label_config
from demo.scene import CLASSES, generate
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import MODELS

CONFIG = label_config(CLASSES)
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server-data")


@pytest.fixture(scope="module")
def settings(data_dir: Path) -> Settings:
    models = {name.lower(): value for name, value in MODELS.items()}
    return load_settings(
        **models,
        data_dir=data_dir,
        label_studio_url=UNREACHABLE,
        label_studio_api_key="legacy-token-of-nobody",
        allowed_image_hosts="127.0.0.1",
    )


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as started:
        yield started


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    server = WebServer()
    for frame in generate(3, seed=5):
        server.answers[f"/{frame.number}.jpg"] = lambda h, body=frame.jpeg: reply(h, 200, body)
    server.answers["/text.jpg"] = lambda handler: reply(handler, 200, b"no image at all")
    yield server
    server.close()


@pytest.fixture
def ask(client: TestClient) -> Callable[..., Any]:
    def predict(project: int, *images: tuple[int, str]) -> Any:
        tasks = [{"id": i, "project": project, "data": {"image": uri}} for i, uri in images]
        body = {
            "tasks": tasks,
            "project": f"{project}.1700000000",
            "label_config": CONFIG,
            "params": {"login": None, "password": None, "context": None},
            "a field of a later version": True,
        }
        answer = client.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return predict


def test_health_and_setup_answer_while_the_models_still_load(settings: Settings) -> None:
    with TestClient(create_app(settings)) as fresh:
        started = time.monotonic()
        assert fresh.get("/health").json()["status"] == "UP"
        assert fresh.get("/").status_code == 200
        for extra in ({"a": 1}, '{"a": 1}', None):
            body = {"project": "7.1", "schema": CONFIG, "hostname": "", "extra_params": extra}
            assert fresh.post("/setup", json=body).json() == {"model_version": "hf-unpublished"}
        took = time.monotonic() - started
        # The models take longer than this to load; nobody waited for them.
        assert took < 3.0


def test_as_many_answers_as_tasks_in_their_order(ask: Callable[..., Any], web: WebServer) -> None:
    results = ask(
        1,
        (11, f"{web.url}/0.jpg"),
        (12, f"{web.url}/text.jpg"),
        (13, f"{web.url}/gone.jpg"),
        (14, ""),
        (15, f"{web.url}/1.jpg"),
    )["results"]
    assert [bool(result) for result in results] == [True, False, False, False, True]
    for result in (results[0], results[4]):
        assert set(result) == {"result", "score", "model_version"}
        assert 0 <= result["score"] <= 1
        for region in result["result"]:
            assert region["type"] == "rectanglelabels"
            assert region["value"]["rectanglelabels"][0] in CLASSES
            assert region["score"] >= 0.25
            for low, size in (("x", "width"), ("y", "height")):
                assert region["value"][low] >= 0
                assert region["value"][low] + region["value"][size] <= 100.001


def test_a_task_that_is_no_task_costs_the_others_nothing(
    client: TestClient, web: WebServer
) -> None:
    good = {"id": 21, "data": {"image": f"{web.url}/0.jpg"}}
    body = {"tasks": [{}, good, {"id": "x", "data": 3}], "project": "1.1", "label_config": CONFIG}
    results = client.post("/predict", json=body).json()["results"]
    assert [bool(result) for result in results] == [False, True, False]


def test_a_scored_task_is_answered_from_the_store_without_its_image(
    ask: Callable[..., Any], web: WebServer
) -> None:
    first = ask(2, (31, f"{web.url}/0.jpg"))["results"]
    web.requests.clear()
    assert ask(2, (31, f"{web.url}/0.jpg"))["results"] == first
    assert web.requests == []


def test_a_task_that_shows_another_image_is_scored_again(
    ask: Callable[..., Any], settings: Settings, web: WebServer
) -> None:
    (first,) = ask(2, (32, f"{web.url}/0.jpg"))["results"]
    (second,) = ask(2, (32, f"{web.url}/1.jpg"))["results"]
    assert second["result"] == ask(2, (33, f"{web.url}/1.jpg"))["results"][0]["result"]
    assert second["result"] != first["result"]
    # Its image is gone: nothing is better than the boxes of another one.
    assert ask(2, (32, f"{web.url}/gone.jpg"))["results"] == [[]]


def test_a_task_twice_in_a_batch_costs_no_other_one(
    ask: Callable[..., Any], settings: Settings, web: WebServer
) -> None:
    images = [f"{web.url}/{name}.jpg" for name in ("0", "1", "2", "gone")]
    results = ask(5, (51, images[0]), (51, images[1]), (52, images[2]), (51, images[3]))["results"]
    assert results[2] == ask(5, (52, images[2]))["results"][0] != []
    store = Store.from_settings(settings)
    with store.begin() as connection:
        rows = connection.exec_driver_sql(
            "SELECT image_uri, image_hash FROM scores WHERE project_id = 5"
        )
        stored = {str(uri): found for uri, found in rows}
    store.close()
    for uri, found in stored.items():
        assert found == hashlib.sha256(httpx.get(uri).content).hexdigest()


def test_the_published_order_decides_version_and_score(
    ask: Callable[..., Any], client: TestClient, settings: Settings, web: WebServer
) -> None:
    ask(3, (41, f"{web.url}/0.jpg"), (42, f"{web.url}/1.jpg"))
    store = Store.from_settings(settings)
    with store.begin() as connection:
        found = connection.exec_driver_sql("SELECT DISTINCT detector FROM scores").scalar()
    order = [RankRow(1, 42, 0.0), RankRow(2, 41, 1.0)]
    publication = Publication(
        "hf-test", 3, "preparing", str(found), "e", "entropy", 0.4, {"entropy": 1.0}, 2, _now()
    )
    store.save_publication(publication, order)
    store.mark_live(3, "hf-test")
    store.close()
    setup = client.post("/setup", json={"project": "3.1", "schema": CONFIG}).json()
    assert setup == {"model_version": "hf-test"}
    assert client.post("/versions", json={"project": "3.1"}).json() == {"versions": ["hf-test"]}
    answer = ask(3, (41, f"{web.url}/0.jpg"), (42, f"{web.url}/1.jpg"), (43, f"{web.url}/2.jpg"))
    assert {result["model_version"] for result in answer["results"]} == {"hf-test"}
    # Ranks 2 and 1 of 2; the new task is behind the published one that is more uncertain.
    assert [result["score"] for result in answer["results"]] == [0.75, 0.25, 0.5]


def _now() -> Any:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"tasks": "none"}),
        ("/predict", {}),
        ("/predict", {"tasks": [{"id": 1, "data": {}}], "project": "not a project"}),
        ("/setup", {"project": "x"}),
        ("/setup", []),
        ("/webhook", {}),
        ("/versions", {}),
    ],
)
def test_a_malformed_request_is_one_line(client: TestClient, path: str, body: Any) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
    assert "Traceback" not in answer.text


def test_a_config_without_rectangles_is_one_line(client: TestClient, web: WebServer) -> None:
    body = {
        "tasks": [{"id": 1, "data": {"image": f"{web.url}/0.jpg"}}],
        "project": "9.1",
        "label_config": "<View/>",
    }
    answer = client.post("/predict", json=body)
    assert answer.status_code in (200, 422)
    assert "Traceback" not in answer.text


def jobs_of(client: TestClient, project: int) -> list[str]:
    queue: JobQueue = client.app.state.services.queue  # type: ignore[attr-defined]
    return [job.kind for job in queue.list(project)]


def test_events_are_acknowledged_and_have_the_project_looked_at_once(client: TestClient) -> None:
    # Twice, in any order, with the project in the body or in a header: one look.
    for action in ("ANNOTATIONS_DELETED", "ANNOTATION_CREATED", "ANNOTATION_CREATED"):
        body = {"action": action, "project": {"id": 71}, "a field of a later version": 1}
        assert client.post("/webhook", json=body).json() == {"status": "acknowledged"}
    header = {"X-Hardest-First-Project": "71"}
    assert client.post("/webhook", json={"action": "TASKS_CREATED"}, headers=header).is_success
    assert jobs_of(client, 71) == ["poll"]


def test_an_unknown_event_is_acknowledged_and_nothing_more(client: TestClient) -> None:
    body = {"action": "SOMETHING_NEW", "project": {"id": 72}}
    assert client.post("/webhook", json=body).status_code == 201
    assert jobs_of(client, 72) == []


def test_the_start_training_button_asks_for_a_training(client: TestClient) -> None:
    for _ in range(2):
        body = {"action": "START_TRAINING", "project": {"id": 73}}
        assert client.post("/webhook", json=body).status_code == 201
    assert jobs_of(client, 73) == ["train"]


def test_our_webhook_shows_its_secret_instead_of_a_password(settings: Settings) -> None:
    locked = settings.model_copy(
        update={
            "basic_auth_user": "studio",
            "basic_auth_pass": type(settings.basic_auth_pass)("open sesame"),
        }
    )
    body = {"action": "ANNOTATION_CREATED", "project": {"id": 74}}
    with TestClient(create_app(locked)) as client:
        secret = client.app.state.services.secret  # type: ignore[attr-defined]
        assert client.post("/webhook", json=body).status_code == 401
        wrong = client.post("/webhook", json=body, headers={"X-Hardest-First-Secret": "guess"})
        assert wrong.status_code == 401
        assert secret not in wrong.text
        assert jobs_of(client, 74) == []
        right = client.post("/webhook", json=body, headers={"X-Hardest-First-Secret": secret})
        assert right.status_code == 201
        # Start Training comes with the connection's user and password.
        by_name = client.post("/webhook", json=body, auth=("studio", "open sesame"))
        assert by_name.status_code == 201
        assert jobs_of(client, 74) == ["poll"]


def test_an_unexpected_error_gives_no_traceback(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(project_id: int) -> str:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(client.app.state.services.predictor, "published_version", fail)  # type: ignore[attr-defined]
    answer = client.post("/setup", json={"project": "1.1"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_basic_auth_guards_everything_but_health(settings: Settings) -> None:
    locked = settings.model_copy(
        update={
            "basic_auth_user": "studio",
            "basic_auth_pass": type(settings.basic_auth_pass)("open sesame"),
        }
    )
    with TestClient(create_app(locked)) as client:
        body = {"project": "1.1"}
        assert client.get("/health").status_code == 200
        assert client.post("/setup", json=body).status_code == 401
        assert client.post("/setup", json=body, auth=("studio", "wrong")).status_code == 401
        assert client.post("/setup", json=body, auth=("other", "open sesame")).status_code == 401
        assert client.post("/setup", json=body, auth=("studio", "open sesame")).status_code == 200
        for path in ("/predict", "/webhook", "/versions"):
            assert client.post(path, json={}).status_code == 401


def test_weights_that_cannot_be_loaded_leave_health_up_and_tasks_unanswered(
    settings: Settings, tmp_path: Path
) -> None:
    broken = settings.model_copy(update={"model": "missing.pt", "data_dir": tmp_path})
    with TestClient(create_app(broken)) as client:
        assert client.get("/health").status_code == 200
        body = {
            "tasks": [{"id": 1, "data": {"image": "x"}}, {"id": 2, "data": {"image": "y"}}],
            "project": "1.1",
            "label_config": CONFIG,
        }
        assert client.post("/predict", json=body).json()["results"] == [[], []]
