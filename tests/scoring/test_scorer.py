"""Scores first and embeddings later, with the demo's models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.detections import Detections, features_name
from backend.label_studio.records import TaskRef
from backend.scoring.models import Scorers
from backend.scoring.scorer import Scorer
from backend.settings import Settings, load_settings
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, Store
from demo.project import label_config
from demo.scene import CLASSES, generate
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import MODELS

CONFIG = label_config(CLASSES)
PROJECT = 3
IDS = [1, 2, 3]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(
        **{name.lower(): value for name, value in MODELS.items()},
        data_dir=tmp_path_factory.mktemp("scorer"),
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="legacy-token-of-nobody",
        allowed_image_hosts="127.0.0.1",
        image_cache_mb=0,
    )


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    for frame in generate(5, seed=5):
        server.answers[f"/{frame.number}.jpg"] = lambda h, body=frame.jpeg: reply(h, 200, body)
    yield server
    server.close()


Make = Callable[[str], tuple[Scorer, Store]]


@pytest.fixture(scope="module")
def make(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    opened: list[tuple[Scorers, Store]] = []
    folder: Path = tmp_path_factory.mktemp("stores")

    def of(name: str) -> tuple[Scorer, Store]:
        store = Store(f"sqlite:///{folder / name}.sqlite3")
        scorers = Scorers(settings, store)
        opened.append((scorers, store))
        return scorers.base(), store

    yield of
    for scorers, store in opened:
        scorers.close()
        store.close()


def tasks(web: WebServer) -> list[TaskRef]:
    return [TaskRef(id=i, data={"image": f"{web.url}/{i}.jpg"}) for i in IDS]


def hashes(scorer: Scorer, store: Store) -> list[str]:
    found = store.scored_tasks(PROJECT, scorer.detector_version, IDS)
    return [found[task].image_hash for task in IDS]


def test_scores_come_without_embeddings_and_those_are_made_later(
    make: Make, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, store = make("later")
    detector = scorer.detector_version
    done = scorer.score(PROJECT, tasks(web), label_config=CONFIG, embed=False)
    assert (done.scored, done.reused, done.skipped) == (3, 0, {})
    first = store.scored_tasks(PROJECT, detector, IDS)
    assert sum(len(task.detections) for task in first.values()) > 0
    assert store.embedded(scorer.encoder_name, IMAGE_VIEW, hashes(scorer, store)) == set()
    # Not ranked yet, and not scored once more for who asks again.
    assert store.score_columns(PROJECT, detector, IDS).task_ids.tolist() == []
    assert scorer.score(PROJECT, tasks(web), label_config=CONFIG, embed=False).reused == 3

    def find_nothing(_batch: object) -> list[Detections]:
        raise AssertionError("the boxes are known")

    with monkeypatch.context() as patch:
        patch.setattr(scorer.models.detector, "detect", find_nothing)
        done = scorer.score(PROJECT, tasks(web), label_config=CONFIG)
    assert (done.scored, done.reused, done.skipped) == (3, 0, {})
    assert store.score_columns(PROJECT, detector, IDS).task_ids.tolist() == IDS
    later = store.scored_tasks(PROJECT, detector, IDS)
    assert [later[task].scores for task in IDS] == [first[task].scores for task in IDS]
    assert scorer.score(PROJECT, tasks(web), label_config=CONFIG).reused == 3

    at_once, other = make("at-once")
    at_once.score(PROJECT, tasks(web), label_config=CONFIG)
    views = ((scorer.encoder_name, IMAGE_VIEW), (features_name(detector), OBJECT_VIEW))
    for encoder, view in views:
        here, there = (
            found.vectors(encoder, view, hashes(scorer, store)) for found in (store, other)
        )
        np.testing.assert_allclose(here, there, atol=1e-3)


def test_a_task_that_shows_another_image_by_then_is_scored_again(
    make: Make, web: WebServer
) -> None:
    scorer, store = make("changed")
    scorer.score(PROJECT, tasks(web), label_config=CONFIG, embed=False)
    before = store.scored_tasks(PROJECT, scorer.detector_version, IDS)
    web.answers["/1.jpg"] = web.answers["/4.jpg"]
    scorer.score(PROJECT, tasks(web), label_config=CONFIG)
    after = store.scored_tasks(PROJECT, scorer.detector_version, IDS)
    assert after[1].image_hash != before[1].image_hash
    assert after[1].scores != before[1].scores
    assert after[2].scores == before[2].scores
    assert store.score_columns(PROJECT, scorer.detector_version, IDS).task_ids.tolist() == IDS


def test_an_image_that_is_gone_by_then_keeps_its_boxes_and_is_not_ranked(
    make: Make, web: WebServer
) -> None:
    scorer, store = make("gone")
    scorer.score(PROJECT, tasks(web), label_config=CONFIG, embed=False)
    web.answers["/1.jpg"] = lambda handler: reply(handler, 404, b"")
    done = scorer.score(PROJECT, tasks(web), label_config=CONFIG)
    assert list(done.skipped) == [1]
    columns = store.score_columns(PROJECT, scorer.detector_version, IDS)
    assert columns.task_ids.tolist() == [2, 3]
    assert 1 in store.scored_tasks(PROJECT, scorer.detector_version, IDS)
