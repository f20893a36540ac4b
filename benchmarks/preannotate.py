"""How fast tasks are pre-annotated and scored: `python -m benchmarks.preannotate`.

All sides take turns over the same images and weights; one JSON line on stdout:

- `cold` and `warm`: `POST /predict` of `python -m backend serve`, in a process of its own: tasks
  that were never scored, and the same ones asked for again;
- `example`: the same requests to the official YOLO example of label-studio-ml-backend, in a process
  of its own too. `--example` names a clone of that repository, `--python` the interpreter that has
  what the example needs. Without it a loop does what the example does for each task, without its
  server: download, torch at batch size 1, regions;
- `score_openclip`, `score_detector`: the whole scoring path with each encoder: download, decode,
  detect, embed, score, store;
- `models_openclip`, `models_detector`: the models of these two alone, on inputs that are ready.

The weights are a yolo11n with random weights, which takes as long as a trained one; `--weights`
names others. The images, those of the folder `--images` or drawn ones, come over HTTP from one more
process.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx

from backend.images.source import ImageSource
from backend.label_studio.records import TaskRef
from backend.scoring.scorer import Scorer
from backend.settings import Settings, load_settings
from backend.store.scores import Store
from backend.vision.models import load_models
from backend.vision.picture import decode
from backend.vision.ultralytics_import import import_ultralytics
from benchmarks.api import Server, free_port, serving, started, wait_for
from benchmarks.machine import machine, progress
from benchmarks.random_models import make_models
from benchmarks.throughput import write_images
from demo.project import label_config

_TASKS_A_REQUEST = 8
_CONFIDENCE = 0.25
_ENDINGS = {".jpg", ".jpeg", ".png"}
_ENCODERS = ("openclip", "detector")

# (ratio, faster side, slower side): how many times as fast the first is.
_RATIOS = (
    ("cold_to_example", "cold", "example"),
    ("score_openclip_to_example", "score_openclip", "example"),
    ("score_openclip_to_models", "score_openclip", "models_openclip"),
    ("score_detector_to_models", "score_detector", "models_detector"),
)

Side = Callable[[int], None]
"""Does all images once, given the number of the turn."""


@contextmanager
def images_served(folder: Path) -> Iterator[str]:
    """Give out the files of a folder from a process of its own; yields the address."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(httpx.Client(base_url=address), "/")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def class_names(weights: Path) -> list[str]:
    """What the weights can see; the labels of the project are called the same."""
    import_ultralytics()
    from ultralytics import YOLO

    return [str(name) for name in YOLO(str(weights)).names.values()]


def predictor(server: Server, uris: Sequence[str], config: str) -> Side:
    """Requests of some tasks each, as Label Studio sends them, of another project each turn."""

    def run(turn: int) -> None:
        project = 1 + turn
        tasks = [{"id": 1000 * project + i, "data": {"image": uri}} for i, uri in enumerate(uris)]
        for start in range(0, len(tasks), _TASKS_A_REQUEST):
            part = tasks[start : start + _TASKS_A_REQUEST]
            body = {"tasks": part, "project": f"{project}.1", "label_config": config}
            answer = server.http.post("/predict", json=body).raise_for_status().json()
            if len(answer["results"]) != len(part) or not all(answer["results"]):
                raise RuntimeError("a task was not answered: see the server's log on stderr")

    return run


