"""What a handler is given, and what becomes of its job: foreground runs in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from backend.errors import HardestFirstError, QueueError
from backend.jobs.context import JobContext
from backend.jobs.runner import Handler, run_now
from backend.store.job_queue import JobQueue
from backend.store.jobs import Job, JobProgress
from tests.jobs.conftest import Plant, eventually


@pytest.fixture
def queue(plant: Plant) -> JobQueue:
    return plant.queue


def run(queue: JobQueue, handler: Handler, payload: Mapping[str, Any] | None = None) -> Job:
    return run_now(queue, "publish", 3, payload, {"publish": handler})


def test_a_foreground_run_returns_the_finished_job(queue: JobQueue) -> None:
    reported: list[tuple[str, int, int]] = []

    def handler(context: JobContext) -> Mapping[str, Any]:
        assert queue.get(context.job.id).state == "running"
        context.progress("scoring", 1, 2)
        context.log("one scored")
        context.progress("scoring", 2, 2)
        return {"scored": 2}

    job = run_now(
        queue,
        "publish",
        3,
        {"limit": 5},
        {"publish": handler},
        on_progress=lambda *step: reported.append(step),
    )
    assert (job.state, job.result, job.payload) == ("done", {"scored": 2}, {"limit": 5})
    assert (job.doing, job.done, job.total, job.log) == ("scoring", 2, 2, ("one scored",))
    assert reported == [("scoring", 1, 2), ("scoring", 2, 2)]
    assert job.started_at is not None
    assert job.finished_at is not None
    assert queue.get(job.id) == job


def test_a_handler_without_result(queue: JobQueue) -> None:
    job = run(queue, lambda context: None)
    assert (job.state, job.result) == ("done", {})


def _refuse(_: JobContext) -> None:
    raise HardestFirstError("the project has no rectangles:\nadd a RectangleLabels tag")


def _break(_: JobContext) -> None:
    raise ZeroDivisionError("secret detail")


def _exit(_: JobContext) -> None:
    raise SystemExit(3)


def _end_as_a_coroutine(_: JobContext) -> None:
    raise asyncio.CancelledError


def _return_what_json_cannot_take(_: JobContext) -> Mapping[str, Any]:
    return {"path": object()}


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (_refuse, "the project has no rectangles: add a RectangleLabels tag"),
        (_break, "unexpected ZeroDivisionError; the worker's log holds the details"),
        (_exit, "unexpected SystemExit; the worker's log holds the details"),
        (
            _end_as_a_coroutine,
            "unexpected CancelledError; the worker's log holds the details",
        ),
        (
            _return_what_json_cannot_take,
            "unexpected TypeError; the worker's log holds the details",
        ),
    ],
)
def test_a_failed_job_says_why_in_one_line(queue: JobQueue, handler: Handler, error: str) -> None:
    job = run(queue, handler)
    assert (job.state, job.error) == ("failed", error)
    assert queue.recent_failures(3, "publish") == (1, job.finished_at)


def test_the_details_of_a_surprise_are_in_the_log(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    run(queue, _break)
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_a_kind_without_handler_fails(queue: JobQueue) -> None:
    job = run_now(queue, "publish", 3, {}, {})
    assert (job.state, "of the kind publish" in job.error) == ("failed", True)


def test_progress_and_log_reach_the_table_while_the_job_runs(queue: JobQueue) -> None:
    def handler(context: JobContext) -> None:
        context.progress("training", 0, 100)
        assert queue.get(context.job.id).doing == "training"
        for step in range(1, 40):
            context.progress("training", step, 100)
            context.log(f"step {step} " + "x" * 400)
        eventually(lambda: queue.get(context.job.id).done == 39, "the steps are in the table")
        seen = queue.get(context.job.id)
        assert seen.seconds_left is not None
        assert seen.seconds_left > 0
        assert seen.log[-1].startswith("step 39 ")
        assert sum(len(line) + 1 for line in seen.log) <= 8000

    assert run(queue, handler).error == ""


def test_notes_are_there_at_once(queue: JobQueue) -> None:
    def handler(context: JobContext) -> None:
        context.note(version="hf-1")
        context.note(imported=7)
        assert queue.get(context.job.id).notes == {"version": "hf-1", "imported": 7}
        assert context.notes == {"version": "hf-1", "imported": 7}

    assert run(queue, handler).state == "done"


def _in_progress(context: JobContext) -> None:
    context.progress("x", 1, 3)


def _in_check(context: JobContext) -> None:
    context.check()


@pytest.mark.parametrize("step", [_in_progress, _in_check])
def test_a_cancel_stops_a_handler_that_shrugs_off_errors(
    queue: JobQueue, step: Callable[[JobContext], None]
) -> None:
    def handler(context: JobContext) -> None:
        queue.cancel(context.job.id)
        for _ in range(3000):
            try:
                step(context)
                threading.Event().wait(0.01)
            except Exception:
                raise AssertionError("a cancel is no error") from None

    job = run(queue, handler)
    assert job.state == "cancelled"
    assert job.finished_at is not None


def test_ctrl_c_cancels_a_foreground_run(queue: JobQueue) -> None:
    def handler(context: JobContext) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(queue, handler)
    assert [job.state for job in queue.list()] == ["cancelled"]


def test_a_foreground_run_refuses_beside_a_running_job(queue: JobQueue) -> None:
    other = queue.submit("publish", 3)
    assert queue.claim(other.id) is not None
    with pytest.raises(QueueError) as raised:
        run(queue, lambda context: None)
    assert str(raised.value) == (
        f"job {other.id} (publish) is running for project 3 right now: wait for it, "
        f"or stop it with `python -m backend jobs --cancel {other.id}`"
    )
    assert run_now(queue, "publish", 4, {}, {"publish": lambda context: None}).state == "done"


def test_a_foreground_run_takes_a_waiting_job_over(queue: JobQueue) -> None:
    waiting = queue.submit("publish", 3, {"strategy": "random"}, delay=60)
    job = run(queue, lambda context: dict(context.job.payload), {"strategy": "entropy"})
    assert job.id == waiting.id
    assert (job.state, job.result) == ("done", {"strategy": "entropy"})
    assert len(queue.list()) == 1


@pytest.mark.parametrize(
    ("asked", "notes"), [({"limit": 5}, {"version": "hf-1"}), ({"limit": 6}, {})]
)
def test_notes_of_an_interrupted_job_stay_with_the_same_wish(
    queue: JobQueue, asked: Mapping[str, Any], notes: Mapping[str, Any]
) -> None:
    claim = queue.claim(queue.submit("publish", 3, {"limit": 5}).id)
    assert claim is not None
    claim.note({"version": "hf-1"})
    claim.give_back(JobProgress())
    newer = queue.submit("publish", 3)
    job = run(queue, lambda context: dict(context.notes), asked)
    assert (job.id, job.result) == (claim.job.id, notes)
    assert queue.get(newer.id).state == "queued"


def test_an_interrupted_job_of_another_kind_is_finished_first(queue: JobQueue) -> None:
    claim = queue.claim(queue.submit("auto-label", 3).id)
    assert claim is not None
    claim.give_back(JobProgress())
    handlers: Mapping[str, Handler] = {"publish": lambda context: None}
    with pytest.raises(QueueError, match=r"\(auto-label\) of project 3 was interrupted"):
        run_now(queue, "publish", 3, {}, handlers)
    queue.cancel(claim.job.id)
    assert run_now(queue, "publish", 3, {}, handlers).state == "done"
