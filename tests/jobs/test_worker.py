"""Real workers, killed and stopped: no job is lost, and no effect doubled."""

from __future__ import annotations

import subprocess

from backend.job_kinds import ASSIGN, AUTO_LABEL, PUBLISH, SCORE, TRAIN
from backend.store.jobs import Job
from tests.jobs.conftest import Plant, eventually, killed, locked, stopped


def submitted(plant: Plant, kind: str = "effect") -> Job:
    return plant.queue.submit(kind, 3)


def begun(plant: Plant, kind: str = "effect") -> tuple[Job, subprocess.Popen[str]]:
    """A job that holds in a worker, after its effect was noted."""
    plant.hold.touch()
    job = submitted(plant, kind)
    worker = plant.start_worker()
    eventually(lambda: plant.queue.get(job.id).doing == "waiting", f"{job} waits")
    return job, worker


def killed_and_finished_by_another(plant: Plant) -> None:
    job, worker = begun(plant)
    killed(worker)
    plant.hold.unlink()
    plant.start_worker()
    done = plant.wait_for(job, "done")
    assert plant.effects == [f"effect {job.id}"]
    assert done.result == {"attempts": 2}


def test_a_killed_worker_loses_no_job_and_doubles_no_effect(plant: Plant) -> None:
    killed_and_finished_by_another(plant)


def test_a_killed_worker_of_a_large_plant(large_plant: Plant) -> None:
    killed_and_finished_by_another(large_plant)


def test_a_worker_runs_no_more_jobs_than_it_has_threads(plant: Plant) -> None:
    plant.hold.touch()
    jobs = [plant.queue.submit("effect", project) for project in range(6)]
    plant.start_worker()
    eventually(lambda: len(plant.effects) == 4, "four run")
    assert [job.id for job in plant.queue.list(states=["queued"])] == [jobs[5].id, jobs[4].id]
    plant.hold.unlink()
    for job in jobs:
        plant.wait_for(job, "done")


def test_several_workers_of_a_large_plant_share_the_jobs(large_plant: Plant) -> None:
    jobs = [large_plant.queue.submit("effect", project) for project in range(20)]
    for _ in range(2):
        large_plant.start_worker()
    for job in jobs:
        large_plant.wait_for(job, "done")
    assert sorted(large_plant.effects) == sorted(f"effect {job.id}" for job in jobs)


def test_jobs_that_change_one_order_never_overlap(plant: Plant) -> None:
    kinds = (SCORE, PUBLISH, ASSIGN, AUTO_LABEL)
    jobs = [plant.queue.submit(kind, 3, {"seconds": 0.1}) for kind in kinds]
    for _ in range(2):
        plant.start_worker()
    for job in jobs:
        plant.wait_for(job, "done")
    begins, ends = plant.effects[::2], plant.effects[1::2]
    assert len(begins) == 4
    assert [line.replace("begin", "end") for line in begins] == ends


def test_jobs_of_different_keys_overlap(plant: Plant) -> None:
    for kind in (TRAIN, PUBLISH):
        plant.queue.submit(kind, 3, {"seconds": 60})
    plant.start_worker()
    eventually(lambda: len(plant.effects) == 2, "both run at the same time")
    assert sorted(plant.effects) == ["begin publish", "begin train"]
    (plant.folder / "let-go").touch()
    eventually(lambda: len(plant.effects) == 4, "both end")


def test_a_delayed_job_runs_when_it_is_due(plant: Plant) -> None:
    plant.start_worker()
    job = plant.queue.submit("effect", 3, delay=0.5)
    done = plant.wait_for(job, "done")
    assert done.started_at is not None
    assert done.started_at >= job.due_at


def test_a_running_job_is_cancelled(plant: Plant) -> None:
    job, _ = begun(plant)
    plant.queue.cancel(job.id)
    plant.wait_for(job, "cancelled")
    plant.hold.unlink()
    after = submitted(plant)
    plant.wait_for(after, "done")


def test_a_stopped_worker_gives_its_job_back(plant: Plant) -> None:
    job, worker = begun(plant)
    assert stopped(worker) == 0
    back = plant.queue.get(job.id)
    assert (back.state, back.attempts, back.notes) == ("queued", 0, {"written": True})
    plant.hold.unlink()
    plant.start_worker()
    assert plant.wait_for(job, "done").result == {"attempts": 1}
    assert plant.effects == [f"effect {job.id}"]


def test_a_worker_with_a_deaf_handler_ends_all_the_same(plant: Plant) -> None:
    plant.hold.touch()
    job = submitted(plant, "deaf")
    worker = plant.start_worker()
    eventually(lambda: plant.effects == ["deaf"], "it runs")
    assert stopped(worker) == 1
    plant.queue.sweep()
    back = plant.queue.get(job.id)
    assert (back.state, back.attempts) == ("queued", 0)


def test_a_worker_ends_though_the_store_hangs(plant: Plant) -> None:
    job, worker = begun(plant)
    with locked(plant):
        assert stopped(worker) == 1
    plant.hold.unlink()
    plant.start_worker()
    plant.wait_for(job, "done")
    assert plant.effects == [f"effect {job.id}"]


def test_a_job_that_kills_its_worker_fails_the_third_time(plant: Plant) -> None:
    job = submitted(plant, "crash")
    for _ in range(3):
        plant.start_worker().wait(timeout=60)
    plant.queue.sweep()
    failed = plant.queue.get(job.id)
    assert failed.state == "failed"
    assert "killed or lost 3 times" in failed.error
    assert plant.effects == ["crash"] * 3


def test_a_worker_finishes_a_foreground_run_that_died(plant: Plant) -> None:
    plant.hold.touch()
    foreground = plant.start_foreground("effect")
    eventually(
        lambda: [job.doing for job in plant.queue.list()] == ["waiting"], "the foreground run waits"
    )
    job = plant.queue.list()[0]
    second = plant.start_foreground("effect")
    _, said = second.communicate(timeout=60)
    assert f"job {job.id} (effect) is running for project 3 right now" in said
    killed(foreground)
    plant.hold.unlink()
    plant.start_worker()
    plant.wait_for(job, "done")
    assert plant.effects == [f"effect {job.id}"]


def test_the_worker_ticks(plant: Plant) -> None:
    worker = plant.start_worker()
    eventually((plant.folder / "ticked").exists, "on_tick was called")
    assert stopped(worker) == 0
    assert worker.stderr is not None
    assert worker.stderr.read() == ""
