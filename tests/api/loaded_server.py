"""The backend as a process of its own, with the demo's models, and one project in its store."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

from backend.label_studio.records import TaskRef
from backend.ranking.rank_project import Pool, PoolRanker
from backend.ranking.ranked_pool import save_pool
from backend.scoring.models import Scorers
from backend.settings import Settings, load_settings
from backend.store.scores import Publication, RankRow, Store
from demo.studio_server import free_port
from tests.loop.conftest import CONFIG, MODELS, ROOT

PROJECT = 1
KNOWN = range(1, 25)
VERSION = "hf-load"


@dataclass
class Process:
    """A running `python -m backend serve`."""

    url: str
    http: httpx.Client
    settings: Settings
    statuses: dict[str, set[int]]
    baseline: dict[int, dict[str, Any]]
    memory_after: dict[str, float] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process that owns the models, as Prometheus reads it."""
        found = re.search(
            r"^(?:hardest_first_)?process_resident_memory_bytes (\S+)",
            self.http.get("/metrics").text,
            re.MULTILINE,
        )
        assert found
        return float(found[1]) / 1e6


def image_of(task: int) -> str:
    return f"/data/upload/1/{task}.jpg"


def ask(http: httpx.Client, *tasks: int, note: str = "") -> httpx.Response:
    rows = [{"id": task, "project": PROJECT, "data": {"image": image_of(task)}} for task in tasks]
    rows[-1]["note"] = note
    body = {"tasks": rows, "project": "1.17", "label_config": CONFIG}
    return http.post("/predict", json=body)


@contextmanager
def serving(studio_url: str, home: Path) -> Iterator[Process]:
    """The server over a store in `home`, with project 1 scored by it, ranked and published."""
    port = free_port()
    environment = {
        **MODELS,
        "LABEL_STUDIO_URL": studio_url,
        "LABEL_STUDIO_API_KEY": "legacy-token-of-nobody",
        "DATA_DIR": str(home),
        "PORT": str(port),
        "VALIDATION_SHARE": "0",
        # Every new thumbnail and every new task asks Label Studio.
        "IMAGE_CACHE_MB": "0",
    }
    inherited = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
    log = (home / "log").open("w")
    running = subprocess.Popen(
        [sys.executable, "-m", "backend", "serve"],
        env={**inherited, **environment},
        cwd=ROOT,
        stdout=log,
        stderr=log,
    )
    settings = load_settings(**{name.lower(): value for name, value in environment.items()})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=100) as http:
            _wait_for(http, running, home / "log")
            fresh = ask(http, *KNOWN).json()["results"]
            assert all(fresh), "a task was not scored"
            _publish(settings)
            baseline = dict(zip(KNOWN, ask(http, *KNOWN).json()["results"], strict=True))
            statuses = _declared(http.get("/openapi.json").json())
            yield Process(str(http.base_url), http, settings, statuses, baseline)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(timeout=40)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        log.close()


def _wait_for(http: httpx.Client, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if any(
                check["name"] == "weights" and check["ok"]
                for check in http.get("/ready").json()["checks"]
            ):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def _publish(settings: Settings) -> None:
    """Embed, rank and publish what the server scored, as `python -m backend score` does."""
    store = Store.from_settings(settings)
    refs = [TaskRef(id=task, data={"image": image_of(task)}) for task in KNOWN]
    scorers = Scorers(settings, store)
    embedded = scorers.base().score(PROJECT, refs, label_config=CONFIG)
    assert not embedded.skipped
    detector, encoder = scorers.base().detector_version, scorers.base().encoder_name
    scorers.close()
    ranked = PoolRanker(settings, store).rank(Pool(PROJECT, refs, detector, encoder))
    save_pool(store, ranked)
    order = [RankRow(task.rank, task.task_id, task.uncertainty_score) for task in ranked.tasks()]
    now = datetime.now(timezone.utc)
    live = Publication(
        *(VERSION, PROJECT, "preparing", detector, encoder, "entropy", 0.4, {"entropy": 1.0}),
        ranked=len(order),
        created_at=now,
    )
    store.save_publication(live, order)
    store.mark_live(PROJECT, VERSION)
    store.close()


def _declared(document: dict[str, Any]) -> dict[str, set[int]]:
    """Which statuses the API says that each of the routes may answer."""
    routes = {
        "predict": document["paths"]["/predict"]["post"],
        "setup": document["paths"]["/setup"]["post"],
        "webhook": document["paths"]["/webhook"]["post"],
        "train": document["paths"]["/v1/label/train"]["post"],
        "score-batch": document["paths"]["/v1/label/score-batch"]["get"],
        "thumbnail": document["paths"]["/v1/label/thumbnail/{image_id}"]["get"],
    }
    return {name: {int(s) for s in route["responses"]} for name, route in routes.items()}
