"""Engines score what the embedded one scores, whatever dies meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.detections import features_name
from backend.engines.engine import Engine, embedded
from backend.engines.ray_data import RayData
from backend.engines.shards import Outcome, Shard, Sharded, ShardScorer
from backend.errors import EngineError
from backend.label_studio.records import TaskRef
from backend.scoring.models import Scorers
from backend.scoring.scorer import Scorer, ScoringReport
from backend.settings import Settings
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, Store
from demo.project import label_config
from demo.scene import CLASSES
from tests.label_studio.conftest import WebServer, reply

CONFIG = label_config(CLASSES)
PROJECT = 3


def no_progress(done: int, total: int) -> None:
    """Not shown."""


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[Scorer, Store]]:
    store = Store.from_settings(settings)
    scorers = Scorers(settings, store)
    try:
        yield scorers.base(), store
    finally:
        scorers.close()
        store.close()


def run(
    engine: Engine,
    scorer: Scorer,
    tasks: list[TaskRef],
    on_progress: Callable[[int, int], None] = no_progress,
) -> ScoringReport:
    return engine(scorer, PROJECT, tasks, label_config=CONFIG, on_progress=on_progress)


def stored(scorer: Scorer, store: Store, tasks: list[TaskRef]) -> dict[int, Any]:
    """Task -> its scores, and whether both of its embeddings are there."""
    found = store.scored_tasks(PROJECT, scorer.detector_version, [task.id for task in tasks])
    hashes = [row.image_hash for row in found.values()]
    objects_by = features_name(scorer.detector_version)
    views = ((scorer.encoder_name, IMAGE_VIEW), (objects_by, OBJECT_VIEW))
    there = [store.embedded(encoder, view, hashes) for encoder, view in views]
    return {
        task: (row.scores, row.embedded, *(row.image_hash in view for view in there))
        for task, row in found.items()
    }


def by_the_embedded(settings: Settings, tasks: list[TaskRef], folder: Path) -> dict[int, Any]:
    (folder / "alone").mkdir()
    exports = {"data_dir": folder / "alone", "database_url": type(settings.database_url)("")}
    with opened(settings.model_copy(update=exports)) as (scorer, store):
        run(embedded, scorer, tasks)
        return stored(scorer, store, tasks)


def test_what_is_stored_is_not_sent_and_what_fails_is_reported(
    settings: Settings, tasks: list[TaskRef], web: WebServer
) -> None:
    web.answers["/4.jpg"] = lambda h: reply(h, 404, b"")
    sent: list[int] = []

    def carry(shards: Any) -> Iterator[Outcome]:
        with closing(ShardScorer(settings)) as elsewhere:
            for shard in shards:
                sent.extend(shard.images)
                yield elsewhere.score(shard)

    seen: list[tuple[int, int]] = []
    with opened(settings) as (scorer, store):
        run(embedded, scorer, tasks[:3])
        nowhere = TaskRef(id=99, data={"text": "no image"})
        engine = Sharded(carry, 4)
        report = run(engine, scorer, [*tasks[:8], nowhere], lambda *at: seen.append(at))
        assert sent == [4, 5, 6, 7, 8]
        assert (report.scored, report.reused, sorted(report.skipped)) == (4, 3, [5, 99])
        assert seen == [(4, 9), (8, 9), (9, 9)]
        assert sorted(stored(scorer, store, tasks)) == [1, 2, 3, 4, 6, 7, 8]


def test_a_machine_with_other_models_scores_nothing(
    settings: Settings, tasks: list[TaskRef]
) -> None:
    with opened(settings) as (scorer, store):
        images = {tasks[0].id: tasks[0].data["image"]}
        shard = Shard(PROJECT, CONFIG, "another", scorer.encoder_name, images)
        with closing(ShardScorer(settings)) as elsewhere:
            outcome = elsewhere.score(shard)
        assert "the same versions, MODEL, MODEL_DIR and DATA_DIR" in outcome.error
        assert stored(scorer, store, tasks) == {}
        with pytest.raises(EngineError, match="A machine could not score"):
            run(Sharded(lambda shards: [outcome]), scorer, tasks)


def test_a_machine_without_the_weights_says_so(settings: Settings, tasks: list[TaskRef]) -> None:
    images = {tasks[0].id: tasks[0].data["image"]}
    with closing(ShardScorer(settings.model_copy(update={"model": "gone.pt"}))) as elsewhere:
        outcome = elsewhere.score(Shard(PROJECT, CONFIG, "d", "e", images))
    assert "gone.pt" in outcome.error


def test_modals_function_scores_a_shard(
    settings: Settings, tasks: list[TaskRef], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Modal's own `local` runs what a container of it would; no account and no network is used."""
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none"))
    from deploy import modal_app

    for name in ("model", "model_dir", "clip_model", "clip_pretrained", "device", "data_dir"):
        monkeypatch.setenv(name.upper(), str(getattr(settings, name)))
    monkeypatch.setenv("LABEL_STUDIO_URL", settings.label_studio_url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", settings.label_studio_api_key.get_secret_value())
    monkeypatch.setenv("ALLOWED_IMAGE_HOSTS", settings.allowed_image_hosts)
    modal_app.scorer_here.cache_clear()
    with opened(settings) as (scorer, store), closing(modal_app.scorer_here()):
        engine = Sharded(lambda shards: map(modal_app.score_shard.local, shards), 5)
        assert run(engine, scorer, tasks[:8]).scored == 8
        there = stored(scorer, store, tasks)
    assert there == by_the_embedded(settings, tasks[:8], tmp_path)


def test_a_cluster_needs_a_database_that_it_shares(settings: Settings) -> None:
    with pytest.raises(EngineError, match="DATABASE_URL"):
        RayData(settings.model_copy(update={"ray_address": "10.0.0.5:6379"}))


def test_without_ray_the_remedy_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install 'ray\[data\]"):
        RayData(settings)


def test_ray() -> None:
    """In a process of its own: when Ray ends it kills its process's children, a database too.

    The case of two nodes is run by hand, `pytest tests/engines/ray_cases.py`: Ray does not always
    give each node an actor, and then there is nothing to kill.
    """
    cases = Path(__file__).parent / "ray_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    only = ["-k", "test_ray_on_this_machine"]
    done = subprocess.run([*command, *only], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