@contextmanager
def example_served(clone: Path, python: str, weights: Path, work: Path) -> Iterator[Server]:
    """The official example's own server, with these weights under all names that it asks for."""
    folder = clone / "label_studio_ml" / "examples" / "yolo"
    root = work / "example"
    root.mkdir()
    sources = "".join(path.read_text() for path in folder.glob("control_models/*.py"))
    for name in set(re.findall(r"[\w-]+\.pt\b", sources)):
        (root / name).symlink_to(weights.resolve())
    port = free_port()
    command = [python, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    environment = {
        "MODEL_ROOT": str(root),
        "MODEL_SCORE_THRESHOLD": str(_CONFIDENCE),
        "PYTHONPATH": str(clone.resolve()),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "token",
        "LOG_LEVEL": "ERROR",
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
    }
    options = ["--threads", "4", "--timeout", "0", "_wsgi:app"]
    with started([*command, *options], port, environment, folder) as server:
        yield server


def example_loop(weights: Path, uris: Sequence[str]) -> Side:
    """One task after the other through Ultralytics' own call, as the example does it."""
    from PIL import Image
    from ultralytics import YOLO

    model = YOLO(str(weights))
    http = httpx.Client()

    def run(_turn: int) -> None:
        for uri in uris:
            image = Image.open(io.BytesIO(http.get(uri).content))
            (found,) = model.predict(image, conf=_CONFIDENCE, device="cpu", verbose=False)
            for box in found.boxes:
                box.xyxyn.tolist(), float(box.conf), int(box.cls)

    return run


def scoring(settings: Settings, uris: Sequence[str], config: str) -> dict[str, Side]:
    """The whole scoring path with the settings' encoder, and its models alone."""
    models = load_models(settings)
    source = ImageSource.from_settings(settings)
    tasks = [TaskRef(i, {"image": uri}) for i, uri in enumerate(uris)]
    side = models.long_side
    inputs = [models.prepare(decode(source.fetch(uri), long_side=side)) for uri in uris]

    def score(turn: int) -> None:
        store = Store(f"sqlite:///{settings.data_dir}/{settings.encoder}-{turn}.sqlite3")
        done = Scorer(models, store, source).score(1, tasks, label_config=config)
        store.close()
        if done.scored != len(tasks):
            raise RuntimeError(f"only {done.scored} of {len(tasks)} were scored: {done.skipped}")

    def observe(_turn: int) -> None:
        models.observe(inputs)

    return {
        f"score_{settings.encoder}": score,
        f"models_{settings.encoder}": observe,
    }


def measure(sides: dict[str, Side], images: int, turns: int) -> dict[str, list[float]]:
    """Images a second of each side in each turn; a turn without a record warms all up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            run(turn)
            speed = images / (time.perf_counter() - began)
            progress(f"turn {turn}/{turns} {name}: {speed:.2f} images/s")
            if turn:
                found[name].append(speed)
    return found


def compare(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Start both servers, measure, and put the figures together."""
    progress("making models and images")
    folder = options.images or work / "images"
    if options.images is None:
        write_images(folder, options.count)
    files = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    models = make_models(work / "models", files)
    if options.weights is not None:
        models["model"] = options.weights.name
        (work / "models" / options.weights.name).symlink_to(options.weights.resolve())
    weights = work / "models" / models["model"]
    common = {
        **models,
        "label_studio_url": "http://127.0.0.1:9",
        "label_studio_api_key": "token",
        "allowed_image_hosts": "127.0.0.1",
        "data_dir": work / "data",
        "image_cache_mb": 0,
        "log_level": "ERROR",
    }
    config = label_config(class_names(weights))
    example: AbstractContextManager[Server | None] = nullcontext()
    if options.example is not None:
        example = example_served(options.example, options.python, weights, work)
    environment = {name.upper(): str(value) for name, value in common.items()}
    with images_served(folder) as home, serving(environment) as ours, example as theirs:
        uris = [f"{home}/{path.name}" for path in files]
        sides = {
            "cold": predictor(ours, uris, config),
            "warm": predictor(ours, uris, config),
            "example": predictor(theirs, uris, config) if theirs else example_loop(weights, uris),
        }
        for encoder in _ENCODERS:
            sides |= scoring(load_settings(**common, encoder=encoder), uris, config)
        found = measure(sides, len(uris), options.turns)
    return {
        "benchmark": "preannotate",
        **machine(),
        "images": len(uris),
        "turns": options.turns,
        "example": "its own server" if options.example else "its work in a loop, without a server",
        "images_per_second": {side: round(statistics.median(v), 2) for side, v in found.items()},
        **{name: _spread(found[ours], found[other]) for name, ours, other in _RATIOS},
    }


def _spread(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    return {
        "median": round(statistics.median(ratios), 2),
        "min": round(min(ratios), 2),
        "max": round(max(ratios), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--count", type=int, default=32, help="how many are drawn without one")
    parser.add_argument("--weights", type=Path, help="a YOLO .pt")
    parser.add_argument("--example", type=Path, help="a clone of label-studio-ml-backend")
    parser.add_argument("--python", default=sys.executable, help="what runs the example")
    parser.add_argument("--turns", type=int, default=3)
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(compare(parser.parse_args(), Path(scratch))))


if __name__ == "__main__":
    main()
