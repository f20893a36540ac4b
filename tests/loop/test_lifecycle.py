"""What the worker looks after, and what it leaves alone, on the real Label Studio."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.jobs.assembly import open_queue
from backend.jobs.kinds import POLL, TRAIN
from backend.loop.answer_store import AnswerStore
from backend.settings import Settings
from demo.scene import Frame
from tests.label_studio.conftest import Person
from tests.loop.conftest import Command, running, wait_until
from tests.loop.test_learning import region

MakeProject = Callable[..., tuple[int, list[int]]]

# Minutes where the machine is busy: each worker is a process of its own.
pytestmark = pytest.mark.timeout(600)


def test_the_worker_begins_no_training_that_could_not_be_judged(
    command: Command,
    settings: Settings,
    make_project: MakeProject,
    frames: list[Frame],
    owner: Person,
) -> None:
    command.environment.update(VALIDATION_SHARE="0.5", TRAIN_AFTER="3", POLL_SECONDS="5")
    project, task_ids = make_project()
    frame_of = dict(zip(task_ids, frames, strict=True))
    command.run("score", project)
    store = command.store
    queue = open_queue(settings, store)
    judges = sorted(AnswerStore(store).held_out(project))

    def label(task: int) -> None:
        boxes = [region(frame_of[task], place) for place in range(len(frame_of[task].xyxy))]
        owner.call("POST", f"/api/tasks/{task}/annotations/", json={"result": boxes})

    for task in [*judges[:4], *[task for task in task_ids if task not in judges][:2]]:
        label(task)
    with running(command, "worker"):
        wait_until(
            lambda: any(job.result.get("waits") for job in queue.list(project, kinds=(POLL,))),
            "a look that says what is missing",
        )
        (waits,) = {w for job in queue.list(project) if (w := job.result.get("waits"))}
        assert "4 images of the random share" in waits
        assert "label more images" in waits
        assert not queue.list(project, kinds=(TRAIN,))
        label(judges[4])
        wait_until(lambda: bool(queue.list(project, kinds=(TRAIN,))), "the training")
        queue.cancel(queue.list(project, kinds=(TRAIN,))[0].id)
    store.close()
