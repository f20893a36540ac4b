"""The store, on both databases a user may have."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from backend.detections import Detections
from backend.errors import StoreError
from backend.store.scores import Publication, RankRow, ScoredTask, Store
from backend.uncertainty import MEASURES, ImageScores


def scored(
    task_id: int, *, detector: str = "d1", entropy: float = 0.5, class_weight: float = 1.0
) -> ScoredTask:
    boxes = np.array([[10, 20, 110, 220], [0, 0, 640, 480]], dtype=np.float32)
    return ScoredTask(
        task_id=task_id,
        image_uri=f"/data/upload/{task_id}.jpg",
        image_hash=f"hash{task_id}",
        detector=detector,
        detections=Detections(
            boxes, np.array([[0.9, 0.25], [0.5, 0.125]], dtype=np.float32), 0.9, (640, 480)
        ),
        scores=ImageScores(lowest_confidence=0.25, margin_sampling=0.75, entropy=entropy),
        class_weight=class_weight,
    )


def publication(version: str, *, state: str = "preparing", ranked: int = 3) -> Publication:
    return Publication(
        model_version=version,
        project_id=7,
        state=state,
        detector="d1",
        encoder="e1",
        strategy="entropy",
        diversity_weight=0.4,
        strategy_weights={"entropy": 1.0},
        ranked=ranked,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    )


def test_scores_come_back_with_boxes_within_the_stated_precision(store: Store) -> None:
    store.save_scores(7, [scored(1)])
    found = store.scored_tasks(7, "d1", [1, 2])
    assert list(found) == [1]
    assert found[1].scores == scored(1).scores
    assert found[1].image_hash == "hash1"
    np.testing.assert_allclose(found[1].detections.xyxy, scored(1).detections.xyxy, atol=0.32)
    np.testing.assert_allclose(
        found[1].detections.class_scores, scored(1).detections.class_scores, atol=0.0005
    )


def test_an_image_without_boxes_keeps_its_peak(store: Store) -> None:
    empty = Detections(np.zeros((0, 4)), np.zeros((0, 3)), 0.03, (64, 48))
    task = ScoredTask(5, "uri", "h", "d1", empty, dict.fromkeys(MEASURES, 1.0))
    store.save_scores(7, [task])
    found = store.scored_tasks(7, "d1", [5])[5].detections
    assert (len(found), found.class_scores.shape, found.image_size) == (0, (0, 3), (64, 48))
    assert found.peak_score == pytest.approx(0.03)


def test_scoring_again_replaces_and_other_projects_and_detectors_stand(store: Store) -> None:
    store.save_scores(7, [scored(1), scored(1, detector="d2")])
    store.save_scores(8, [scored(1)])
    store.save_scores(7, [scored(1, entropy=0.125)])
    assert store.score_columns(7, "d1", [1]).scores["entropy"].tolist() == [0.125]
    assert store.score_columns(7, "d2", [1]).scores["entropy"].tolist() == [0.5]
    assert store.score_columns(8, "d1", [1]).scores["entropy"].tolist() == [0.5]
    store.drop_scores(7, ["d1"])
    assert store.scored_uris(7, "d2") == {}
    assert store.scored_uris(7, "d1") == {1: "/data/upload/1.jpg"}


def test_what_was_scored_before_a_measure_was_added_is_scored_again(store: Store) -> None:
    old = scored(1)
    del old.scores["entropy"]
    store.save_scores(7, [old, scored(2)])
    assert store.scored_uris(7, "d1") == {2: "/data/upload/2.jpg"}
    assert store.score_columns(7, "d1", [1, 2]).task_ids.tolist() == [2]
    boxes = store.scored_tasks(7, "d1", [1, 2])
    assert [boxes[task].is_complete for task in (1, 2)] == [False, True]
    store.save_scores(7, [scored(1)])
    assert store.score_columns(7, "d1", [1, 2]).task_ids.tolist() == [1, 2]


def test_of_two_scores_of_a_task_in_one_batch_the_last_counts(store: Store) -> None:
    store.save_scores(7, [scored(1), scored(2), scored(1, entropy=0.125)])
    assert store.score_columns(7, "d1", [1, 2]).scores["entropy"].tolist() == [0.125, 0.5]


def test_columns_are_by_ascending_id_and_only_those_asked_for(store: Store) -> None:
    store.save_scores(7, [scored(3, class_weight=0.25), scored(1), scored(2)])
    columns = store.score_columns(7, "d1", [3, 2, 99])
    assert columns.task_ids.tolist() == [2, 3]
    assert columns.image_hashes == ("hash2", "hash3")
    assert columns.class_weight.tolist() == [1.0, 0.25]
    assert store.scored_tasks(7, "d1", [3])[3].class_weight == 0.25


def test_embeddings_come_back_by_image(store: Store) -> None:
    vectors = {name: np.eye(4, dtype=np.float32)[i] for i, name in enumerate("abc")}
    store.save_embeddings("e1", "image", vectors)
    assert store.embedded("e1", "image", ["a", "x"]) == {"a"}
    assert store.embedded("e2", "image", ["a"]) == set()
    found = store.vectors("e1", "image", ["c", "a", "c"])
    np.testing.assert_array_equal(found, np.eye(4)[[2, 0, 2]])
    assert store.vectors("e2", "image", ["c", "a"]) is None
    with pytest.raises(StoreError, match="1 images have no embedding by e1: run"):
        store.vectors("e1", "image", ["c", "x", "a", "x"])


def test_one_publication_is_live_at_a_time(store: Store) -> None:
    order = [RankRow(1, 30, 0.1), RankRow(2, 10, 0.4), RankRow(3, 20, 0.2)]
    store.save_publication(publication("v1"), order)
    assert store.publication(7) is None
    store.mark_live(7, "v1")
    store.save_publication(publication("v2"), order[::-1])
    live = store.publication(7)
    assert live is not None
    assert (live.model_version, live.strategy_weights) == ("v1", {"entropy": 1.0})
    assert live.created_at == publication("v1").created_at
    store.mark_live(7, "v2")
    live = store.publication(7)
    assert live is not None
    assert live.model_version == "v2"
    old = store.publication(7, "v1")
    assert old is not None
    assert old.state == "superseded"


def test_ranks_of_a_publication(store: Store) -> None:
    order = [RankRow(1, 30, 0.1), RankRow(2, 10, 0.4), RankRow(3, 20, 0.2)]
    store.save_publication(publication("v1"), order)
    assert store.ranks("v1") == order
    assert store.ranks("v1", limit=1) == order[:1]
    assert store.ranks_of("v1", [20, 30, 99]) == {20: 3, 30: 1}
    assert [store.more_uncertain("v1", score) for score in (0.05, 0.2, 1.0)] == [0, 1, 3]


def test_class_names_of_a_detector(store: Store) -> None:
    assert store.class_names("d1") is None
    store.save_detector("d1", ["bolt", "nut"])
    assert store.class_names("d1") == ("bolt", "nut")


def test_a_killed_writer_loses_only_the_batch_in_hand(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    program = f"""
import os, signal
from backend.store.scores import Store
from tests.store.test_scores import scored
store = Store({url!r})
store.save_scores(7, [scored(1), scored(2)])
with store.begin() as connection:
    connection.exec_driver_sql("DELETE FROM scores")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    assert sorted(Store(url).scored_uris(7, "d1")) == [1, 2]


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 's.sqlite3'}").close()
    connection = sqlite3.connect(tmp_path / "s.sqlite3")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("no address", "DATABASE_URL is no database address"),
        ("sqlite:////nowhere/at/all/store.sqlite3", "unable to open database file"),
        ("postgresql://u:secret@127.0.0.1:1/x", "check that it is reachable"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line_without_the_password(
    url: str, line: str
) -> None:
    with pytest.raises(StoreError, match=line) as caught:
        Store(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_of_a_newer_version_is_one_line_and_stays_as_it_is(store: Store) -> None:
    url = store._engine.url.render_as_string(hide_password=False)
    with store.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    try:
        with pytest.raises(StoreError, match=r"made by a newer version .*update this") as caught:
            Store(url)
        assert "\n" not in str(caught.value)
        with store.begin() as connection:
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        assert found == "9999"
    finally:
        known = sorted(Path("backend/store/migrations/versions").glob("[0-9]*.py"))[-1].name[:4]
        with store.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{known}'")


def test_a_full_disk_is_one_line_and_what_was_stored_stays(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    store.save_scores(7, [scored(1)])
    with store.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        limited = connection.connection.driver_connection
    assert limited is not None
    with pytest.raises(StoreError, match=r"The disk of the store .*store.sqlite3 is full: free"):
        store.save_scores(7, [scored(task_id) for task_id in range(2, 500)])
    assert sorted(store.scored_uris(7, "d1")) == [1]
    store.close()
