"""What the worker looks after, and what it leaves alone, on the real Label Studio."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from backend.assembly import build_worker_context
from backend.job_kinds import POLL, TRAIN
from backend.jobs.runner import run_now
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.job_queue import JobQueue
from backend.store.jobs import JobProgress
from demo.scene import Frame
from tests.label_studio.conftest import WebServer
from tests.loop.conftest import Command, running, wait_until
from tests.loop.test_learning import region
from tests.person import Person

MakeProject = Callable[..., tuple[int, list[int]]]

# Minutes where the machine is busy: each worker is a process of its own.
pytestmark = pytest.mark.timeout(600)


def test_the_worker_begins_no_training_that_could_not_be_evaluated(
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
    queue = JobQueue(store)
    held_out = sorted(AnnotationStore(store).held_out(project))

    def label(task: int) -> None:
        boxes = [region(frame_of[task], place) for place in range(len(frame_of[task].xyxy))]
        owner.call("POST", f"/api/tasks/{task}/annotations/", json={"result": boxes})

    for task in [*held_out[:4], *[task for task in task_ids if task not in held_out][:2]]:
        label(task)
    with running(command, "worker"):
        wait_until(
            lambda: any(job.result.get("waits") for job in queue.list(project, kinds=(POLL,))),
            "a look that says what is missing",
        )
        (waits,) = {w for job in queue.list(project) if (w := job.result.get("waits"))}
        assert "4 images of the hold-out" in waits
        assert "label more images" in waits
        assert not queue.list(project, kinds=(TRAIN,))
        label(held_out[4])
        wait_until(lambda: bool(queue.list(project, kinds=(TRAIN,))), "the training")
        queue.cancel(queue.list(project, kinds=(TRAIN,))[0].id)
    store.close()


def test_a_deleted_project_is_left_alone_and_forgotten(
    command: Command,
    settings: Settings,
    make_project: MakeProject,
    frames: list[Frame],
    owner: Person,
    web: WebServer,
) -> None:
    command.environment.update(POLL_SECONDS="5", TRAIN_AFTER="0")
    few = {f"{frame.name}.jpg": frame.jpeg for frame in frames[:3]}
    kept, kept_tasks = make_project(few)
    gone, gone_tasks = make_project(few)
    for project in (kept, gone):
        command.run("score", project)
    owner.call("POST", f"/api/tasks/{gone_tasks[0]}/annotations/", json={"result": []})
    owner.call("POST", f"/api/tasks/{kept_tasks[0]}/annotations/", json={"result": []})
    store = command.store
    queue = JobQueue(store)
    worker = command.start("worker")
    try:
        for project in (kept, gone):
            wait_until(
                lambda project=project: bool(AnnotationStore(store).answered_tasks(project)),
                "the answers are read",
            )
        owner.call("DELETE", f"/api/projects/{gone}/")
        later = datetime.now(timezone.utc) + timedelta(days=1)
        wait_until(lambda: gone not in AnnotationStore(store).due(later), "it is left alone")
        looks = len(queue.list(gone, kinds=(POLL,)))
        before = len(queue.list(kept, kinds=(POLL,)))
        wait_until(lambda: len(queue.list(kept, kinds=(POLL,))) >= before + 3, "more looks")
        assert len(queue.list(gone, kinds=(POLL,))) == looks
        held = queue.submit("train", gone)
        wait_until(lambda: queue.get(held.id).state == "failed", "the worker is not at it")
    finally:
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=60)
    # A MODEL that is not the worker's is announced.
    output, errors = command.run("queue", kept)
    assert "MODEL" not in errors
    command.environment["MODEL"] = "missing.pt"
    _, errors = command.run("queue", kept)
    output, _ = command.run("doctor", kept, status=1)
    for said in (errors, output):
        assert (
            "worker was last started with MODEL=detector.pt, and this command with MODEL=missing.pt"
            in said
        )
    # Said once; and that there was no news, not at all.
    (said,) = [line for line in log.splitlines() if "no longer polled" in line]
    assert f"backend forget {gone}" in said
    assert not [line for line in log.splitlines() if "(poll): done" in line and '"read": 0' in line]

    answers = AnnotationStore(store)
    live = store.publication(gone)
    assert live is not None
    cached = list((settings.data_dir / "images").glob("*/*"))
    (settings.trained_dir / str(gone)).mkdir(parents=True)
    _, errors = command.run("forget", gone, status=1)  # nobody is there to say yes
    assert "--yes" in errors
    assert store.publication(gone) is not None
    claim = queue.claim_now("train", gone)
    _, errors = command.run("forget", gone, "--yes", status=1)
    assert f"--cancel {claim.job.id}" in errors
    assert store.publication(gone) is not None
    claim.end("cancelled", JobProgress())
    output, _ = command.run("forget", gone, "--yes")
    assert f"project {gone} is forgotten" in output
    output, _ = command.run("forget", gone, "--yes")
    assert "nothing is stored" in output
    assert store.publication(gone) is None
    assert store.ranks(live.model_version) == []
    assert answers.by_task(gone) == {}
    assert queue.list(gone) == ()
    assert not (settings.trained_dir / str(gone)).exists()
    assert len(cached) > len(list((settings.data_dir / "images").glob("*/*")))
    # The other project, with the same pictures, is as it was.
    other = store.publication(kept)
    assert other is not None
    scored = store.scored_tasks(kept, other.detector, kept_tasks)
    hashes = [task.image_hash for task in scored.values()]
    assert store.embedded(other.encoder, "image", hashes) == set(hashes)
    assert set(answers.by_task(kept)) == {kept_tasks[0]}
    store.close()


def test_a_look_reads_only_what_changed(
    settings: Settings, make_project: MakeProject, owner: Person, web: WebServer
) -> None:
    project, _ = make_project({"a.jpg": b""})
    rows = [
        {"data": {"image": f"{web.url}/a.jpg"}, "annotations": [{"result": []}]} for _ in range(12)
    ]
    owner.call("POST", f"/api/projects/{project}/import", json=rows)
    listed = owner.call("GET", f"/api/tasks/?project={project}&fields=task_only&page_size=100")
    with build_worker_context(settings) as worker_context:

        def read() -> int:
            job = run_now(worker_context.queue, POLL, project, None, worker_context.handlers())
            assert job.error == ""
            return int(job.result["read"])

        assert read() == 13
        # A change becomes visible a little after its moment: looks that are as far apart as the
        # worker's read it again once, and then no more.
        wait_until(lambda: read() == 0, "nothing is read again", seconds=60, pause=5.1)
        assert len(AnnotationStore(worker_context.store).by_task(project)) == 12
        task = listed["tasks"][0]["id"]
        owner.call("POST", f"/api/tasks/{task}/annotations/", json={"result": []})
        assert read() == 1
