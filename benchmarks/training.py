"""How much a training slows `/predict` down: `python -m benchmarks.training [--turns N]`.

One server, in a process of its own, as in production. Quiet turns and turns with a training in the
background alternate in one run; in each, `/predict` is asked for tasks that are scored already and
for tasks that are not, whose images then go through both models, and `/webhook` gets events.
One JSON line on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend.training.dataset import TrainingImage, write_dataset
from backend.training.plan import TrainingPlan
from backend.training.trainer import train
from benchmarks.machine import machine, progress
from demo.project import label_config
from demo.scene import CLASSES, HEIGHT, WIDTH, Frame, generate
from demo.studio_server import free_port

WEIGHTS = Path(__file__).parent.parent / "demo" / "weights"
STORED_CALLS = 60
FRESH_CALLS = 12
IMAGES_A_CALL = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="turns of each side")
    turns = parser.parse_args().turns
    progress("drawing images")
    frames = list(generate(40, seed=5))
    with tempfile.TemporaryDirectory() as scratch, serving_images(frames) as images:
        work = Path(scratch)
        data = write_data(work / "data", frames)
        with backend(work) as url:
            asked = Asked(url, images, len(frames))
            asked.stored()  # once for the models to be loaded, and the tasks to be scored
            seconds: dict[str, dict[str, list[float]]] = {"quiet": {}, "training": {}}
            for turn in range(turns):
                progress(f"turn {turn + 1} of {turns}: quiet")
                measure(asked, seconds["quiet"])
                progress(f"turn {turn + 1} of {turns}: training")
                with training(data, work / f"training-{turn}"):
                    measure(asked, seconds["training"])
    print(json.dumps({**summary(seconds), "turns": turns, "machine": machine()}))


@contextmanager
def serving_images(frames: list[Frame]) -> Iterator[str]:
    """A web server on loopback: /N.jpg is frame N modulo their number, each under any N."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.strip("/").split(".")[0])
            body = frames[number % len(frames)].jpeg
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def write_data(folder: Path, frames: list[Frame]) -> Path:
    """The frames as a training set."""
    images = (
        TrainingImage(
            f"task-{number}",
            frame.jpeg,
            frame.xyxy / np.array((WIDTH, HEIGHT, WIDTH, HEIGHT)),
            frame.class_ids,
        )
        for number, frame in enumerate(frames)
    )
    return write_dataset(folder, images, CLASSES, image_size=256).data_yaml


@contextmanager
def backend(work: Path) -> Iterator[str]:
    """`python -m backend serve` with the demo's models; no Label Studio is asked for anything."""
    port = free_port()
    settings = {
        "MODEL": "detector.pt",
        "MODEL_DIR": str(WEIGHTS),
        "CLIP_MODEL": "encoder.json",
        "CLIP_PRETRAINED": "encoder.pt",
        "DEVICE": "cpu",
        "DATA_DIR": str(work / "var"),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "legacy-token-of-nobody",
        "LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", "serve", "--port", str(port)],
        env={**os.environ, **settings},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/health", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(40)


class Asked:
    """Asks `/predict` as Label Studio does."""

    def __init__(self, url: str, images: str, known: int) -> None:
        self._http = httpx.Client(base_url=url, timeout=100)
        self._images = images
        self._known = known
        self._next = known

    def stored(self) -> None:
        """Tasks that are scored (from the second call on)."""
        self._predict(range(1, IMAGES_A_CALL + 1))

    def fresh(self) -> None:
        """Tasks that nobody has asked for yet."""
        self._next += IMAGES_A_CALL
        self._predict(range(self._next, self._next + IMAGES_A_CALL))

    def event(self) -> None:
        """An annotation was made, in one of a hundred projects."""
        self._next += 1
        body = {"action": "ANNOTATION_CREATED", "project": {"id": 100 + self._next % 100}}
        self._http.post("/webhook", json=body).raise_for_status()

    def _predict(self, numbers: range) -> None:
        tasks = [{"id": n, "data": {"image": f"{self._images}/{n}.jpg"}} for n in numbers]
        body = {"tasks": tasks, "project": "1.1", "label_config": label_config(CLASSES)}
        results = self._http.post("/predict", json=body).raise_for_status().json()["results"]
        assert all(results), "an image was left unanswered"


@contextmanager
def training(data: Path, folder: Path) -> Iterator[None]:
    """A training in the background, begun and well under way."""
    plan = TrainingPlan(
        base=WEIGHTS / "detector.pt",
        data_yaml=data,
        folder=folder,
        image_size=256,
        steps=3000,
        batch=16,
    )
    under_way, enough = threading.Event(), threading.Event()

    class Enough(Exception):  # noqa: N818
        """The calls are over."""

    def check() -> None:
        if enough.is_set():
            raise Enough

    def run() -> None:
        with suppress(Enough):
            train(
                plan,
                on_progress=lambda done, total: under_way.set() if done >= 2 else None,
                check=check,
            )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert under_way.wait(120), "the training did not begin"
        yield
        assert thread.is_alive(), "the training was over before the calls were"
    finally:
        enough.set()
        thread.join()


def measure(asked: Asked, seconds: dict[str, list[float]]) -> None:
    """Add the times of one turn."""
    for name, call, times in (
        ("stored", asked.stored, STORED_CALLS),
        ("fresh", asked.fresh, FRESH_CALLS),
        ("event", asked.event, STORED_CALLS),
    ):
        seconds.setdefault(name, []).extend(_timed(call) for _ in range(times))


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def summary(seconds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians in milliseconds a call, and how many times slower a training makes it."""
    found: dict[str, Any] = {"images_a_call": IMAGES_A_CALL}
    for name in ("stored", "fresh", "event"):
        medians = {side: statistics.median(seconds[side][name]) for side in seconds}
        found[name] = {
            **{f"{side}_ms": round(1000 * value, 1) for side, value in medians.items()},
            "slowdown": round(medians["training"] / medians["quiet"], 2),
            "slowdown_p95": round(
                _p95(seconds["training"][name]) / _p95(seconds["quiet"][name]), 2
            ),
            "calls": len(seconds["quiet"][name]),
        }
    return found


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    main()
