"""A ranked pool, as it is kept in the store and re-ranked."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from backend.detections import Detections, features_name
from backend.diversity import find_representatives, rank, rank_represented
from backend.errors import ScoreError
from backend.label_studio.records import TaskRef
from backend.ranking.kept_groups import KeptGroups, marks_of
from backend.ranking.rank_project import Pool, PoolRanker
from backend.ranking.ranked_pool import RankedPool, TaskRole, load_pool, save_pool
from backend.selection import near_duplicates
from backend.selection.embeddings import Whitening, join_rows, near_duplicate_cosine
from backend.selection.near_duplicates import UNREAD
from backend.settings import Settings
from backend.store import tables
from backend.store.annotations import AnnotationStore, StoredAnnotation
from backend.store.pools import pool_stamp
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, ScoredTask, Store
from backend.strategies import STRATEGIES
from backend.uncertainty import MEASURES


def rows_of(count: int, seed: int) -> Any:
    """Unit rows, of which many are near-duplicates."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((max(count // 3, 1), 5))[
        rng.integers(max(count // 3, 1), size=count)
    ]
    rows += 0.05 * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("labels", [0, 20])
@pytest.mark.parametrize("threshold", [None, 0.95])
@pytest.mark.parametrize("has_keys", [False, True])
def test_known_representatives_give_the_order_of_a_rank_that_looks_for_them(
    count: int, labels: int, threshold: float | None, has_keys: bool
) -> None:
    rows, known = rows_of(count, 1), rows_of(labels, 2)
    utilities = np.random.default_rng(3).random(count).round(1)
    keys = [f"film {row % 50}" if row % 2 else None for row in range(count)] if has_keys else None
    search = {"labelled": known, "duplicate_threshold": threshold, "keys": keys}
    represents = find_representatives(rows, utilities, **search) == np.arange(count)
    for weight in (0.0, 0.4, 1.0):
        expected = rank(rows, utilities, limit=30, diversity_weight=weight, **search)
        found = rank_represented(
            rows, utilities, represents, limit=30, diversity_weight=weight, labelled=known
        )
        assert found.tolist() == expected.order.tolist()
        assert represents.tolist() == (expected.groups == np.arange(count)).tolist()


def test_representatives_of_another_pool_are_refused() -> None:
    with pytest.raises(ScoreError, match="represents must have shape"):
        rank_represented(rows_of(3, 1), [0.5] * 3, np.ones(2, dtype=np.bool_), limit=1)


def pool_of(store: Store, tasks: int, encoder: str = "e1") -> Pool:
    """Tasks with scores and embeddings in the store; the first five are labelled."""
    rng = np.random.default_rng(tasks)
    nothing = Detections(np.empty((0, 4), np.float32), np.empty((0, 2), np.float32), 0.0, (9, 9))
    measured = rng.random((tasks, 4)).round(2).tolist()
    store.save_scores(
        7,
        [
            ScoredTask(
                task,
                f"/{task}",
                f"hash{task}",
                "d1",
                nothing,
                dict(zip(MEASURES, scores, strict=True)),
                weight,
            )
            for task, (*scores, weight) in enumerate(measured, start=1)
        ],
    )
    views = ((encoder, IMAGE_VIEW), (features_name("d1"), OBJECT_VIEW))
    for seed, (name, view) in enumerate(views):
        rows = rows_of(tasks, seed)
        store.save_embeddings(name, view, {f"hash{i}": r for i, r in enumerate(rows, start=1)})
    refs = [
        TaskRef(task, {"film": f"film {task // 4}"}, task <= 5, int(task <= 5))
        for task in range(1, tasks + 1)
    ]
    return Pool(7, refs, "d1", encoder)


def places(pool: RankedPool) -> list[tuple[int, float, bool]]:
    return [(t.task_id, t.uncertainty_score, t.picked_at_random) for t in pool.tasks()]


@pytest.mark.parametrize("tasks", [0, 60])
def test_a_pool_comes_back_from_the_store_as_it_was(store: Store, tasks: int) -> None:
    ranked = PoolRanker(Settings(validation_share=0.2), store).rank(pool_of(store, tasks))
    assert load_pool(store, 7) is None
    save_pool(store, ranked)
    found = load_pool(store, 7)
    assert found is not None
    assert places(found) == places(ranked)
    assert found.options == ranked.options
    assert found.columns.image_hashes == ranked.columns.image_hashes
    assert found.columns.class_weight.tolist() == ranked.columns.class_weight.tolist()
    assert found.standing.tolist() == ranked.standing.tolist()
    assert (found.detector, found.encoder, found.ranked_at) == ("d1", "e1", ranked.ranked_at)
    # A project has one.
    later = replace(ranked, ranked_at=datetime.now(timezone.utc), order=ranked.order[:1])
    save_pool(store, later)
    kept = load_pool(store, 7)
    assert kept is not None
    assert kept.ranked_at == later.ranked_at
    assert len(kept.order) == min(1, tasks)


def test_a_pool_kept_before_there_were_class_weights_is_not_weighed(store: Store) -> None:
    save_pool(store, PoolRanker(Settings(), store).rank(pool_of(store, 10)))
    with store.begin() as connection:
        (kept,) = connection.scalars(select(tables.pools.c.tasks))
        with np.load(io.BytesIO(zlib.decompress(kept))) as columns:
            older = {name: columns[name] for name in columns if name != "class_weight"}
        packed = io.BytesIO()
        np.savez(packed, **older)
        blob = zlib.compress(packed.getvalue())
        connection.execute(update(tables.pools).values(tasks=blob))
    found = load_pool(store, 7)
    assert found is not None
    assert found.columns.class_weight.tolist() == [1.0] * 10


def test_the_stamp_tells_that_something_changed_and_only_then(store: Store) -> None:
    answers = AnnotationStore(store)
    assert pool_stamp(store, 7) is None
    ranked = PoolRanker(Settings(), store).rank(pool_of(store, 10))
    save_pool(store, ranked)
    stamps = [pool_stamp(store, 7)]
    answers.watch(7)
    answers.polled(7)
    assert pool_stamp(store, 7) == stamps[0]
    answer = StoredAnnotation(1, 6, None, False, False, None, [], None, None)
    answers.replace(7, 6, [answer])
    stamps.append(pool_stamp(store, 7))
    answers.replace(7, 6, [replace(answer, was_cancelled=True)])
    answers.set_read_until(7, datetime.now(timezone.utc))
    stamps.append(pool_stamp(store, 7))
    answers.forget_absent(7, [])
    stamps.append(pool_stamp(store, 7))
    save_pool(store, replace(ranked, ranked_at=datetime.now(timezone.utc)))
    stamps.append(pool_stamp(store, 7))
    assert len(set(stamps)) == len(stamps)
    assert pool_stamp(store, 7) == stamps[-1]


@pytest.mark.parametrize("encoder", ["e1", "detector-e1"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_open_task_has_one_place_and_duplicates_stand_behind(
    store: Store, encoder: str, strategy: str
) -> None:
    pool = pool_of(store, 60, encoder)
    settings = Settings(strategy=strategy, validation_share=0.0, sequence_field="film")  # type: ignore[arg-type]
    ranked = PoolRanker(settings, store).rank(pool)
    tasks = ranked.tasks()
    assert [task.rank for task in tasks] == list(range(1, 56))
    assert {task.task_id for task in tasks} == set(range(6, 61))
    if ranked.options.spreads:
        standing = ranked.standing[ranked.order]
        first = int((standing == TaskRole.REPRESENTATIVE).sum())
        assert 0 < first < len(standing)
        assert (standing[:first] == TaskRole.REPRESENTATIVE).all()
        films = [task.task_id // 4 for task in tasks[:first]]
        assert len(films) == len(set(films))


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_order_is_the_diverse_one_away_from_what_is_labelled(
    store: Store, weight: float
) -> None:
    pool = pool_of(store, 60)
    settings = Settings(diversity_weight=weight, validation_share=0.0, queue_limit=20)
    tasks = PoolRanker(settings, store).rank(pool).tasks()
    hashes = [f"hash{task}" for task in range(1, 61)]
    images = store.vectors("e1", IMAGE_VIEW, hashes)
    objects = store.vectors("detector-d1", OBJECT_VIEW, hashes)
    rows = join_rows([(images, None), (objects, Whitening.fit(objects))])
    near = near_duplicate_cosine(whitened=False, objects=True)
    scores = {task.task_id: task.uncertainty_score for task in tasks}
    weights = store.score_columns(7, "d1", range(1, 61)).class_weight
    utilities = [(1 - scores[task]) * weights[task - 1] for task in range(6, 61)]
    expected = rank(
        rows[5:],
        utilities,
        limit=20,
        diversity_weight=weight,
        labelled=rows[:5],
        duplicate_threshold=near,
    )
    assert [task.task_id for task in tasks] == (expected.order + 6).tolist()


def test_the_random_share_is_dealt_in_by_chance(store: Store) -> None:
    pool = pool_of(store, 60)
    by_chance = []
    for strategy in ("diverse_uncertainty", "entropy"):
        settings = Settings(strategy=strategy, validation_share=0.25)  # type: ignore[arg-type]
        tasks = PoolRanker(settings, store).rank(pool).tasks()
        picked = [task for task in tasks if task.picked_at_random]
        assert sum(task.picked_at_random for task in tasks[:20]) == 5
        by_chance.append([task.task_id for task in picked])
    # Whatever the strategy: the same ones, in the same order.
    assert by_chance[0] == by_chance[1] != sorted(by_chance[0])


def grouped(
    rows: Any, useful: Any, roles: Any, films: Any, before: KeptGroups | None, tasks: Any
) -> KeptGroups:
    """The groups of some tasks; roles: 0 held out, 1 ranked, 2 labelled."""
    ranked, labelled = np.flatnonzero(roles == 1), np.flatnonzero(roles == 2)
    marks = marks_of(rows, useful, roles == 2)
    earlier, new_labelled = None, None
    if before is not None:
        carried = before.carried_to(tasks, marks)
        number = np.full(len(tasks), UNREAD)
        number[ranked], number[labelled] = np.arange(len(ranked)), -1 - np.arange(len(labelled))
        earlier = np.array([UNREAD if row == UNREAD else number[row] for row in carried])[ranked]
        new_labelled = carried[labelled] == UNREAD
    found = find_representatives(
        rows[ranked],
        useful[ranked],
        labelled=rows[labelled],
        keys=films[ranked].tolist(),
        earlier=earlier,
        new_labelled=new_labelled,
    )
    leaders = np.full(len(tasks), UNREAD, dtype=np.int32)
    leaders[labelled] = labelled
    both = np.concatenate([ranked, labelled[::-1]])
    leaders[ranked[found != UNREAD]] = both[found[found != UNREAD]]
    return KeptGroups(tasks, marks, leaders)


@property_settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.sampled_from([0.05, 0.2, 0.5]))
def test_groups_that_were_kept_change_no_group(seed: int, count: int, changing: float) -> None:
    """Whatever changes between two rankings: tasks, labels, rows, utilities, films."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "READ", 7)
        patch.setattr(near_duplicates, "TILE", 4)
        rng = np.random.default_rng(seed)
        tasks = np.arange(count)
        rows = rows_of(count, seed).astype(np.float16)
        useful = rng.random(count).round(1)
        roles = rng.choice(3, size=count, p=[0.1, 0.7, 0.2])
        films = np.array([None] * count, dtype=object)
        films[rng.random(count) < 0.2] = "film"
        there = rng.random(count) < 0.8
        kept = None
        for _turn in range(4):
            now = [part[there] for part in (rows, useful, roles, films)]
            again = grouped(*now, kept, tasks[there])
            assert again.leaders.tolist() == grouped(*now, None, tasks[there]).leaders.tolist()
            kept = again
            there = rng.random(count) < np.where(there, 1 - changing / 2, 0.5)
            for values, drawn in (
                (rows, rows_of(count, seed)[rng.permutation(count)].astype(np.float16)),
                (useful, rng.random(count).round(1)),
                (roles, rng.choice(3, size=count, p=[0.1, 0.6, 0.3])),
                (films, np.array([None, "film"], dtype=object)[rng.integers(2, size=count)]),
            ):
                which = rng.random(count) < changing / 4
                values[which] = drawn[which]


@pytest.mark.parametrize("encoder", ["e1", "detector-e1"])
def test_a_pool_ranked_again_is_as_one_whose_groups_were_not_kept(
    store: Store, encoder: str
) -> None:
    settings = Settings(sequence_field="film")
    pool = pool_of(store, 90, encoder)
    before = PoolRanker(settings, store).rank(replace(pool, tasks=pool.tasks[3:70]))
    save_pool(store, replace(before, groups=None))
    expected = PoolRanker(settings, store).rank(pool)
    save_pool(store, before)
    found = PoolRanker(settings, store).rank(pool)
    assert places(found) == places(expected)
    assert found.standing.tolist() == expected.standing.tolist()


def test_few_new_images_leave_the_rows_of_the_others_as_they_were(store: Store) -> None:
    pool = pool_of(store, 90)
    ranker = PoolRanker(Settings(), store)
    save_pool(store, ranker.rank(replace(pool, tasks=pool.tasks[:40])))
    before = ranker.rank(replace(pool, tasks=pool.tasks[:50]))
    save_pool(store, before)
    after = ranker.rank(replace(pool, tasks=pool.tasks[:60]))
    assert before.groups is not None
    assert after.groups is not None
    assert after.groups.marks[:50].tolist() == before.groups.marks.tolist()
    # Of a pool that has doubled since, another one knows more.
    assert after.whitenings["objects"].fitted_on == 40
    assert ranker.rank(pool).whitenings["objects"].fitted_on == 90
