"""A store as it is when a large project was scored and ranked, without running a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import numpy as np
from sqlalchemy import Table, insert

from backend.detections import Detections, features_name
from backend.label_studio.records import TaskRef
from backend.ranking.rank_project import Pool, PoolRanker
from backend.ranking.ranked_pool import save_pool
from backend.settings import Settings
from backend.store import tables
from backend.store.encoding import pack_detections, pack_vector
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, Store
from backend.uncertainty import MEASURES
from benchmarks.selection import DATA, timed

PROJECT = 1
DETECTOR = "detector-of-the-benchmark"
ENCODER = "encoder-of-the-benchmark"

_ROWS_AT_ONCE = 5000
_BOXES, _CLASSES = 10, 80


def fill(settings: Settings, tasks: int, data: str) -> float:
    """Fill the settings' store with one ranked project.

    Args:
        settings: where the store is, and how the order is made.
        tasks: how many.
        data: a name of `benchmarks.selection.DATA`: 512 dims for each image, and for its objects.

    Returns:
        Seconds that the order took, near-duplicates included; what a worker does once.
    """
    store = Store.from_settings(settings)
    rng = np.random.default_rng(0)
    hashes = [hashlib.sha256(str(task).encode()).hexdigest() for task in range(tasks)]
    _insert(store, tables.scores, _scores(rng, hashes))
    for encoder, view in ((ENCODER, IMAGE_VIEW), (features_name(DETECTOR), OBJECT_VIEW)):
        vectors = DATA[data](rng, tasks)
        _insert(
            store,
            tables.embeddings,
            (
                {"image_hash": key, "encoder": encoder, "view": view, "vector": pack_vector(vector)}
                for key, vector in zip(hashes, vectors, strict=True)
            ),
        )
    refs = [TaskRef(id=task) for task in range(1, tasks + 1)]
    pool = Pool(PROJECT, refs, DETECTOR, ENCODER)
    seconds, ranked = timed(lambda: PoolRanker(settings, store).rank(pool))
    save_pool(store, ranked)
    store.close()
    return float(seconds)


def _scores(rng: np.random.Generator, hashes: list[str]) -> Iterator[dict[str, Any]]:
    now = datetime.now(timezone.utc)
    seen = Detections(
        xyxy=np.tile(np.array([[10, 10, 60, 60]], dtype=np.float32), (_BOXES, 1)),
        class_scores=rng.random((_BOXES, _CLASSES), dtype=np.float32),
        peak_score=1.0,
        image_size=(640, 480),
    )
    packed = pack_detections(seen)
    certain = rng.beta(4, 2, (len(hashes), len(MEASURES))).tolist()
    for task, (key, scores) in enumerate(zip(hashes, certain, strict=True), start=1):
        yield {
            "project_id": PROJECT,
            "task_id": task,
            "detector": DETECTOR,
            "image_uri": f"/data/upload/{PROJECT}/{task}.jpg",
            "image_hash": key,
            "width": 640,
            "height": 480,
            "boxes": _BOXES,
            "classes": _CLASSES,
            "peak_score": 1.0,
            "detections": packed,
            "measures": json.dumps(dict(zip(MEASURES, scores, strict=True))),
            "scored_at": now,
        }


def _insert(store: Store, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    with store.begin() as connection:
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS_AT_ONCE:
                connection.execute(insert(table), batch)
                batch = []
        if batch:
            connection.execute(insert(table), batch)
