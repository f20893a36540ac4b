"""The demo's models and pictures on a web server, for engines that run in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.label_studio.records import TaskRef
from backend.settings import Settings, load_settings
from demo.scene import generate
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import MODELS

TASKS = 24


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    return [frame.jpeg for frame in generate(TASKS, seed=5)]


@pytest.fixture
def web(pictures: list[bytes]) -> Iterator[WebServer]:
    server = WebServer()
    for number, jpeg in enumerate(pictures):
        server.answers[f"/{number}.jpg"] = lambda h, body=jpeg: reply(h, 200, body)
    yield server
    server.close()


@pytest.fixture
def tasks(web: WebServer) -> list[TaskRef]:
    return [TaskRef(id=i + 1, data={"image": f"{web.url}/{i}.jpg"}) for i in range(TASKS)]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models are converted for this machine once for all tests."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def settings(tmp_path: Path, exports: Path) -> Settings:
    data = tmp_path / "data"
    data.mkdir()
    (data / "exports").symlink_to(exports)
    return load_settings(
        **{name.lower(): value for name, value in MODELS.items()},
        data_dir=data,
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="legacy-token-of-nobody",
        allowed_image_hosts="127.0.0.1",
        image_cache_mb=0,
    )
