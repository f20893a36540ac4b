"""What Prometheus reads of the work done in this process."""

from __future__ import annotations

import ast
import hashlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from backend import metrics
from backend.errors import ImageError, LabelStudioError
from backend.images.source import ImageSource
from backend.jobs.runner import run_now
from backend.label_studio.client import Studio
from backend.label_studio.records import TaskRef
from backend.scoring.models import Scorers
from backend.settings import Settings, load_settings
from backend.store.job_queue import JobQueue
from backend.store.scores import Store
from demo.project import label_config
from demo.scene import CLASSES, generate
from demo.studio_server import free_port
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import MODELS

ROOT = Path(__file__).parent.parent

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Figures:
    """(name, labels) -> value, as Prometheus reads it."""
    return {
        (sample.name.removeprefix("hardest_first_"), tuple(sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Counted:
    """How much each figure grew in a block."""

    def __enter__(self) -> Counted:
        self._before = read(metrics.exposition().decode())
        return self

    def __exit__(self, *_: object) -> None:
        self._after = read(metrics.exposition().decode())

    def grew(self, name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return self._after.get(key, 0.0) - self._before.get(key, 0.0)


def test_what_is_known_beforehand_begins_at_nought() -> None:
    figures = read(metrics.exposition().decode())
    for stage in ("fetch", "decode", "detect", "embed", "store", "rank", "publish"):
        assert ("stage_seconds_count", (("stage", stage),)) in figures
    for kind in ("timeout", "unreachable", "4xx", "5xx", "other"):
        assert ("label_studio_errors_total", (("kind", kind),)) in figures
    assert ("images_scored_total", ()) in figures
    assert figures["process_resident_memory_bytes", ()] > 1e6


def test_a_stage_that_fails_is_timed_too() -> None:
    with Counted() as counted, suppress(ImageError), metrics.timed("decode"):
        raise ImageError("broken")
    assert counted.grew("stage_seconds_count", stage="decode") == 1


def test_the_figures_are_a_plain_part_at_the_bottom() -> None:
    tree = ast.parse((ROOT / "backend" / "metrics.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    foreign = {str(name).split(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == {"prometheus_client"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(
        **{name.lower(): value for name, value in MODELS.items()},
        data_dir=tmp_path_factory.mktemp("data"),
        label_studio_api_key="legacy-token-of-nobody",
        allowed_image_hosts="127.0.0.1",
    )


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def test_scoring_counts_images_and_the_time_of_each_stage(
    settings: Settings, web: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backend.scoring.scorer")
    for frame in generate(3, seed=5):
        web.answers[f"/{frame.number}.jpg"] = partial(reply, status=200, body=frame.jpeg)
    names = ["0.jpg", "1.jpg", "2.jpg", "gone.jpg"]
    tasks = [TaskRef(i, {"image": f"{web.url}/{name}"}) for i, name in enumerate(names, start=1)]
    tasks.append(TaskRef(9, {"no image": 1}))
    store = Store.from_settings(settings)
    scorers = Scorers(settings, store)
    with Counted() as counted, scorers.lent(3) as scorer:
        scorer.score(3, tasks, label_config=label_config(CLASSES))
        # What is scored already is not counted again.
        scorer.score(3, tasks[:3], label_config=label_config(CLASSES))
    scorers.close()
    store.close()
    failed = [vars(record) for record in caplog.records if record.name == "backend.scoring.scorer"]
    assert {(record["project"], record["task"]) for record in failed} == {(3, 4), (3, 9)}
    assert counted.grew("images_scored_total") == 3
    assert counted.grew("images_skipped_total") == 2
    assert counted.grew("stage_seconds_count", stage="fetch") == 4
    assert counted.grew("stage_seconds_count", stage="decode") == 3
    for stage in ("detect", "embed", "store"):
        assert counted.grew("stage_seconds_count", stage=stage) == 1
        assert counted.grew("stage_seconds_sum", stage=stage) > 0
    assert counted.grew("image_cache_total", result="miss") == 4
    assert counted.grew("image_cache_total", result="hit") == 0


def test_the_image_cache_counts_hits(settings: Settings, web: WebServer) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "JPEG")
    web.answers["/a.jpg"] = lambda handler: reply(handler, 200, picture.getvalue())
    source = ImageSource.from_settings(settings)
    with Counted() as counted:
        hashes = {hashlib.sha256(source.fetch(f"{web.url}/a.jpg")).digest() for _ in range(3)}
    source.close()
    assert len(hashes) == 1
    assert counted.grew("image_cache_total", result="hit") == 2
    assert counted.grew("image_cache_total", result="miss") == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>not Label Studio</html>", "other"),
        (302, b"", "other"),
        (401, b"{}", "4xx"),
        (404, b"{}", "4xx"),
        (429, b"{}", "4xx"),
        (500, b"oh", "5xx"),
        (503, b"", "5xx"),
    ],
)
def test_errors_of_label_studio_are_counted_by_kind(
    web: WebServer, status: int, body: bytes, kind: str
) -> None:
    web.answers["/api/version"] = lambda h: reply(h, status, body, Location="/elsewhere")
    web.answers["/api/projects/1/"] = web.answers["/api/projects/1"] = web.answers["/api/version"]
    refused = pytest.raises(LabelStudioError)
    with Counted() as counted, Studio(web.url, "token", retries=0) as studio, refused:
        studio.project(1)
    grew = {k: counted.grew("label_studio_errors_total", kind=k) for k in ("other", "4xx", "5xx")}
    assert grew == {"other": 0, "4xx": 0, "5xx": 0, kind: 1}


def test_silence_of_label_studio_is_counted_as_such(web: WebServer) -> None:
    web.answers["/api/projects/1/"] = web.answers["/api/projects/1"] = lambda _: time.sleep(1)
    with Counted() as counted:
        for url in (web.url, f"http://127.0.0.1:{free_port()}"):
            silent = pytest.raises(LabelStudioError)
            with Studio(url, "token", retries=0, timeout=0.2) as studio, silent:
                studio.project(1)
    assert counted.grew("label_studio_errors_total", kind="timeout") == 1
    assert counted.grew("label_studio_errors_total", kind="unreachable") == 1


def test_jobs_are_timed_by_how_they_end(settings: Settings, tmp_path: Path) -> None:
    store = Store.from_settings(settings)
    queue = JobQueue(store)

    def fail(_: object) -> None:
        raise ImageError("no image")

    with Counted() as counted:
        run_now(queue, "poll", 1, None, {"poll": lambda context: None})
        run_now(queue, "poll", 1, None, {"poll": fail})
    store.close()
    assert counted.grew("job_seconds_count", kind="poll", state="done") == 1
    assert counted.grew("job_seconds_count", kind="poll", state="failed") == 1


def _start_worker(data_dir: Path, studio: str, port: int) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "LABEL_STUDIO_URL": studio,
        "LABEL_STUDIO_API_KEY": "legacy-token-of-nobody",
        "WORKER_METRICS_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "backend", "worker"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_gives_its_figures_on_a_port_of_loopback(tmp_path: Path, web: WebServer) -> None:
    me = b'{"id": 1, "email": "me@example.com"}'
    for path in ("/api/current-user/whoami", "/api/current-user/whoami/"):
        web.answers[path] = lambda handler: reply(handler, 200, me, Content_Type="application/json")
    port = free_port()
    worker = _start_worker(tmp_path, web.url, port)
    try:
        figures = _figures_of(port, worker)
        assert figures["images_scored_total", ()] == 0
        assert figures["process_resident_memory_bytes", ()] > 1e6
        second = _start_worker(tmp_path, web.url, port)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"WORKER_METRICS_PORT {port} cannot be opened" in said
        assert "Traceback" not in said
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert worker.returncode == 0


def _figures_of(port: int, worker: subprocess.Popen[str]) -> Figures:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert worker.poll() is None, worker.communicate()
        with suppress(httpx.TransportError):
            return read(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text)
        time.sleep(0.1)
    raise AssertionError("the worker gave no figures within 60 s")
