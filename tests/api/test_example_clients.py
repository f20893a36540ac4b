"""The README's example clients, word for word, against a server, a worker and Label Studio."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.label_studio.client import Studio
from backend.settings import Settings
from demo.scene import generate
from demo.studio_server import StudioServer, free_port
from tests.label_studio.conftest import WebServer, reply, tasks_of_view
from tests.loop.conftest import MODELS, ROOT, Command, exports, running, wait_until
from tests.loop.test_loop import CONFIG, Line, connect, truth_of
from tests.person import Person

__all__ = ["exports"]

# Five real trainings, each as short as can be.
pytestmark = pytest.mark.timeout(600)

README = (ROOT / "README.md").read_text()
SECTION = README.split("## Use it from a script\n")[1].split("\n## ")[0]
SCORE, FIVE_ROUNDS, DIVERSE = re.findall(r"```python\n(.*?)```", SECTION, re.S)

SHORT = {
    # Half of the images are the hold-out.
    "VALIDATION_SHARE": "0.5",
    "TRAIN_AFTER": "0",
    "TRAIN_STEPS": "8",
    "TRAIN_BATCH": "4",
    "TRAIN_IMAGE_SIZE": "160",
}
FRAMES = 44
BATCH = 4
# Labelled before the rounds, for no model is trained that could not be evaluated.
BEFORE = 14


@dataclass
class Service:
    """A running server and worker, a project that was ranked once, and a key."""

    line: Line
    base: str
    key: str

    @contextmanager
    def client(self, program: str) -> Iterator[subprocess.Popen[str]]:
        """Run a program of the README as a user would."""
        variables = {"BASE": self.base, "KEY": self.key, "PROJECT": str(self.line.project)}
        with subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **variables, "BATCH": str(BATCH)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def output(self, program: str) -> list[list[str]]:
        """Run a program to its end; returns the words of the lines that it prints."""
        with self.client(program) as process:
            output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        return [line.split() for line in output.splitlines()]

    def get(self, route: str, **query: Any) -> Any:
        answer = httpx.get(
            f"{self.base}/v1/label/{route}",
            params={"project_id": self.line.project, **query},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=30,
        )
        return answer.raise_for_status().json()


@pytest.fixture(scope="module")
def command(
    label_studio: StudioServer, exports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Command:
    data = tmp_path_factory.mktemp("data")
    (data / "exports").symlink_to(exports)
    kept = {name: v for name, v in os.environ.items() if name.lower() not in Settings.model_fields}
    return Command(
        {
            **kept,
            **MODELS,
            **SHORT,
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.admin.personal_token,
            "DATA_DIR": str(data),
            "ALLOWED_IMAGE_HOSTS": "127.0.0.1",
        }
    )


@contextmanager
def filled_line(owner: Person) -> Iterator[Line]:
    """A project whose images a web server on loopback serves."""
    web = WebServer()
    frames = {f"{frame.name}.jpg": frame for frame in generate(FRAMES, seed=1)}
    for name, frame in frames.items():
        web.answers[f"/{name}"] = lambda h, body=frame.jpeg: reply(
            h, 200, body, Content_Type="image/jpeg"
        )
    body = {"title": "Line 1", "label_config": CONFIG}
    project = owner.call("POST", "/api/projects/", json=body)["id"]
    rows = [{"data": {"image": f"{web.url}/{name}"}} for name in frames]
    owner.call("POST", f"/api/projects/{project}/import", json=rows)
    yield Line(project, {name: truth_of(frame) for name, frame in frames.items()})
    web.close()


@pytest.fixture(scope="module")
def service(command: Command, owner: Person) -> Iterator[Service]:
    """What the README has a user start."""
    with filled_line(owner) as line:
        command.run("score", line.project)
        key = command.run("keys", "make", "a script")[0].strip()
        port = free_port()
        with running(command, "serve", "--port", port), running(command, "worker"):
            connect(owner, command, line.project, port)
            yield Service(line, f"http://127.0.0.1:{port}", key)


@pytest.fixture
def studio(label_studio: StudioServer) -> Iterator[Studio]:
    with Studio(label_studio.url, label_studio.admin.personal_token) as client:
        yield client


def test_a_connection_outlives_a_pause_between_two_requests(service: Service) -> None:
    with closing(HTTPConnection(service.base.removeprefix("http://"), timeout=30)) as connection:
        for pause in (4, 0):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            time.sleep(pause)


def test_score(service: Service) -> None:
    boxes, *rows = service.output(SCORE)
    assert boxes == ["boxes:", "done"]
    scores = [float(score) for _, _, score, _ in rows]
    assert scores == sorted(scores)
    assert 0 <= scores[0] < scores[-1] <= 1
    assert sorted(int(rank) for rank, *_ in rows) == list(range(1, FRAMES + 1))
    picture = httpx.get(rows[0][-1], headers={"Authorization": f"Bearer {service.key}"})
    assert picture.headers["content-type"] == "image/jpeg"
    assert httpx.get(rows[0][-1]).status_code == 401


def test_a_diverse_batch_is_shared_out_to_two_reviewers(service: Service, studio: Studio) -> None:
    ann, ben = service.output(DIVERSE)
    assert (ann[:2], ben[:2]) == (["Diverse:", "Ann"], ["Diverse:", "Ben"])
    shares = [[int(image) for image in queue[3:]] for queue in (ann, ben)]
    ordered = service.get("score-batch", diversity_weight=0.8, limit=20, sort="rank")["queue"]
    assert [image["rank"] for image in ordered] == list(range(1, 21))
    picked = [image["image_id"] for image in ordered]
    assert shares == [picked[::2], picked[1::2]]
    for queue, share in zip((ann, ben), shares, strict=True):
        view = int(queue[2].rsplit("=", 1)[1])
        assert tasks_of_view(studio, view, service.line.project) == share
    # Pure uncertainty picks others.
    pure = service.get("score-batch", strategy="combined", limit=10, sort="rank")["queue"]
    assert [image["image_id"] for image in pure] != picked[:10]


def test_five_rounds(service: Service, owner: Person) -> None:
    service.line.label_all(owner, BEFORE)
    left = FRAMES - BEFORE
    wait_until(lambda: len(service.get("score-batch")["queue"]) == left, "the answers are read")
    versions = []
    with service.client(FIVE_ROUNDS) as client:
        assert client.stdout is not None
        for line in client.stdout:
            words = line.split()
            if words[2] == "trained":
                versions.append(words[3].rstrip(","))
                continue
            images = [int(word) for word in words[7:]]
            assert len(images) == BATCH
            # Label Studio serves what the script put first, in its order.
            assert service.line.label_all(owner, BATCH) == images
        _, errors = client.communicate(timeout=60)
    assert (client.returncode, errors) == (0, "")
    rounds = service.get("rounds")["rounds"]
    assert [one["version"] for one in rounds] == versions
    assert [one["labels"] + one["judged_on"] for one in rounds] == [
        BEFORE + number * BATCH for number in range(1, 6)
    ]
    assert any(one["promoted"] for one in rounds)
    assert service.get("jobs", state="failed")["jobs"] == []
    assert len(service.get("score-batch")["queue"]) == FRAMES - BEFORE - 5 * BATCH
