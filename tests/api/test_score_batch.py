"""Which images to label next, over HTTP: from the last scoring, re-ranked, or scored first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import httpx
import numpy as np
import pytest

from backend.api import existence, first_scoring
from backend.api.prefixes import PREFIXES
from backend.detections import Detections, features_name
from backend.jobs.context import JobContext
from backend.jobs.runner import run_now
from backend.label_studio.records import TaskRef
from backend.ranking import pool_cache as pool_memory
from backend.ranking.pool_cache import PoolCache
from backend.ranking.rank_project import Pool, PoolRanker
from backend.ranking.ranked_pool import save_pool
from backend.settings import Settings, load_settings
from backend.store.annotations import AnnotationStore, StoredAnnotation
from backend.store.pins import Assignments
from backend.store.scores import IMAGE_VIEW, OBJECT_VIEW, Publication, ScoredTask, Store
from backend.strategies import STRATEGIES
from backend.uncertainty import MEASURES
from tests.api.server import Server, served
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import (
    Command,
    command,
    environment,
    exports,
    frames,
    make_project,
    running,
    wait_until,
    web,
)
from tests.person import Person

__all__ = ["command", "environment", "exports", "frames", "make_project", "web"]

DETECTOR, ENCODER = "d1", "e1"
TASKS = 120
LABELLED = range(1, 9)
EVERY = 10_000


@pytest.fixture(scope="module")
def studio() -> Iterator[WebServer]:
    """A Label Studio that knows of one project, and is slow to tell of another."""
    server = WebServer()
    there = {"id": 500, "title": "there", "label_config": "<View/>"}
    json_type = {"Content_Type": "application/json"}
    server.answers["/api/projects/500/"] = lambda h: reply(
        h, 200, json.dumps(there).encode(), **json_type
    )
    server.answers["/api/projects/501/"] = lambda h: time.sleep(3)
    server.answers["/api/projects/502/"] = lambda h: reply(h, 500, b"{}", **json_type)
    yield server
    server.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, studio: WebServer) -> Settings:
    return load_settings(
        data_dir=tmp_path_factory.mktemp("data"),
        label_studio_url=studio.url,
        label_studio_api_key="legacy-token-of-nobody",
        queue_limit=30,
        validation_share=0.2,
    )


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Server]:
    with served(settings) as running:
        yield running


@pytest.fixture
def scored(server: Server, settings: Settings) -> Callable[..., Pool]:
    """Score and rank a project of random images, in which each third one repeats another."""

    def make(project: int, tasks: int = TASKS, **changed: Any) -> Pool:
        store = server.services.store
        rng = np.random.default_rng(project)
        vectors = rng.standard_normal((2, tasks, 6)).astype(np.float32)
        vectors[:, 2::3] = vectors[:, : len(vectors[0, 2::3]) * 3 : 3]
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        nothing = Detections(
            np.empty((0, 4), np.float32), np.empty((0, 2), np.float32), 0.0, (9, 9)
        )
        store.save_scores(
            project,
            [
                ScoredTask(
                    task,
                    f"/{task}.jpg",
                    f"{project}-{task}",
                    DETECTOR,
                    nothing,
                    dict(zip(MEASURES, rng.random(3).round(2).tolist(), strict=True)),
                )
                for task in range(1, tasks + 1)
            ],
        )
        views = ((ENCODER, IMAGE_VIEW), (features_name(DETECTOR), OBJECT_VIEW))
        for (encoder, view), rows in zip(views, vectors, strict=True):
            named = {f"{project}-{task}": row for task, row in enumerate(rows, start=1)}
            store.save_embeddings(encoder, view, named)
        refs = [
            TaskRef(task, is_labeled=task in LABELLED, total_annotations=int(task in LABELLED))
            for task in range(1, tasks + 1)
        ]
        pool = Pool(project, refs, DETECTOR, ENCODER)
        rank(server, settings, pool, **changed)
        return pool

    return make


def rank(server: Server, settings: Settings, pool: Pool, **changed: Any) -> None:
    """Do what a scoring does when all images are scored."""
    store = server.services.store
    save_pool(store, PoolRanker(settings.model_copy(update=changed), store).rank(pool))


def ask(server: Server, project: int, **params: Any) -> dict[str, Any]:
    answer = server.http.get(f"{PREFIXES[0]}/score-batch", params={"project_id": project, **params})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert isinstance(body, dict)
    return body


def refused(server: Server, status: int, **params: Any) -> httpx.Response:
    answer = server.http.get(f"{PREFIXES[0]}/score-batch", params=params)
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert "\n" not in detail
    return answer


def ids(body: dict[str, Any]) -> list[int]:
    return [image["image_id"] for image in body["queue"]]


def answered(task: int, annotation: int, **changed: Any) -> StoredAnnotation:
    plain = StoredAnnotation(annotation, task, 1, False, False, None, [], None, None)
    return replace(plain, **changed)


# --- the last scoring -------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, "entropy"])
def test_what_somebody_put_first_stands_first_until_it_is_taken_back(
    server: Server, scored: Callable[..., Pool], strategy: str | None
) -> None:
    project = 90 if strategy is None else 91
    scored(project)
    how = {"limit": TASKS, "sort": "rank"} | ({"strategy": strategy} if strategy else {})
    before = [image["image_id"] for image in ask(server, project, **how)["queue"]]
    chosen = [before[7], before[3]]
    assignments = Assignments(server.services.store)
    assignments.put_first(project, [*chosen, min(LABELLED)])
    queue = ask(server, project, **how)["queue"]
    led = [image["image_id"] for image in queue]
    assert led == [*chosen, *(image for image in before if image not in chosen)]
    assert [image["rank"] for image in queue] == list(range(1, len(before) + 1))
    assignments.put_first(project, [])
    assert [image["image_id"] for image in ask(server, project, **how)["queue"]] == before


def test_a_project_without_tasks_has_an_empty_queue(
    server: Server, scored: Callable[..., Pool]
) -> None:
    scored(1, tasks=0)
    for strategy in (None, *STRATEGIES):
        body = ask(server, 1, **({"strategy": strategy} if strategy else {}))
        assert (body["queue"], body["ranked"]) == ([], 0)


def test_the_queue_holds_the_first_of_the_order_and_ascends_by_score(
    server: Server, scored: Callable[..., Pool]
) -> None:
    scored(2)
    whole = ask(server, 2, sort="rank", limit=EVERY)
    assert [image["rank"] for image in whole["queue"]] == list(range(1, whole["ranked"] + 1))
    assert whole["ranked"] == TASKS - len(LABELLED)
    assert not set(ids(whole)) & set(LABELLED)
    first = ask(server, 2, limit=15)
    assert set(ids(first)) == set(ids(whole)[:15])
    scores = [image["uncertainty_score"] for image in first["queue"]]
    assert scores == sorted(scores)
    assert [image["rank"] for image in first["queue"]] != sorted(
        image["rank"] for image in first["queue"]
    )
    for image in whole["queue"]:
        assert set(image["scores"]) == {"lowest_confidence", "margin_sampling", "entropy"}
        combined = sum(image["scores"].values()) / 3
        assert image["uncertainty_score"] == pytest.approx(combined, abs=1e-5)
    assert any(image["picked_at_random"] for image in whole["queue"])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_thumbnails_lie_under_the_prefix_that_was_called(
    server: Server, scored: Callable[..., Pool], prefix: str
) -> None:
    scored(3)
    answer = server.http.get(f"{prefix}/score-batch", params={"project_id": 3, "limit": 1})
    image = answer.json()["queue"][0]
    assert image["thumbnail"] == f"{server.url}{prefix}/thumbnail/{image['image_id']}"
    assert server.http.get(image["thumbnail"]).status_code != 404


def test_the_answer_tells_what_it_stands_on(server: Server, scored: Callable[..., Pool]) -> None:
    before = datetime.now(timezone.utc)
    scored(4, diversity_weight=0.7)
    body = ask(server, 4)
    assert (body["project_id"], body["strategy"]) == (4, "diverse_uncertainty")
    assert (body["diversity_weight"], body["detector"]) == (0.7, DETECTOR)
    assert body["model_version"] is None
    assert before <= datetime.fromisoformat(body["scored_at"]) <= datetime.now(timezone.utc)
    assert 0 <= body["age_seconds"] < 60
    store = server.services.store
    order = ("hf-4", 4, "live", DETECTOR, ENCODER, "entropy", 0.4, {}, 0, before)
    store.save_publication(Publication(*order), [])
    assert ask(server, 4)["model_version"] == "hf-4"


def test_a_new_scoring_is_seen_at_once(
    server: Server, settings: Settings, scored: Callable[..., Pool]
) -> None:
    pool = scored(5)
    first = ask(server, 5, sort="rank", limit=EVERY)
    fewer = replace(pool, tasks=[task for task in pool.tasks if task.id != ids(first)[0]])
    rank(server, settings, fewer, strategy="entropy")
    second = ask(server, 5, sort="rank", limit=EVERY)
    assert second["strategy"] == "entropy"
    assert second["scored_at"] > first["scored_at"]
    assert set(ids(second)) == set(ids(first)[1:])


# --- re-ranked --------------------------------------------------------------------------------


@pytest.mark.parametrize("made_by", ["diverse_uncertainty", "entropy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranked_anew_is_as_a_scoring_would_rank(
    server: Server,
    settings: Settings,
    scored: Callable[..., Pool],
    strategy: str,
    made_by: str,
) -> None:
    pool = scored(6, strategy=made_by)
    orders = set()
    for weight in (0.0, 0.3, 1.0):
        body = ask(server, 6, strategy=strategy, diversity_weight=weight, sort="rank", limit=EVERY)
        assert (body["strategy"], body["diversity_weight"]) == (strategy, weight)
        chosen = settings.model_copy(update={"strategy": strategy, "diversity_weight": weight})
        tasks = PoolRanker(chosen, server.services.store).rank(pool).tasks()
        assert ids(body) == [task.task_id for task in tasks]
        for image, task in zip(body["queue"], tasks, strict=True):
            assert image["uncertainty_score"] == pytest.approx(task.uncertainty_score, abs=1e-6)
            assert image["picked_at_random"] == task.picked_at_random
        orders.add(tuple(ids(body)))
    assert len(orders) == (3 if strategy == "diverse_uncertainty" else 1)


def test_ranked_anew_keeps_away_from_what_was_labelled_since(
    server: Server, settings: Settings, scored: Callable[..., Pool]
) -> None:
    pool = scored(7)
    first = ask(server, 7, strategy="diversity", sort="rank", limit=EVERY)
    # Of what is ranked and no near-duplicate, so that the duplicates stay the same.
    gone = next(i["image_id"] for i in first["queue"] if not i["picked_at_random"])
    AnnotationStore(server.services.store).replace(7, gone, [answered(gone, 700)])
    labelled = [replace(t, is_labeled=t.is_labeled or t.id == gone) for t in pool.tasks]
    chosen = settings.model_copy(update={"strategy": "diversity"})
    ranker = PoolRanker(chosen, server.services.store)
    expected = [task.task_id for task in ranker.rank(replace(pool, tasks=labelled)).tasks()]
    found = ids(ask(server, 7, strategy="diversity", sort="rank", limit=EVERY))
    assert found == expected
    assert found != [task for task in ids(first) if task != gone]


def test_what_is_labelled_leaves_the_queue_and_what_is_skipped_stays(
    server: Server, scored: Callable[..., Pool]
) -> None:
    scored(8)
    answers = AnnotationStore(server.services.store)
    answers.watch(8)
    for params in ({}, {"strategy": "entropy"}, {"diversity_weight": 0.9}):
        order = ids(ask(server, 8, sort="rank", limit=EVERY, **params))
        answers.replace(8, order[0], [answered(order[0], 801)])
        answers.replace(8, order[1], [answered(order[1], 802, was_cancelled=True)])
        left = ask(server, 8, sort="rank", limit=EVERY, **params)
        assert order[0] not in ids(left)
        assert order[1] in ids(left)
        assert left["ranked"] == len(order) - 1
        # Deleted in Label Studio: it is open again.
        answers.replace(8, order[0], [])
        assert ids(ask(server, 8, sort="rank", limit=EVERY, **params)) == order


def test_it_tells_until_when_labels_were_read(server: Server, scored: Callable[..., Pool]) -> None:
    scored(9)
    body = ask(server, 9)
    assert body["labels_read_at"] == body["scored_at"]
    run_now(server.services.queue, "poll", 9, None, {"poll": lambda context: {}})
    assert ask(server, 9)["labels_read_at"] > body["scored_at"]


def test_many_that_ask_at_once_are_answered_by_one_reading(
    server: Server, scored: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(10)
    server.swap(pools=PoolCache(server.services.store))
    read: list[int] = []
    load = pool_memory.load_embeddings

    def slowly(*arguments: Any) -> Any:
        read.append(threading.get_ident())
        time.sleep(0.2)
        return load(*arguments)

    monkeypatch.setattr(pool_memory, "load_embeddings", slowly)
    with ThreadPoolExecutor(64) as pool:
        weights = [0.1, 0.9] * 32
        found = list(pool.map(lambda w: tuple(ids(ask(server, 10, diversity_weight=w))), weights))
    assert len(read) == 1
    assert len(set(found)) == 2


def test_projects_make_room_for_each_other(
    server: Server, scored: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = pool_memory.load_embeddings

    def counted(
        store: Store, encoder: str, detector: str, hashes: tuple[str, ...], whitenings: Any
    ) -> Any:
        read.append(hashes[0].split("-")[0])
        return load(store, encoder, detector, hashes, whitenings)

    monkeypatch.setattr(pool_memory, "load_embeddings", counted)
    for project in (11, 12, 16):
        scored(project)
    expected: dict[tuple[int, float], list[int]] = {}
    for max_bytes, readings in ((2**30, ["11", "12", "16"]), (1, ["11", "12", "16", "12"] * 2)):
        memory = PoolCache(server.services.store, max_bytes=max_bytes)
        read.clear()
        for weight in (0.1, 0.2):
            for project in (11, 12, 16, 12):
                fresh = memory.ranked(project, diversity_weight=weight)
                assert fresh is not None
                order = fresh.pool.order.tolist()
                assert expected.setdefault((project, weight), order) == order
        assert read == readings


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, "project_id"),
        ({"project_id": 0}, "project_id"),
        ({"project_id": 2**40}, "project_id"),
        ({"project_id": "seven"}, "project_id"),
        ({"project_id": 2, "strategy": "best"}, "strategy"),
        ({"project_id": 2, "limit": 0}, "limit"),
        ({"project_id": 2, "diversity_weight": 1.01}, "diversity_weight"),
        ({"project_id": 2, "diversity_weight": "nan"}, "diversity_weight"),
        ({"project_id": 2, "sort": "random"}, "sort"),
    ],
)
def test_a_malformed_question_is_one_line(
    server: Server, params: dict[str, Any], names: str
) -> None:
    assert names in refused(server, 422, **params).json()["detail"]


def test_a_key_sees_its_own_projects_only(server: Server, scored: Callable[..., Pool]) -> None:
    scored(13)
    with server.only_for(14):
        assert "project 13" in refused(server, 403, project_id=13).json()["detail"]


def test_embeddings_that_are_gone_are_one_line(server: Server, scored: Callable[..., Pool]) -> None:
    scored(15)
    with server.services.store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM embeddings WHERE image_hash LIKE '15-%'")
    assert len(ask(server, 15)["queue"]) == 50
    answer = refused(server, 503, project_id=15, diversity_weight=0.9)
    assert "python -m backend score" in answer.json()["detail"]


# --- nothing scored yet -----------------------------------------------------------------------


def test_a_project_that_label_studio_does_not_know(server: Server) -> None:
    assert "Project 499" in refused(server, 404, project_id=499).json()["detail"]
    assert server.services.queue.list(499) == ()


@pytest.mark.parametrize(("project", "status"), [(501, 504), (502, 502)])
def test_a_label_studio_that_is_slow_or_fails_holds_nobody_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, project: int, status: int
) -> None:
    monkeypatch.setattr(existence, "_STUDIO_S", 0.2)
    refused(server, status, project_id=project)
    assert server.services.queue.list(project) == ()


def test_few_wait_for_a_slow_label_studio(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existence, "_STUDIO_S", 1.0)
    path, params = f"{PREFIXES[0]}/score-batch", {"project_id": 501}
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: server.http.get(path, params=params), range(20)))
    statuses = [answer.status_code for answer in found]
    assert set(statuses) == {503, 504}
    assert statuses.count(504) < 20
    assert {answer.headers.get("Retry-After") for answer in found} == {"5", None}


def test_a_scoring_is_begun_waited_for_and_told_of_when_it_fails(
    server: Server, scored: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = server.services.queue
    monkeypatch.setattr(first_scoring, "_WAIT_S", 0.1)
    path, params = f"{PREFIXES[1]}/score-batch", {"project_id": 500}
    with server.only_for(500, may_write=False):
        assert "may only read" in refused(server, 403, **params).json()["detail"]
    first = server.http.get(path, params=params)
    assert first.status_code == 202
    job = first.json()["job"]
    assert (job["kind"], job["state"], job["project_id"]) == ("score", "queued", 500)
    assert first.json()["job_url"] == f"{PREFIXES[1]}/jobs/{job['id']}"
    assert server.http.get(first.json()["job_url"]).json() == job
    with server.only_for(500, may_write=False):
        assert server.http.get(path, params=params).json() == first.json()

    def fail(context: JobContext) -> dict[str, Any]:
        raise RuntimeError("the weights are gone")

    run_now(queue, "score", 500, None, {"score": fail})
    answer = refused(server, 503, **params)
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert f"job {job['id']}" in answer.json()["detail"]
    monkeypatch.setattr(first_scoring, "_PAUSE", first_scoring._PAUSE * 0)
    monkeypatch.setattr(first_scoring, "_WAIT_S", 20.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.http.get, path, params=params)
        wait_until(lambda: bool(queue.list(500, ("queued",))), "a new job", seconds=10, pause=0.02)

        def score(context: JobContext) -> dict[str, Any]:
            scored(500)
            return {}

        run_now(queue, "score", 500, None, {"score": score})
        assert len(waiting.result().json()["queue"]) == 50


def test_the_first_question_has_a_project_scored_and_changes_nothing_in_label_studio(
    command: Command,
    owner: Person,
    make_project: Callable[..., tuple[int, list[int]]],
) -> None:
    project, task_ids = make_project()
    names = {name.lower(): value for name, value in command.environment.items()}
    settings = load_settings(**{k: v for k, v in names.items() if k in Settings.model_fields})
    with served(settings) as server, running(command, "worker"):
        path, params = f"{PREFIXES[0]}/score-batch", {"project_id": project, "sort": "rank"}
        assert server.http.get(path, params=params).status_code in (200, 202)
        wait_until(
            lambda: server.http.get(path, params=params).status_code == 200, "a scored project"
        )
        queue = ids(ask(server, project, sort="rank"))
    assert set(queue) == set(task_ids)
    assert queue == ids(command.json("score", project, "--dry-run"))
    assert not owner.call("GET", f"/api/projects/{project}/")["model_version"]
    assert owner.call("GET", "/api/predictions/", params={"project": project}) == []
