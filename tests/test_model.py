"""`HardestFirst` under both generations of label-studio-ml."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend import assembly
from demo.project import label_config
from demo.scene import CLASSES, generate
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import MODELS

CONFIG = label_config(CLASSES)


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    server = WebServer()
    frame = next(generate(1, seed=5))
    server.answers["/0.jpg"] = lambda handler: reply(handler, 200, frame.jpeg)
    yield server
    server.close()


@pytest.fixture(autouse=True, scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What an operator sets; the predictor of this process is made from it, once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in MODELS.items():
            patch.setenv(name, value)
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("model-data")))
        patch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
        patch.setenv("LABEL_STUDIO_API_KEY", "legacy-token-of-nobody")
        patch.setenv("ALLOWED_IMAGE_HOSTS", "127.0.0.1")
        assembly.shared_predictor.cache_clear()
        assembly.shared_queue.cache_clear()
        yield
        assembly.shared_predictor().close()
        assembly.shared_predictor.cache_clear()
        assembly.shared_queue.cache_clear()


def tasks(web: WebServer) -> list[dict[str, Any]]:
    return [
        {"id": 1, "project": 4, "data": {"image": f"{web.url}/0.jpg"}},
        {"id": 2, "project": 4, "data": {"image": f"{web.url}/gone.jpg"}},
    ]


def test_under_the_server_of_label_studio_ml_1(web: WebServer, tmp_path: Path) -> None:
    from label_studio_ml.api import init_app

    from backend.model import HardestFirst

    client = init_app(HardestFirst, model_dir=str(tmp_path)).test_client()
    setup = {"project": "4.1700000000", "schema": CONFIG, "hostname": "", "access_token": ""}
    assert client.post("/setup", json=setup).status_code == 200
    body = {
        "tasks": tasks(web),
        "project": "4.1700000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200
    good, bad = answer.json["results"]
    assert good["model_version"] == "hf-unpublished"
    assert all(r["type"] == "rectanglelabels" for r in good["result"])
    assert bad == []


class BaseOfVersion2:
    """The part of label-studio-ml 2.x's base class that subclasses meet.

    It is made for each request with the project and the label config, calls `setup()`, and
    keeps what `set` is given; the real one is not on the registry.
    """

    kept: dict[tuple[str, str], str] = {}  # noqa: RUF012

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        self.setup()

    def setup(self) -> None:
        raise AssertionError("the subclass sets itself up")

    def set(self, key: str, value: str) -> None:
        self.kept[self.project_id, key] = value

    def get(self, key: str) -> str:
        return self.kept[self.project_id, key]

    @property
    def label_config(self) -> str:
        return self.get("label_config")


@pytest.fixture
def model_of_version_2(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = BaseOfVersion2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.delitem(sys.modules, "backend.model", raising=False)
    model = importlib.import_module("backend.model")
    monkeypatch.delitem(sys.modules, "backend.model")
    return model.HardestFirst


def test_under_the_class_api_of_label_studio_ml_2(model_of_version_2: Any, web: WebServer) -> None:
    model = model_of_version_2(project_id="4", label_config=CONFIG)
    assert model.get("model_version") == "hf-unpublished"
    good, bad = model.predict(tasks(web), context={}, login=None, password=None)
    assert {"result", "score", "model_version"} <= good.keys()
    assert bad == []


def test_events_have_the_project_looked_at_or_trained(model_of_version_2: Any) -> None:
    model = model_of_version_2(project_id="4", label_config=CONFIG)
    data = {"project": {"id": 41}}
    # As 2.x calls it, and as 1.0.9 does.
    assert model.fit("ANNOTATION_CREATED", data) == {}
    assert model.fit((), event="ANNOTATION_UPDATED", data=data, job_id="7") == {}
    assert model.fit(event="START_TRAINING", data={**data, "extra": 1}) == {}
    assert model.fit("SOMETHING_NEW", {}) == {}
    queue = assembly.shared_queue()
    assert sorted(job.kind for job in queue.list(41)) == ["poll", "train"]


def test_the_requests_of_the_server_of_label_studio_ml_2(
    model_of_version_2: Any, web: WebServer
) -> None:
    """As its `api.py` takes them apart: a model for each request, the project from the body."""

    def setup(body: dict[str, Any]) -> Any:
        model = model_of_version_2(
            project_id=body["project"].split(".", 1)[0], label_config=body["schema"]
        )
        return model.get("model_version")

    def predict(body: dict[str, Any]) -> Any:
        model = model_of_version_2(
            project_id=str(body["project"]).split(".", 1)[0], label_config=body["label_config"]
        )
        return model.predict(body["tasks"], context=body["params"].pop("context", {}))

    def webhook(body: dict[str, Any]) -> Any:
        event = body.pop("action")
        project = body["project"]
        model = model_of_version_2(str(project["id"]), label_config=project["label_config"])
        return model.fit(event, body)

    assert setup({"project": "43.1700000000", "schema": CONFIG}) == "hf-unpublished"
    # The tasks need not name their project.
    body = {"project": "43.1700000000", "label_config": CONFIG, "params": {"context": {}}}
    bare = [{"id": task["id"], "data": task["data"]} for task in tasks(web)]
    good, bad = predict({**body, "tasks": bare})
    assert {"result", "score", "model_version"} <= good.keys()
    assert bad == []
    project = {"id": 43, "label_config": CONFIG}
    events = ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED"]
    for event in [*events, "START_TRAINING", "ANNOTATION_CREATED"]:
        assert webhook({"action": event, "project": project, "annotation": {}}) == {}
    queue = assembly.shared_queue()
    assert sorted(job.kind for job in queue.list(43)) == ["poll", "train"]


def test_tasks_without_a_project_are_left_unanswered_and_the_log_says_why(
    model_of_version_2: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of_version_2(project_id="", label_config=CONFIG)
    assert model.predict([{"id": 1, "data": {}}]) == [[]]
    assert "nothing is predicted for 1 tasks: neither they nor the request name" in caplog.text
    assert model_of_version_2(project_id="4", label_config=CONFIG).predict([]) == []
