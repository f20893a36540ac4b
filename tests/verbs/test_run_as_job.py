"""What a command says of the job it runs, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend.errors import HardestFirstError, JobFailedError, QueueError
from backend.job_kinds import PUBLISH
from backend.jobs.handlers import WorkerContext
from backend.jobs.runner import Handler
from backend.store.job_queue import JobQueue
from backend.store.scores import Store
from backend.verbs import learning
from backend.verbs.jobs import run_as_job


@dataclass(frozen=True)
class Failing(WorkerContext):
    """Every job fails."""

    def handlers(self) -> dict[str, Handler]:
        def fail(_: Any) -> None:
            raise HardestFirstError("the label config has no rectangles")

        return {PUBLISH: fail}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Failing]:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    nothing: Any = None
    yield Failing(nothing, nothing, store, nothing, JobQueue(store))
    store.close()


def test_a_job_that_failed_is_an_error_and_is_not_asked_for_again(context: Failing) -> None:
    with pytest.raises(JobFailedError, match="the label config has no rectangles"):
        learning._rerank(context, 7)
    assert [job.state for job in context.queue.list(7)] == ["failed"]


def test_a_job_that_is_blocked_is_left_to_the_worker(
    context: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    context.queue.claim_now(PUBLISH, 7)
    with pytest.raises(QueueError):
        run_as_job(context, PUBLISH, 7)
    learning._rerank(context, 7)
    assert [job.state for job in context.queue.list(7)] == ["queued", "running"]
    assert "the queue is re-ranked later" in capsys.readouterr().err
