"""The loop as a team lives it: Label Studio, the server and the worker, and people who label."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from backend.label_studio.client import Studio
from backend.settings import Settings
from backend.store.job_queue import JobQueue
from backend.store.jobs import FAILED, Job
from backend.store.rounds import RoundStore
from backend.store.scores import Store
from demo.annotator import Truth, answer
from demo.project import label_config
from demo.scene import CLASSES, HEIGHT, WIDTH, Frame, generate
from demo.studio_server import free_port
from tests.imported import SLOW, imported
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import Command, running, wait_until
from tests.person import Person

# Minutes of real trainings, more where the machine is busy.
pytestmark = pytest.mark.timeout(900)

MakeProject = Callable[..., tuple[int, list[int]]]

# Names that the demo's detector does not know: a new project, begun from nothing.
LABELS = {"bolt": "screw", "nut": "hexagon", "washer": "ring"}
CONFIG = label_config(list(LABELS.values()))

LOOP = {
    "VALIDATION_SHARE": "0.5",
    "TRAIN_AFTER": "14",
    "TRAIN_STEPS": "40",
    "TRAIN_BATCH": "8",
    "TRAIN_IMAGE_SIZE": "192",
    "POLL_SECONDS": "5",
}


def truth_of(frame: Frame) -> Truth:
    """What an annotator sees on a frame that has a label in this project."""
    named = [i for i, k in enumerate(frame.class_ids.tolist()) if CLASSES[k] in LABELS]
    percent = 100 * frame.xyxy[named] / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    return Truth(percent, [LABELS[CLASSES[int(frame.class_ids[i])]] for i in named])


@dataclass
class Line:
    """A project that shows frames, and what is on them."""

    project: int
    truth: dict[str, Truth]

    def answer(self, person: Person, task: dict[str, Any]) -> None:
        """Answer a task that Label Studio served, beginning with the boxes shown."""
        shown = task["predictions"][0] if task["predictions"] else {"result": [], "id": None}
        name = task["data"]["image"].rsplit("/", 1)[-1]
        body = {
            "result": answer(shown["result"], self.truth[name], (WIDTH, HEIGHT)),
            "parent_prediction": shown["id"],
            "lead_time": 12.5,
        }
        person.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)

    def label_all(self, person: Person, count: int) -> list[int]:
        """Press Label All Tasks so often; returns the tasks that were served."""
        served = []
        for _ in range(count):
            task = person.next_task(self.project)
            assert task is not None
            served.append(task["id"])
            self.answer(person, task)
        return served


@pytest.fixture(scope="module")
def many_frames() -> list[Frame]:
    return list(generate(60, seed=1))


@pytest.fixture
def line(make_project: MakeProject, many_frames: list[Frame]) -> Line:
    files = {f"{frame.name}.jpg": frame.jpeg for frame in many_frames}
    project, _ = make_project(files, config=CONFIG)
    return Line(project, {f"{frame.name}.jpg": truth_of(frame) for frame in many_frames})


@pytest.fixture
def looping(command: Command) -> Command:
    command.environment.update(LOOP)
    return command


@pytest.fixture
def store(looping: Command) -> Iterator[Store]:
    opened = looping.store
    yield opened
    opened.close()


@pytest.fixture
def queue(settings: Settings, store: Store) -> JobQueue:
    return JobQueue(store)


def connect(owner: Person, command: Command, project: int, port: int) -> None:
    """What a user does in Settings > Model."""
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url), "the server's health")
    body = {"project": project, "url": url, "title": "Hardest First"}
    owner.call("POST", "/api/ml/", json=body)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def test_three_rounds_close_the_loop(
    looping: Command,
    line: Line,
    store: Store,
    queue: JobQueue,
    owner: Person,
    annotators: list[Person],
    settings: Settings,
) -> None:
    # Polling alone would do it too: here it is so rare that only events can.
    looping.environment["POLL_SECONDS"] = "3600"
    project, rounds = line.project, RoundStore(store)
    looping.run("score", project)
    port = free_port()
    with running(looping, "serve", "--port", port), running(looping, "worker"):
        connect(owner, looping, project, port)
        wait_until(lambda: _has_narrow_webhook(owner, project), "the narrow webhook")
        orders = [_order(looping, project)]
        for number in (1, 2, 3):
            expected = orders[-1][:14]
            assert line.label_all(annotators[number % 2], 14) == expected

            def is_over(number: int = number) -> bool:
                _none_failed(queue, project)
                return len(rounds.rounds(project)) == number and _is_served(store, project)

            wait_until(is_over, f"round {number}")
            orders.append(_order(looping, project))
        table, _ = looping.run("rounds", project)
    rows = rounds.rounds(project)
    figures = [row.judgement["new"]["map50"]["value"] for row in rows]
    # Each round is evaluated on more tasks than the last: the figures are not to be compared.
    assert min(figures) > 0.5, figures
    assert rows[0].promoted
    assert [row.labels + row.judged_on for row in rows] == [14, 28, 42]
    # After each promotion another order is served, of what is left.
    for before, after, row in zip(orders, orders[1:], rows, strict=False):
        left = [task for task in before if task in set(after)]
        assert len(left) == len(after) == len(before) - 14
        assert (left != after) or not row.promoted
    for row, figure in zip(rows, figures, strict=True):
        assert f"{figure:.3f}" in table
        assert f"{row.labels}" in table
    assert "12.5" in table  # seconds an answer
    assert (settings.data_dir / f"learning-curve-{project}.png").stat().st_size > 10_000
    with Studio.from_settings(settings) as studio:
        live = store.publication(project)
        assert live is not None
        assert studio.project(project).model_version == live.model_version


def _has_narrow_webhook(owner: Person, project: int) -> bool:
    hooks = owner.call("GET", f"/api/webhooks/?project={project}")
    return len(hooks) == 1 and not hooks[0]["send_for_all_actions"]


def _order(command: Command, project: int) -> list[int]:
    return [row["image_id"] for row in command.json("queue", project)["queue"]]


def _none_failed(queue: JobQueue, project: int) -> None:
    failed = queue.list(project, (FAILED,))
    assert not failed, failed[0].error


def _is_served(store: Store, project: int) -> bool:
    """Whether the live order is of the model that serves."""
    live, serving = store.publication(project), RoundStore(store).serving(project)
    return live is not None and (serving is None or live.detector == serving.detector)


def test_a_worker_may_be_killed_at_any_moment(
    looping: Command,
    line: Line,
    store: Store,
    queue: JobQueue,
    owner: Person,
    annotators: list[Person],
    web: WebServer,
    many_frames: list[Frame],
    settings: Settings,
) -> None:
    project = line.project
    looping.run("score", project)
    # New images come in, each so slowly that the worker is surely at it.
    rows = []
    for frame in generate(6, seed=9):
        name = f"late-{frame.name}.jpg"
        web.answers[f"/{name}"] = lambda h, body=frame.jpeg: (time.sleep(0.4), reply(h, 200, body))
        line.truth[name] = truth_of(frame)
        rows.append({"data": {"image": f"{web.url}/{name}"}})
    owner.call("POST", f"/api/projects/{project}/import", json=rows)

    def doing(kind: str, what: str, done: int) -> Callable[[], bool]:
        def is_at_it() -> bool:
            job = queue.latest(project, kind)
            return job is not None and job.doing == what and job.done >= done

        return is_at_it

    count = len(many_frames) + len(rows)
    kill_when(looping, doing("publish", "scoring", len(many_frames) + 1), "scoring")
    with running(looping, "worker"):
        wait_until(lambda: _ranked(store, project) == count, "an order of all images")
    line.label_all(annotators[0], 14)
    kill_when(looping, doing("train", "training", 15), "training")
    with Studio.from_settings(settings) as studio:
        live = studio.project(project).model_version

        def imported_and_not_switched() -> bool:
            versions = studio.model_versions(project)
            fresh = [name for name in versions if name > live]
            return bool(fresh) and versions[fresh[0]] == count - 14

        kill_when(looping, imported_and_not_switched, "between import and switch")
        assert studio.project(project).model_version == live
        with running(looping, "worker"):
            wait_until(lambda: _is_served(store, project), "the new model's order")
            wait_until(lambda: not queue.list(project, ("queued", "running")), "nothing is left")
        (row,) = RoundStore(store).rounds(project)
        assert row.promoted
        served = studio.project(project).model_version
        assert served > live
        # One prediction a task of the served order, and nothing of what was half done.
        assert sorted(p.task_id for p in studio.predictions_of(project, served)) == sorted(
            task.id for task in studio.tasks(project) if not task.is_labeled
        )
        # What was half imported is gone; only orders that were served stay, for a while.
        assert {name for name in studio.model_versions(project) if name > live} == {served}
    _none_failed(queue, project)
    assert [job.attempts for job in _jobs(queue, project, "train")] == [2]
    # An undisturbed training of the same answers ends in the very same weights.
    undisturbed = looping.json("train", project)
    assert undisturbed["version"].split("-")[1] == row.version.split("-")[1]


def kill_when(command: Command, happened: Callable[[], bool], what: str) -> None:
    """Run a worker, and kill -9 it at that moment."""
    worker = command.start("worker")
    try:
        wait_until(happened, what, pause=0.02)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    assert worker.returncode == -9, f"the worker was gone before it could be killed: {what}"


def _jobs(queue: JobQueue, project: int, kind: str) -> tuple[Job, ...]:
    return queue.list(project, kinds=(kind,))


def _ranked(store: Store, project: int) -> int:
    live = store.publication(project)
    return 0 if live is None else live.ranked


def test_the_queue_is_shown_without_loading_models(
    command: Command,
    environment: dict[str, str],
    make_project: Callable[..., tuple[int, list[int]]],
) -> None:
    project, _ = make_project()
    command.run("score", project)

    found = imported("queue", project, environment=environment)

    assert "label_studio_sdk" in found
    assert not found & SLOW
