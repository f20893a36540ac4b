"""Plays rounds of the loop: a simulated annotator answers, and the worker does the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend.store.job_queue import JobQueue
from backend.store.jobs import FAILED, RUNNING
from backend.store.rounds import RoundStore
from backend.store.scores import Store
from backend.verbs.console import errors, note
from demo.annotator import answer, read_truth
from demo.project import call, client_of
from demo.servers import log_of
from demo.stage import DATA, DemoError, Scenario
from demo.studio_server import StudioServer

ANSWERS_A_ROUND = 40
ROUND_MINUTES = 20.0
SETTINGS = {
    "TRAIN_AFTER": str(ANSWERS_A_ROUND),
    # The pool is small: with the usual share, the first model could hardly be evaluated.
    "VALIDATION_SHARE": "0.25",
    "POLL_SECONDS": "10",
}
"""What the demo sets so that a round is over in minutes."""


def play(studio: StudioServer, scenario: Scenario, project_id: int, rounds: int) -> None:
    """Play rounds, and wait each time until the retrained model's order is served.

    Raises:
        DemoError: there is no ground truth, a job failed, or a round took too long.
    """
    for file in scenario.images:
        if not _label_file(file).is_file():
            raise DemoError(
                f"{_label_file(file)} is not there: ROUNDS needs ground truth, as YOLO labels in a "
                "folder `labels` beside `images`"
            )
    store = Store(f"sqlite:///{(DATA / 'store.sqlite3').absolute()}")
    queue = JobQueue(store)
    person = studio.add_user("simulated@example.com")
    try:
        for number in range(1, rounds + 1):
            with client_of(studio, person) as client:
                _answer_some(client, scenario, project_id, number)
            _wait_for_round(store, queue, project_id, number)
    finally:
        store.close()


def _label_file(image: Path) -> Path:
    return image.parent.parent / "labels" / f"{image.stem}.txt"


def _answer_some(client: Any, scenario: Scenario, project_id: int, number: int) -> None:
    """Press Label All Tasks and answer, as often as a training needs."""
    truth_of = {file.name: _label_file(file) for file in scenario.images}
    size_of = {file.name: _size(file) for file in scenario.images}
    with _bars() as bars:
        bar = bars.add_task(f"round {number}: labelling", total=ANSWERS_A_ROUND)
        for _ in range(ANSWERS_A_ROUND):
            task = call(client, "GET", f"/api/projects/{project_id}/next")
            # Label Studio puts eight digits and a dash before an upload's name.
            name = task["data"]["image"].rsplit("/", 1)[-1].split("-", 1)[-1]
            shown = task["predictions"][0] if task["predictions"] else {"result": [], "id": None}
            truth = read_truth(truth_of[name].read_text(), scenario.labels)
            body = {
                "result": answer(shown["result"], truth, size_of[name]),
                "parent_prediction": shown["id"],
            }
            call(client, "POST", f"/api/tasks/{task['id']}/annotations/", json=body)
            bars.advance(bar)


def _size(file: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(file) as image:
        return image.size


def _wait_for_round(store: Store, queue: JobQueue, project_id: int, number: int) -> None:
    """Show what the worker does until the round is evaluated and its order is published."""
    deadline = time.monotonic() + 60 * ROUND_MINUTES
    with _bars() as bars:
        bar = bars.add_task(f"round {number}: waiting for the worker", total=None)
        while not _is_over(store, project_id, number):
            for job in queue.list(project_id, (FAILED, RUNNING), limit=5):
                if job.state == FAILED:
                    raise DemoError(f"{job} failed: {job.error}")
                doing = f"round {number}: {job.doing or job.kind}"
                bars.update(bar, description=doing, completed=job.done, total=job.total or None)
            if time.monotonic() > deadline:
                raise DemoError(f"round {number} is not over yet; see {log_of('worker')}")
            time.sleep(0.5)
    row = RoundStore(store).rounds(project_id)[-1]
    note(f"round {number}: {'promoted' if row.promoted else 'not promoted'}: {row.reason}")


def _is_over(store: Store, project_id: int, number: int) -> bool:
    rows = RoundStore(store).rounds(project_id)
    if len(rows) < number:
        return False
    live = store.publication(project_id)
    return not rows[-1].promoted or (live is not None and live.detector == rows[-1].detector)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
    )
