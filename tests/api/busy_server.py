"""A server's settings, store and Label Studio in the middle of their work: every kind of answer
can be had from them, quickly and without models.

Project 1 is scored, ranked, published and has a round; project 2 was never scored; the others are
not there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from backend.api import services
from backend.detections import Detections, features_name
from backend.images.source import ImageSource
from backend.job_kinds import PUBLISH, SCORE, TRAIN
from backend.jobs.runner import run_now
from backend.label_studio.records import TaskRef
from backend.ranking.rank_project import Pool, PoolRanker
from backend.ranking.ranked_pool import save_pool
from backend.scoring.batching import ScoringWorker
from backend.scoring.models import Scorers
from backend.scoring.scorer import Scorer
from backend.settings import Settings, load_settings
from backend.store.job_queue import JobQueue
from backend.store.rounds import RoundRow, RoundStore
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, Publication, RankRow, ScoredTask, Store
from backend.uncertainty import MEASURES
from backend.vision.models import Models
from tests.label_studio.conftest import CONFIG, WebServer, reply

SCORED, UNSCORED = 1, 2
TASKS = range(1, 13)
VERSION = "hf-busy"
DETECTOR, ENCODER = "detector", "encoder"
CLASSES = ("RBC", "WBC")


def settings_for(data_dir: Path, studio_url: str, **changed: Any) -> Settings:
    """Settings with BASIC_AUTH set, and next to no limit to what a key may ask."""
    return load_settings(
        **{
            "data_dir": data_dir,
            "label_studio_url": studio_url,
            "label_studio_api_key": "legacy-token-of-nobody",
            "basic_auth_user": "label-studio",
            "basic_auth_pass": "pa55word",
            "api_rate": "1000000/minute",
            **changed,
        }
    )


class NoModels:
    """In the place of the models: they are known, and fail the test if they are given an image."""

    long_side = 64
    detector = SimpleNamespace(version=DETECTOR, class_names=CLASSES, floor=0.05)
    encoder = SimpleNamespace(name=ENCODER)

    def prepare(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an image came to the models")

    def observe(self, inputs: list[Any], **_: Any) -> list[Any]:
        assert inputs == []
        return []


class OneScorer(Scorers):
    """Scores every project without models."""

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__(settings, store)
        self._source = ImageSource.from_settings(settings, timeout=1.0, retries=0)
        self._base = Scorer(cast(Models, NoModels()), store, self._source)


@contextmanager
def without_models() -> Iterator[None]:
    """Servers that are started meanwhile load no models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            services,
            "build_worker",
            lambda settings, store: ScoringWorker(OneScorer(settings, store)),
        )
        yield


def fill(settings: Settings) -> None:
    """Make the store what the module says."""
    store = Store.from_settings(settings)
    rng = np.random.default_rng(0)
    boxes = Detections(
        np.array([[1, 1, 5, 6]], np.float32), np.array([[0.7, 0.2]], np.float32), 0.7, (9, 9)
    )
    store.save_detector(DETECTOR, CLASSES)
    store.save_scores(
        SCORED,
        [
            ScoredTask(
                task,
                f"/data/upload/{task}.jpg",
                f"{task:064}",
                DETECTOR,
                boxes,
                dict(zip(MEASURES, rng.random(3).round(2).tolist(), strict=True)),
            )
            for task in TASKS
        ],
    )
    for encoder, view in ((ENCODER, IMAGE_VIEW), (features_name(DETECTOR), OBJECT_VIEW)):
        vectors = rng.standard_normal((len(TASKS), 6)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        named = {f"{task:064}": row for task, row in zip(TASKS, vectors, strict=True)}
        store.save_embeddings(encoder, view, named)
    pool = Pool(SCORED, [TaskRef(task) for task in TASKS], DETECTOR, ENCODER)
    save_pool(store, PoolRanker(settings, store).rank(pool))
    # The last task came after the order.
    order = [RankRow(task, task, task / 100) for task in TASKS[:-1]]
    live = Publication(
        *(VERSION, SCORED, "live", DETECTOR, ENCODER, "entropy", 0.4, {"entropy": 1.0}),
        ranked=len(order),
        created_at=datetime.now(timezone.utc),
    )
    store.save_publication(live, order)
    RoundStore(store).close(RoundRow(SCORED, 1, 1, state="judged", version="r1-abc", labels=4))
    queue = JobQueue(store)
    run_now(queue, PUBLISH, SCORED, None, {PUBLISH: lambda context: {"ranked": len(order)}})
    queue.cancel(queue.submit(SCORE, SCORED).id)
    queue.submit(TRAIN, SCORED)
    store.close()


class BusyStudio(WebServer):
    """As much of a Label Studio as the API asks for: two projects, tasks, pictures and tabs."""

    def __init__(self) -> None:
        super().__init__()
        self._queues: dict[str, list[int]] = {}
        for project in (SCORED, UNSCORED):
            home = f"/api/projects/{project}"
            about = {"id": project, "title": "Line", "label_config": CONFIG}
            self._tell(f"{home}/", lambda _, about=about: about)
            self._tell(f"{home}/import/predictions", self._import)
        self._tell("/api/current-user/whoami", lambda _: {"id": 1, "email": "a@example.org"})
        self._tell("/api/tasks/", self._tasks)
        self._tell("/api/dm/views/", lambda handler: {"id": 5} if handler.body else [])
        picture = io.BytesIO()
        Image.new("RGB", (40, 30), "teal").save(picture, "JPEG")
        for task in TASKS:
            self.answers[f"/data/upload/{task}.jpg"] = lambda h: reply(h, 200, picture.getvalue())

    def _tell(self, path: str, what: Callable[[Any], Any]) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            body = json.dumps(what(handler)).encode()
            reply(handler, 200, body, Content_Type="application/json")

        self.answers[path] = answer

    def _import(self, handler: Any) -> dict[str, int]:
        rows = json.loads(handler.body)
        for row in rows:
            self._queues.setdefault(row["model_version"], []).append(row["task"])
        return {"created": len(rows)}

    def _tasks(self, handler: Any) -> dict[str, Any]:
        asked = parse_qs(urlsplit(handler.path).query)
        (condition,) = json.loads(asked["query"][0])["filters"]["items"][-1:]
        if condition["operator"] == "in_list":
            ids = [task for task in TASKS if task in condition["value"]]
        else:
            ids = self._queues.get(condition["value"][0], [])
        rows = [{"id": task, "project": SCORED, "data": {}} for task in ids]
        return {"tasks": rows, "total": len(rows), "total_annotations": 0, "total_predictions": 0}
