"""The demo's models and pictures, in the real Label Studio, driven as a user drives them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from backend.cli import main
from backend.settings import Settings, load_settings
from backend.store.scores import Store
from demo.project import label_config
from demo.scene import CLASSES, Frame, generate
from demo.studio_server import StudioServer
from tests.label_studio.conftest import WebServer, reply
from tests.person import Person

ROOT = Path(__file__).parent.parent.parent
WEIGHTS = ROOT / "demo" / "weights"
MODELS = {
    "MODEL": "detector.pt",
    "MODEL_DIR": str(WEIGHTS),
    "CLIP_MODEL": "encoder.json",
    "CLIP_PRETRAINED": "encoder.pt",
    "DEVICE": "cpu",
}
CONFIG = label_config(CLASSES)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models are converted for this machine once for all tests."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    """Some of the demo's pool: a few sequences of near-duplicates and some singles."""
    return list(generate(36, seed=1))


@dataclass
class Command:
    """`python -m backend` against one Label Studio and one store."""

    environment: dict[str, str]

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """In a process of its own, which can be killed."""
        return subprocess.Popen(
            [sys.executable, "-m", "backend", *map(str, arguments)],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, status: int = 0) -> tuple[str, str]:
        """In this process, which spares loading torch each time; returns stdout and stderr."""
        output, errors = io.StringIO(), io.StringIO()
        found = 0
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "argv", ["backend", *map(str, arguments)]),
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            try:
                main()
            except SystemExit as done:
                found = int(done.code or 0)
        assert found == status, (output.getvalue(), errors.getvalue())
        return output.getvalue(), errors.getvalue()

    def json(self, *arguments: object) -> dict[str, Any]:
        answer = json.loads(self.run(*arguments, "--json")[0])
        assert isinstance(answer, dict)
        return answer

    @property
    def data_dir(self) -> Path:
        return Path(self.environment["DATA_DIR"])

    @property
    def store(self) -> Store:
        return Store(f"sqlite:///{self.data_dir}/store.sqlite3")


@contextmanager
def running(command: Command, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of the backend, stopped at the end."""
    process = command.start(*arguments)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def wait_until(
    happened: Callable[[], bool], what: str, *, seconds: float = 240, pause: float = 0.2
) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)


@pytest.fixture
def environment(label_studio: StudioServer, tmp_path: Path, exports: Path) -> dict[str, str]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "exports").symlink_to(exports)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields
    }
    return {
        **inherited,
        **MODELS,
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.admin.personal_token,
        "DATA_DIR": str(data),
        # Where the test's own web server is.
        "ALLOWED_IMAGE_HOSTS": "127.0.0.1",
        # Ranks alone decide the order; tests of the hold-out set it.
        "VALIDATION_SHARE": "0",
        "PYTHONWARNINGS": "default",
    }


@pytest.fixture
def command(environment: dict[str, str]) -> Command:
    return Command(environment)


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    names = {name.lower(): value for name, value in environment.items()}
    return load_settings(**{k: v for k, v in names.items() if k in Settings.model_fields})


@pytest.fixture(scope="session")
def annotators(label_studio: StudioServer) -> Iterator[list[Person]]:
    people = [
        Person(label_studio.url, label_studio.add_user(f"loop-annotator{i}@example.com"))
        for i in (1, 2)
    ]
    yield people
    for person in people:
        person.http.close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def make_project(
    owner: Person, web: WebServer, frames: list[Frame]
) -> Callable[..., tuple[int, list[int]]]:
    """Make a project whose images a web server on loopback serves; returns its id and task ids."""

    def make(files: dict[str, bytes] | None = None, config: str = CONFIG) -> tuple[int, list[int]]:
        served = files or {f"{frame.name}.jpg": frame.jpeg for frame in frames}
        # The editor in a browser reads images of another origin only where their server allows it.
        allowed = {"Access_Control_Allow_Origin": "*", "Content_Type": "image/jpeg"}
        for name, content in served.items():
            web.answers[f"/{name}"] = lambda h, body=content: reply(h, 200, body, **allowed)
        project = owner.call(
            "POST", "/api/projects/", json={"title": "Line 1", "label_config": config}
        )["id"]
        rows = [{"data": {"image": f"{web.url}/{name}"}} for name in served]
        owner.call("POST", f"/api/projects/{project}/import", json=rows)
        listed = owner.call("GET", f"/api/tasks/?project={project}&fields=task_only&page_size=1000")
        return project, sorted(task["id"] for task in listed["tasks"])

    return make
