"""A store that an older version filled opens, and holds what it held.

`schema_0006.sql` is the dump of one, made by the version before the store had its own folder.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backend.store.annotations import AnnotationStore
from backend.store.api_keys import KeyStore
from backend.store.pins import Assignments, with_pins_first
from backend.store.rounds import RoundStore
from backend.store.scores import Store
from tests.store.test_scores import scored

PROJECT = 7
VERSION = "hf-20260102-030405-000-ab12-d1"


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "store.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "schema_0006.sql").read_text())
    opened = Store(f"sqlite:///{path}")
    yield opened
    opened.close()


def test_its_order_is_the_one_that_is_served(older: Store) -> None:
    live = older.publication(PROJECT)
    assert live is not None
    assert (live.model_version, live.strategy, live.state) == (VERSION, "entropy", "live")
    assert [row.task_id for row in older.ranks(VERSION)] == [3, 1, 2]
    first = Assignments(older).of(PROJECT).first
    assert [row.task_id for row in with_pins_first(first, older.ranks(VERSION))] == [2, 3, 1]


def test_its_scores_and_embeddings_are_read(older: Store) -> None:
    found = older.scored_tasks(PROJECT, "d1", [1, 2, 3])
    assert [found[task].scores for task in (1, 2, 3)] == [
        {"lowest_confidence": 0.25, "margin_sampling": 0.75, "entropy": entropy}
        for entropy in (0.5, 0.9, 0.1)
    ]
    assert len(found[1].detections) == len(scored(1).detections)
    assert older.class_names("d1") == ("bolt", "nut")
    assert older.embedded("e1", "image", ["hash1", "hash9"]) == {"hash1"}


def test_its_annotations_rounds_and_keys_are_known(older: Store) -> None:
    annotations = AnnotationStore(older)
    assert annotations.answered_tasks(PROJECT) == {3}
    assert annotations.held_out(PROJECT) == {2}
    [row] = RoundStore(older).rounds(PROJECT)
    assert (row.version, row.promoted, row.reason) == ("r1-abc", True, "better")
    assert [key.name for key in KeyStore(older).all()] == ["old"]
