"""How fast tasks are pre-annotated: `python -m benchmarks.preannotate [--images FOLDER]`.

Two sides, by turns over the same images and weights; one JSON line on stdout:

- `ours`: `POST /predict` of `python -m backend serve`, in a process of its own: `cold`, tasks that
  were never scored, and `warm`, the same ones asked for again;
- `loop`: what the official YOLO example of label-studio-ml-backend does for each task: download,
  torch at batch size 1, regions. It is that example's work without its server, so it is, if
  anything, faster than the example.

The weights are a yolo11n with random weights, which takes as long as a trained one; `--weights`
names others. Images come over HTTP from this process. Without `--images` frames are drawn.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from backend.vision.ultralytics_import import import_ultralytics
from benchmarks.api import Server, serving
from benchmarks.machine import machine, progress
from benchmarks.throughput import LABELS, make_models, write_images
from demo.project import label_config

_TASKS_A_REQUEST = 8
_CONFIDENCE = 0.25
_ENDINGS = {".jpg", ".jpeg", ".png"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def images_served(folder: Path) -> Iterator[str]:
    """Give out the files of a folder on a port of loopback; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def predict(server: Server, project: int, uris: Sequence[str]) -> float:
    """Seconds for all tasks of a project, some in each request, as Label Studio sends them."""
    tasks = [{"id": 1000 * project + i, "data": {"image": uri}} for i, uri in enumerate(uris)]
    started = time.perf_counter()
    for start in range(0, len(tasks), _TASKS_A_REQUEST):
        part = tasks[start : start + _TASKS_A_REQUEST]
        body = {"tasks": part, "project": f"{project}.1", "label_config": label_config(LABELS)}
        answer = server.http.post("/predict", json=body).raise_for_status().json()
        if not all(answer["results"]):
            raise RuntimeError("a task was not answered: see the server's log on stderr")
    return time.perf_counter() - started


class Loop:
    """One task after the other through Ultralytics' own call."""

    def __init__(self, weights: Path) -> None:
        import_ultralytics()
        from ultralytics import YOLO

        self._model = YOLO(str(weights))
        self._http = httpx.Client()

    def run(self, uris: Sequence[str]) -> float:
        """Seconds for all images."""
        from PIL import Image

        started = time.perf_counter()
        for uri in uris:
            image = Image.open(io.BytesIO(self._http.get(uri).content))
            (found,) = self._model.predict(image, conf=_CONFIDENCE, device="cpu", verbose=False)
            for box in found.boxes:
                box.xyxyn.tolist(), float(box.conf), int(box.cls)
        return time.perf_counter() - started


def measure(folder: Path, models: dict[str, Any], turns: int, work: Path) -> dict[str, list[float]]:
    """Images a second of each side in each turn; a turn without a record warms both up."""
    environment = {name.upper(): str(value) for name, value in models.items()} | {
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "token",
        "ALLOWED_IMAGE_HOSTS": "127.0.0.1",
        "DATA_DIR": str(work / "data"),
        "IMAGE_CACHE_MB": "0",
        "LOG_LEVEL": "ERROR",
    }
    loop = Loop(models["model_dir"] / models["model"])
    found: dict[str, list[float]] = {"cold": [], "warm": [], "loop": []}
    with images_served(folder) as home, serving(environment) as server:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in _ENDINGS)
        uris = [f"{home}/{name}" for name in names]
        for turn in range(turns + 1):
            seconds = {
                "cold": predict(server, 1 + turn, uris),
                "warm": predict(server, 1 + turn, uris),
                "loop": loop.run(uris),
            }
            for side, took in seconds.items():
                progress(f"turn {turn}/{turns} {side}: {len(uris) / took:.2f} images/s")
                if turn:
                    found[side].append(len(uris) / took)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--count", type=int, default=32, help="how many are drawn without one")
    parser.add_argument("--weights", type=Path, help="a YOLO .pt")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        progress("making models and images")
        models = make_models(work / "models")
        if options.weights is not None:
            models["model"] = options.weights.name
            (work / "models" / options.weights.name).symlink_to(options.weights.resolve())
        folder = options.images
        if folder is None:
            folder = work / "images"
            write_images(folder, options.count)
        found = measure(folder, models, options.turns, work)
    ratios = [ours / theirs for ours, theirs in zip(found["cold"], found["loop"], strict=True)]
    report = {
        "benchmark": "preannotate",
        **machine(),
        "images_per_second": {side: round(statistics.median(v), 2) for side, v in found.items()},
        "cold_to_loop": {
            "median": round(statistics.median(ratios), 2),
            "min": round(min(ratios), 2),
            "max": round(max(ratios), 2),
        },
        "loop": "what the official example does for each task, without its server",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
