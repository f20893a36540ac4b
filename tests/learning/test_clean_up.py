"""What no one will ask for again goes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.errors import QueueError
from backend.images.cache import ImageCache
from backend.jobs.forgetting import forget
from backend.learning.clean_up import KEPT_ROUNDS, clean_up
from backend.scoring.model_files import ModelFiles
from backend.settings import load_settings
from backend.store.annotations import AnnotationStore
from backend.store.forgetting import stored_of
from backend.store.job_queue import JobQueue
from backend.store.jobs import JobProgress
from backend.store.pins import Assignments
from backend.store.rounds import RoundStore
from backend.store.scores import RankRow, Store
from tests.store.test_scores import publication, scored


def test_the_newest_rounds_and_the_promoted_ones_stay(store: Store, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    assert clean_up(settings, store, 3, busy_jobs=set()) == 0
    rounds, files = RoundStore(store), ModelFiles(settings.trained_dir, 3)
    for job in range(1, KEPT_ROUNDS + 4):
        weights = files.work_folder(job) / "weights.pt"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights %d" % job)
        row = rounds.begin(3, job)
        version, digest = files.keep(weights, row.round)
        row = replace(row, state="judged", version=version, content_hash=digest)
        rounds.close(replace(row, promoted=job == 1))
    busy = {KEPT_ROUNDS + 3}
    # Rounds 2 and 3, and all work folders but the busy one.
    assert clean_up(settings, store, 3, busy_jobs=busy) == 2 + KEPT_ROUNDS + 2
    for row in rounds.rounds(3):
        is_there = (settings.trained_dir / "3" / f"{row.version}.pt").exists()
        assert is_there is (row.round not in (2, 3))
    assert files.work_folder(KEPT_ROUNDS + 3).exists()
    assert clean_up(settings, store, 3, busy_jobs=busy) == 0


def test_a_forgotten_project_leaves_nothing_behind_and_takes_nothing_of_others(
    store: Store, tmp_path: Path
) -> None:
    settings = load_settings(data_dir=tmp_path, label_studio_url="http://studio:8080/")
    answers = AnnotationStore(store)
    queue = JobQueue(store)
    cache = ImageCache(settings.image_cache_dir, 1_000_000)
    # Project 7 shows the images 1 and 2, project 8 the images 2 and 3.
    for project, tasks in ((7, (1, 2)), (8, (2, 3))):
        store.save_scores(project, [scored(task) for task in tasks])
        answers.watch(project)
        answers.hold_out(project, tasks)
        Assignments(store).put_first(project, tasks)
        queue.submit("poll", project)
        cache.put(f"http://studio:8080 /data/upload/{tasks[0]}.jpg", b"pixels")
    cache.put("http://studio:8080 /data/upload/3.jpg", b"pixels")
    store.save_embeddings("e1", "image", {f"hash{n}": np.ones(2, np.float32) for n in (1, 2, 3)})
    store.save_publication(publication("hf-7"), [RankRow(1, 1, 0.5)])
    store.save_publication(replace(publication("hf-8"), project_id=8), [RankRow(1, 2, 0.5)])
    RoundStore(store).begin(7, 1)

    claim = queue.claim_now("train", 7)
    with pytest.raises(QueueError, match=f"--cancel {claim.job.id}"):
        forget(settings, store, 7)
    assert len(queue.list(7)) == 2  # all or nothing
    claim.end("cancelled", JobProgress())

    before = stored_of(store, 8)
    forget(settings, store, 7)
    assert stored_of(store, 7) == {}
    assert stored_of(store, 8) == before
    assert store.ranks("hf-7") == []
    assert Assignments(store).of(7).first == ()
    assert Assignments(store).of(8).first == (2, 3)
    assert store.ranks("hf-8") == [RankRow(1, 2, 0.5)]
    assert store.embedded("e1", "image", ["hash1", "hash2", "hash3"]) == {"hash2", "hash3"}
    assert cache.get("http://studio:8080 /data/upload/1.jpg") is None
    assert cache.get("http://studio:8080 /data/upload/3.jpg") == b"pixels"
