"""The OpenAPI document, held by schemathesis against what the server answers to whatever the
document allows, and to much that it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.api.prefixes import PREFIXES
from backend.metrics import HTTP_REQUESTS
from backend.store.api_keys import KeyStore
from tests.api.busy_server import (
    SCORED,
    TASKS,
    UNSCORED,
    BusyStudio,
    fill,
    settings_for,
    without_models,
)
from tests.api.server import Server, served

JSON = "application/json"

CONFIG = f"""
# A stream of a job that waits does not end: its first event is enough.
max-stream-events = 1
request-timeout = 20

[auth.openapi]
key = {{ bearer = "${{API_KEY}}" }}
HTTPBasic = {{ username = "label-studio", password = "pa55word" }}

# Numbers that there are, so that more is tried than what is not found.
[dictionaries]
projects = {{ values = [{SCORED}, {UNSCORED}] }}
images = {{ values = {list(TASKS)} }}

[parameters]
"query.project_id" = {{ dictionary = "projects", probability = 0.7 }}
"path.image_id" = {{ dictionary = "images", probability = 0.7 }}
"body.image_ids[*]" = {{ dictionary = "images", probability = 0.9 }}
"body.project_id" = {{ dictionary = "projects", probability = 0.7 }}

# DELETE cancels a job, which can be looked at all the same.
[checks]
use_after_free.enabled = false

# What a schema cannot say: a project is ID.TIMESTAMP, and comes with the request or with a task.
[[operations]]
include-tag = "Label Studio"
checks.positive_data_acceptance.enabled = false

# Nor this: images are those of one project, each once.
[[operations]]
include-path = "/v1/assignments/queue"
checks.positive_data_acceptance.enabled = false

# To a schema 1.0 is an integer, and 0 no boolean. To us they are not in JSON, and are in a form.
[[operations]]
include-path-regex = "/(auto|train)$"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false
"""


@contextmanager
def busy(folder: Path, studio_url: str) -> Iterator[Server]:
    settings = settings_for(folder / "data", studio_url)
    fill(settings)
    with without_models(), served(settings) as server:
        yield server


@pytest.fixture
def studio() -> Iterator[BusyStudio]:
    running = BusyStudio()
    yield running
    running.close()


def operations(server: Server) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each operation."""
    for path, found in server.http.get("/openapi.json").json()["paths"].items():
        for method, operation in found.items():
            yield method.upper(), path, operation


def answers_so_far() -> Counter[tuple[str, str, int]]:
    """Method, route and status -> how often a server of this process answered so."""
    return Counter(
        {
            (one.labels["method"], one.labels["route"], int(one.labels["status"])): int(one.value)
            for metric in HTTP_REQUESTS.collect()
            for one in metric.samples
            if one.name.endswith("_total")
        }
    )


def route(path: str) -> str:
    """The same under both prefixes."""
    for prefix in PREFIXES:
        path = path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
    return path


def test_every_answer_is_as_declared(tmp_path: Path, studio: BusyStudio) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with busy(tmp_path, studio.url) as server:
        _, key = KeyStore(server.services.store).make("schemathesis")
        before = answers_so_far()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                *("run", f"{server.url}/openapi.json", "--no-color", "--continue-on-failure"),
                *("--generation-deterministic", "--max-examples", "25"),
            ],
            cwd=tmp_path,
            env={**os.environ, "API_KEY": key},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Not only refusals were looked at.
        answered = answers_so_far() - before
        good = {(method, route) for method, route, status in answered if status < 300}
        assert good >= {(method, route(path)) for method, path, _ in operations(server)}


def test_without_key_or_password_each_door_is_shut(tmp_path: Path, studio: BusyStudio) -> None:
    with busy(tmp_path, studio.url) as server:
        KeyStore(server.services.store).make("somebody's")
        shut = set()
        for method, path, operation in operations(server):
            address = path.replace("{job_id}", "1").replace("{image_id}", "1")
            if operation.get("security"):
                answer = server.http.request(method, address)
                assert answer.status_code == 401, address
                assert list(operation["responses"]["401"]["content"]) == [JSON]
                assert answer.headers["content-type"] == JSON
                assert set(answer.json()) == {"detail"}
                shut.add(route(path))
            else:
                assert path in ("/health", "/ready")
        assert {"/predict", "/setup", "/webhook", "/metrics", "/score-batch"} < shut


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose Label Studio is down."""
    with busy(tmp_path_factory.mktemp("alone"), "http://127.0.0.1:9") as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "status", "sent"),
    [
        ("GET", "/ready", 503, {}),
        ("GET", "/v1/label/rounds", 504, {"params": {"project_id": SCORED}}),
        ("GET", "/v1/label/score-batch", 504, {"params": {"project_id": UNSCORED}}),
        ("GET", "/v1/label/thumbnail/{image_id}", 504, {}),
        ("POST", "/v1/assignments/queue", 504, {"json": {"image_ids": [1], "name": "First"}}),
    ],
)
def test_that_label_studio_is_down_is_an_answer_as_declared(
    alone: Server, method: str, path: str, status: int, sent: dict[str, Any]
) -> None:
    answer = alone.http.request(method, path.replace("{image_id}", "1"), **sent)
    assert answer.status_code == status, answer.text
    declared = alone.http.get("/openapi.json").json()["paths"][path][method.lower()]
    assert answer.headers["content-type"] in declared["responses"][str(status)]["content"]
    if path != "/ready":
        assert "LABEL_STUDIO_URL" in answer.json()["detail"] or "task 1" in answer.json()["detail"]
