"""Who waits for the models, or for an order, holds up nobody else and comes to an end; what waits
takes up only so much.

The server runs in this process, where what it waits for takes as long as a test wants.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest

from backend.api.routes import label_studio
from backend.errors import WeightsError
from backend.label_studio.records import TaskRef
from backend.publishing import restore as repair
from backend.publishing.predict import Predictor
from backend.ranking.ranked_pool import RankedPool
from backend.scoring.batching import ScoringWorker
from backend.scoring.models import Scorers
from backend.scoring.scorer import ScoringReport
from backend.settings import Settings
from backend.store.scores import Store
from tests.api.busy_server import SCORED, UNSCORED, BusyStudio, fill, settings_for
from tests.api.crowd import Answers, Step, storm
from tests.api.server import Server, served
from tests.label_studio.conftest import CONFIG
from tests.loop.conftest import wait_until


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    busy = BusyStudio()
    found = settings_for(tmp_path_factory.mktemp("waiting"), busy.url)
    fill(found)
    yield found
    busy.close()


class Loading:
    """In the place of the models: they load until the test says so, and then see nothing."""

    detector_version = "loading"

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.batches: list[list[int]] = []

    def base(self) -> Loading:
        self.may_go_on.wait()
        return self

    @contextmanager
    def lent(self, project_id: int) -> Iterator[Loading]:
        if project_id == UNSCORED:
            raise WeightsError("the weights of this project are gone")
        yield self

    def score(self, _: int, tasks: Sequence[TaskRef], **__: Any) -> ScoringReport:
        self.batches.append([task.id for task in tasks])
        return ScoringReport()

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def loading() -> Iterator[Loading]:
    found = Loading()
    yield found
    found.may_go_on.set()


def new_tasks(*ids: int) -> list[TaskRef]:
    return [TaskRef(id=task, data={"image": f"/data/upload/{task}.jpg"}) for task in ids]


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    with served(settings) as found:
        yield found


def post(path: str, body: dict[str, Any], name: str) -> Step:
    def step(http: httpx.Client, answers: Answers) -> None:
        started = time.monotonic()
        answer = http.post(path, json=body, auth=("label-studio", "pa55word"))
        answers.note(name, started, answer.status_code)
        if name == "predict":
            # As many answers as tasks; the scored one is in its place.
            assert [bool(result) for result in answer.json()["results"]] == [True, False]

    return step


def test_more_predicts_than_threads_end_in_time_and_keep_nobody_else_waiting(
    server: Server, loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 5.0
    monkeypatch.setattr(label_studio, "PREDICT_SECONDS", limit)
    services = server.services
    worker = ScoringWorker(cast(Scorers, loading))
    worker.start()
    server.swap(predictor=Predictor(services.settings, services.store, worker), worker=worker)
    tasks = [{"id": 1, "data": {"image": "/data/upload/1.jpg"}}, {"id": 99, "data": {"image": "y"}}]
    predict = {"tasks": tasks, "project": "1.17", "label_config": CONFIG}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": SCORED}}
    calls = [post("/setup", {"project": "1.17"}, "setup"), post("/webhook", event, "webhook")]
    answers = storm(server.url, [[post("/predict", predict, "predict")]] * 80 + [calls * 4] * 4)
    assert set(answers.statuses["predict"]) == {200}
    # Less than two limits: no one's time began when another's was over.
    assert limit <= min(answers.seconds["predict"])
    assert max(answers.seconds["predict"]) < 2 * limit
    assert set(answers.statuses["setup"] + answers.statuses["webhook"]) == {200, 201}
    for name, seconds in (("setup", 3.0), ("webhook", 1.0)):
        assert max(answers.seconds[name]) < limit, "it waited for a predict"
        assert statistics.median(answers.seconds[name]) < seconds


def test_a_task_that_is_asked_for_again_waits_once(loading: Loading) -> None:
    worker = ScoringWorker(cast(Scorers, loading))
    worker.start()
    for _ in range(50):
        report = worker.score(SCORED, new_tasks(1, 2), label_config=CONFIG, timeout=0)
        assert "still queued" in report.skipped[1]
    assert worker.waiting == 2
    # The image of the task is another one now.
    moved = [TaskRef(id=1, data={"image": "/data/upload/other.jpg"})]
    worker.score(SCORED, moved, label_config=CONFIG, timeout=0)
    assert worker.waiting == 3
    loading.may_go_on.set()
    assert worker.score(SCORED, new_tasks(3), label_config=CONFIG, timeout=30).skipped == {}
    assert sorted(task for batch in loading.batches for task in batch) == [1, 1, 2, 3]
    assert all(len(set(batch)) == len(batch) for batch in loading.batches), "a task twice at once"
    # What was scored may be asked for again.
    assert worker.score(SCORED, new_tasks(1), label_config=CONFIG, timeout=30).scored == 1
    worker.stop()


def test_what_waits_takes_up_only_so_much_memory(loading: Loading) -> None:
    worker = ScoringWorker(cast(Scorers, loading), max_waiting_bytes=1_000_000)
    worker.start()
    inline = "data:image/png;base64," + "A" * 300_000
    tasks = [TaskRef(id=task, data={"image": inline}) for task in range(1, 6)]
    skipped = worker.score(SCORED, tasks, label_config=CONFIG, timeout=0).skipped
    assert ["too many images" in skipped[task] for task in range(1, 6)] == [False] * 3 + [True] * 2
    loading.may_go_on.set()
    # There is room again, every time.
    for _ in range(3):
        assert not worker.score(SCORED, tasks[:3], label_config=CONFIG, timeout=30).skipped
    worker.stop()


def test_what_fails_for_one_project_is_done_for_another(loading: Loading) -> None:
    worker = ScoringWorker(cast(Scorers, loading))
    worker.start()
    for project in (UNSCORED, SCORED):
        worker.score(project, new_tasks(project), label_config=CONFIG, timeout=0)
    loading.may_go_on.set()
    lost = worker.score(UNSCORED, new_tasks(UNSCORED), label_config=CONFIG, timeout=30)
    assert lost.skipped == {UNSCORED: "the weights of this project are gone"}
    assert worker.score(SCORED, new_tasks(SCORED), label_config=CONFIG, timeout=30).scored == 1
    worker.stop()


def test_who_waits_is_told_when_the_server_stops(loading: Loading) -> None:
    worker = ScoringWorker(cast(Scorers, loading))
    worker.start()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(worker.score, 1, new_tasks(1, 2), label_config=CONFIG, timeout=60)
        while worker.waiting < 2:
            time.sleep(0.01)
        threading.Timer(0.2, loading.may_go_on.set).start()
        worker.stop()
        skipped = asked.result(timeout=30).skipped
    assert skipped == dict.fromkeys((1, 2), "the backend is shutting down")


def test_more_new_orders_than_can_be_made_are_refused_and_keep_nobody_else_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = RankedPool.ordered

    def slowly(*arguments: Any) -> RankedPool:
        time.sleep(0.5)
        return make(*arguments)

    monkeypatch.setattr(RankedPool, "ordered", slowly)

    def order(turn: int) -> Step:
        params = {"project_id": SCORED, "strategy": "diverse_uncertainty"}

        def step(http: httpx.Client, answers: Answers) -> None:
            started = time.monotonic()
            weight = {"diversity_weight": turn / 100}
            answer = http.get("/v1/label/score-batch", params={**params, **weight})
            answers.note("score-batch", started, answer.status_code)
            if answer.status_code == 503:
                assert answer.headers["Retry-After"] == "5"
                assert answer.json()["detail"].startswith("too many other orders")

        return step

    calls = [post("/setup", {"project": "1.17"}, "setup")]
    answers = storm(server.url, [[order(turn)] for turn in range(60)] + [calls * 4] * 4)
    assert set(answers.statuses["score-batch"]) == {200, 503}
    assert answers.statuses["score-batch"].count(200) >= 8
    # Eight orders and a moment, and the machine may be busy; all 60 would take half a minute.
    assert max(answers.seconds["score-batch"]) < 15
    assert statistics.median(answers.seconds["setup"]) < 3.0
    # Whoever comes back is answered.
    params = {"project_id": SCORED, "diversity_weight": 0.33}
    assert server.http.get("/v1/label/score-batch", params=params).status_code == 200


def test_a_slow_label_studio_is_looked_at_once_at_a_time_and_again_for_who_came_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    answers = threading.Semaphore(0)

    def look(_studio: Any, project_id: int, _version: str) -> bool:
        looks.append(project_id)
        return answers.acquire(timeout=30)

    monkeypatch.setattr(repair, "restore_order", look)
    store = Store.from_settings(settings)
    keeper = repair.OrderKeeper(settings, store, delay=0.02)
    for _ in range(10):
        keeper.schedule_check(SCORED)
        time.sleep(0.05)
    assert looks == [SCORED]
    answers.release(2)
    wait_until(lambda: looks == [SCORED, SCORED], "the second look", seconds=30)
    time.sleep(0.2)
    assert looks == [SCORED, SCORED]
    keeper.stop()
    store.close()


def test_a_look_under_way_ends_before_the_server_does_and_none_follows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def look(_studio: Any, _project_id: int, _version: str) -> bool:
        begun.set()
        time.sleep(0.3)
        ended.set()
        return True

    monkeypatch.setattr(repair, "restore_order", look)
    store = Store.from_settings(settings)
    keeper = repair.OrderKeeper(settings, store, delay=0.02)
    keeper.schedule_check(SCORED)
    assert begun.wait(30)
    keeper.schedule_check(SCORED)
    keeper.stop()
    assert ended.is_set()
    ended.clear()
    keeper.schedule_check(SCORED)
    time.sleep(0.6)
    assert not ended.is_set()
    store.close()
