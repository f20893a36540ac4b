"""How fast a pool is scored: `python -m benchmarks.throughput [--images N] [--rounds N]`.

Three sides, in turn, in one run; one JSON line on stdout:

- `full`: the whole scoring path from a real Label Studio: download, decode, detect, embed the image
  and its objects, score, store;
- `models_alone`: the same two models on the same inputs, decoded, scaled and cut beforehand;
- `naive`: what a first version does: one image a call, in torch, nothing overlapped.

The detector is a yolo11n and the encoder a ViT-B-32, as in production, with random weights: they
take the same time. Label Studio runs on the same machine and shares its processors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.images.source import ImageSource
from backend.label_studio.client import Studio
from backend.label_studio.records import TaskRef
from backend.scoring.scorer import Scorer
from backend.settings import Settings, load_settings
from backend.store.scores import Store
from backend.uncertainty import score_image
from backend.vision.models import Models, load_models
from backend.vision.picture import decode
from benchmarks.machine import machine, progress
from benchmarks.random_models import make_models
from demo.project import fill_project, label_config
from demo.scene import generate
from demo.stage import Scenario
from demo.studio_server import running_studio

LABELS = ("bolt", "nut")


@dataclass(frozen=True)
class Setup:
    """What all sides share."""

    settings: Settings
    models: Models
    tasks: Sequence[TaskRef]
    work: Path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, running_studio(Path(scratch) / "ls") as studio:
        work = Path(scratch)
        progress("making models and images")
        files = write_images(work / "images", arguments.images)
        settings = load_settings(
            **make_models(work / "models", files),
            data_dir=work / "data",
            label_studio_url=studio.url,
            label_studio_api_key=studio.admin.personal_token,
            image_cache_mb=0,
        )
        project = fill_project(studio, Scenario(files, LABELS, {}), backend_url=None)
        with Studio.from_settings(settings) as client:
            tasks = list(client.tasks(project))
        setup = Setup(settings, load_models(settings), tasks, work)
        seconds = measure(setup, arguments.rounds)
        predict = warm_predict(setup)
    print(json.dumps(report(seconds, len(tasks), predict)))


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640 x 480 pixels."""
    folder.mkdir()
    paths = []
    for frame in generate(count, seed=9):
        paths.append(folder / f"{frame.name}.jpg")
        paths[-1].write_bytes(frame.jpeg)
    return paths


def measure(setup: Setup, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round; the sides take turns."""
    sides: dict[str, Callable[[], float]] = {
        "full": lambda: full(setup),
        "models_alone": models_alone(setup),
        "naive": naive(setup),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            took = run()
            progress(f"round {turn}/{rounds} {name}: {len(setup.tasks) / took:.2f} images/s")
            if turn:  # the first round warms up
                seconds[name].append(took)
    return seconds


def full(setup: Setup) -> float:
    """Score the whole project into an empty store."""
    path = setup.work / "store.sqlite3"
    for old in setup.work.glob("store.sqlite3*"):
        old.unlink()
    store = Store(f"sqlite:///{path}")
    source = ImageSource.from_settings(setup.settings)
    scorer = Scorer(setup.models, store, source)
    started = time.perf_counter()
    done = scorer.score(1, setup.tasks, label_config=label_config(LABELS))
    took = time.perf_counter() - started
    if done.scored != len(setup.tasks):
        raise RuntimeError(f"only {done.scored} of {len(setup.tasks)} were scored: {done.skipped}")
    source.close()
    store.close()
    return took


def models_alone(setup: Setup) -> Callable[[], float]:
    """The two models on tensors that are ready."""
    models = setup.models
    source = ImageSource.from_settings(setup.settings)
    inputs = [
        models.prepare(decode(source.fetch_task(task, "image"), long_side=models.long_side))
        for task in setup.tasks
    ]
    source.close()
    prepared = [x.detector_input for x in inputs if x.detector_input is not None]
    wholes = [x.encoder_input for x in inputs if x.encoder_input is not None]

    def run() -> float:
        started = time.perf_counter()
        models.detector.detect(prepared)
        models.encoder.encode(wholes)
        return time.perf_counter() - started

    return run


def naive(setup: Setup) -> Callable[[], float]:
    """One image after the other through the libraries' own calls."""
    import io

    import open_clip
    import torch
    from PIL import Image
    from ultralytics import YOLO

    folder = setup.settings.model_dir
    detector = YOLO(str(folder / setup.settings.model))
    encoder, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32", pretrained=str(folder / setup.settings.clip_pretrained)
    )
    encoder.eval()

    def run() -> float:
        path = setup.work / "naive.sqlite3"
        path.unlink(missing_ok=True)
        store = Store(f"sqlite:///{path}")
        started = time.perf_counter()
        for task in setup.tasks:
            source = ImageSource.from_settings(setup.settings)
            image = Image.open(io.BytesIO(source.fetch_task(task, "image"))).convert("RGB")
            source.close()
            found = detector.predict(image, conf=0.05, verbose=False)[0].boxes
            with torch.inference_mode():
                vector = encoder.encode_image(preprocess(image)[None])[0].numpy()
            scores = found.conf.numpy()[:, None]
            score_image(scores, peak_score=float(scores.max(initial=0)), floor=0.05)
            store.save_embeddings("naive", "image", {str(task.id): vector})
        took = time.perf_counter() - started
        store.close()
        return took

    return run


def warm_predict(setup: Setup, calls: int = 200) -> list[float]:
    """Seconds of `POST /predict` for one scored task, in the app, as Label Studio sends it."""
    from fastapi.testclient import TestClient

    from backend.server import create_app

    config = label_config(LABELS)
    task = setup.tasks[0]
    body = {
        "tasks": [{"id": task.id, "project": 1, "data": dict(task.data)}],
        "project": "1.1700000000",
        "label_config": config,
        "params": {},
    }
    seconds = []
    with TestClient(create_app(setup.settings)) as client:
        for _ in range(calls + 1):
            started = time.perf_counter()
            answer = client.post("/predict", json=body)
            seconds.append(time.perf_counter() - started)
            if not answer.json()["results"][0]:
                raise RuntimeError("the task was not scored")
    return seconds[1:]  # the first one scores the task


def report(
    seconds: dict[str, list[float]], images: int, predict: Sequence[float]
) -> dict[str, Any]:
    """Images a second by side (medians), and the ratios round by round."""
    ratios = {
        "full_to_models_alone": zip(seconds["models_alone"], seconds["full"], strict=True),
        "full_to_naive": zip(seconds["naive"], seconds["full"], strict=True),
    }
    return {
        "benchmark": "throughput",
        **machine(),
        "images": images,
        "rounds": len(seconds["full"]),
        "images_per_second": {
            name: round(images / statistics.median(values), 3) for name, values in seconds.items()
        },
        **{
            name: {
                "median": round(statistics.median(found), 3),
                "min": round(min(found), 3),
                "max": round(max(found), 3),
            }
            for name, found in ((n, [other / ours for other, ours in p]) for n, p in ratios.items())
        },
        "warm_predict_ms": {
            "median": round(1000 * statistics.median(predict), 2),
            "p99": round(1000 * sorted(predict)[int(0.99 * len(predict))], 2),
        },
    }


if __name__ == "__main__":
    main()
