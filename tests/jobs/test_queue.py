"""The table of jobs, on both databases a user may have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import update

from backend.errors import JobLost, QueueError
from backend.job_kinds import ASSIGN, AUTO_LABEL, PUBLISH, SCORE
from backend.store import tables
from backend.store.job_claims import Claim
from backend.store.job_owners import is_gone, new_owner
from backend.store.job_queue import JobQueue
from backend.store.jobs import Job, JobProgress, tail
from tests.jobs.conftest import Plant, locked


def claimed(queue: JobQueue, job: Job) -> Claim:
    claim = queue.claim(job.id)
    assert claim is not None
    return claim


def leave_behind(either: Plant, job: Job) -> None:
    """As a process does that is killed while it runs the job."""
    claimed(either.queue, job)
    script = "from backend.store.job_owners import new_owner; print(new_owner())"
    dead = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()
    with either.database.begin() as connection:
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job.id).values(owner=dead))


def test_an_empty_queue(queue: JobQueue) -> None:
    assert queue.list() == ()
    assert queue.latest(3, "publish") is None
    assert queue.recent_failures(3, "publish") == (0, None)
    assert queue.claim(1) is None
    assert queue.prune() == 0
    queue.sweep()
    for call in (queue.get, queue.cancel):
        with pytest.raises(QueueError, match="there is no job 7"):
            call(7)


def test_a_submitted_job_is_kept_and_due(either: Plant) -> None:
    job = either.queue.submit("publish", 3, {"strategy": "random"})
    assert (job.state, job.kind, job.project_id) == ("queued", "publish", 3)
    assert (job.payload, job.exclusive) == ({"strategy": "random"}, "3:order")
    assert job.created_at.tzinfo is not None
    assert either.queue.get(job.id) == job
    assert json.loads(json.dumps(job.as_json()))["created_at"] == job.created_at.isoformat()
    assert [claim.job.id for claim in either.queue.claim_due(9)] == [job.id]


def test_a_storm_of_the_same_request_makes_one_job(either: Plant) -> None:
    found: list[int] = []

    def ask() -> None:
        found.extend(either.queue.submit("train", 3).id for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(set(found)) == 1
    assert len(either.queue.list()) == 1
    assert either.queue.submit("train", 4).id not in found
    assert either.queue.submit("publish", 3).id not in found


def test_a_running_job_does_not_stand_for_a_new_one(queue: JobQueue) -> None:
    running = queue.submit("train", 3)
    claimed(queue, running)
    waiting = queue.submit("train", 3)
    assert waiting.id != running.id
    assert queue.submit("train", 3).id == waiting.id


def test_asking_again_can_only_make_it_due_earlier(queue: JobQueue) -> None:
    late = queue.submit("train", 3, {"wish": 1}, delay=60)
    assert queue.claim(late.id) is None
    assert queue.submit("train", 3, delay=600).due_at == late.due_at
    now = queue.submit("train", 3, {"wish": 2})
    assert now.id == late.id
    assert now.payload == {"wish": 1}
    assert claimed(queue, now).job.state == "running"


def test_a_job_is_claimed_once(either: Plant) -> None:
    jobs = [either.queue.submit("score", project) for project in range(10)]
    claims: list[Claim] = []

    def work() -> None:
        for job in jobs:
            claim = either.queue.claim(job.id)
            if claim is not None:
                claims.append(claim)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.job.id for claim in claims) == [job.id for job in jobs]


def test_an_exclusive_key_lets_one_run_and_its_end_the_next(either: Plant) -> None:
    queue = either.queue
    kinds = (SCORE, PUBLISH, ASSIGN, AUTO_LABEL)
    keys = [queue.submit(kind, 3).id for kind in kinds]
    claims: list[Claim] = []

    def work(job_id: int) -> None:
        claim = queue.claim(job_id)
        if claim is not None:
            claims.append(claim)

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 1
    assert {job.id for job in queue.list(states=["queued"])} == {*keys} - {claims[0].job.id}
    assert list(queue.claim_due(9)) == []
    claims[0].end("done", JobProgress())
    (after,) = queue.claim_due(9)
    assert after.job.id == min({*keys} - {claims[0].job.id})


def test_lists_are_newest_first(queue: JobQueue) -> None:
    jobs = [queue.submit("score", project) for project in (1, 2, 3)]
    claimed(queue, jobs[0])
    assert [job.project_id for job in queue.list()] == [3, 2, 1]
    assert [job.project_id for job in queue.list(limit=1)] == [3]
    assert [job.project_id for job in queue.list(2)] == [2]
    assert [job.project_id for job in queue.list(states=["running", "done"])] == [1]
    assert queue.latest(2, "score") == queue.get(jobs[1].id)


def test_failures_are_counted_since_the_last_success(queue: JobQueue) -> None:
    for state in ("failed", "done", "failed", "cancelled", "failed"):
        claimed(queue, queue.submit("train", 3)).end(state, JobProgress())
    claimed(queue, queue.submit("train", 4)).end("failed", JobProgress())
    count, last = queue.recent_failures(3, "train")
    assert count == 2
    assert last == queue.list(3, ["failed"])[0].finished_at


def test_cancelling(queue: JobQueue) -> None:
    queued, running = queue.submit("a", 3), queue.submit("b", 3)
    claim = claimed(queue, running)
    assert queue.cancel(queued.id).state == "cancelled"
    asked = queue.cancel(running.id)
    assert (asked.state, asked.cancel_requested) == ("running", True)
    assert claim.report(JobProgress()) is True
    claim.end("done", JobProgress(), result='{"kept": 1}')
    assert queue.cancel(running.id) == queue.get(running.id)
    assert (queue.get(running.id).state, queue.get(running.id).result) == ("done", {"kept": 1})


def test_a_job_that_is_cancelled_while_it_is_given_back_is_not_queued_again(
    queue: JobQueue,
) -> None:
    job = queue.submit("a", 3)
    claim = claimed(queue, job)
    queue.cancel(job.id)
    claim.give_back(JobProgress())
    assert queue.get(job.id).state == "cancelled"


def test_an_interrupted_job_keeps_its_notes_and_goes_first(queue: JobQueue) -> None:
    job = queue.submit("publish", 3)
    claim = claimed(queue, job)
    claim.note({"version": "hf-1"})
    newer = queue.submit("publish", 3)
    claim.give_back(JobProgress(log=("half way",)))
    back = queue.get(job.id)
    assert (back.state, back.attempts, back.log) == ("queued", 0, ("half way",))
    assert queue.claim(newer.id) is None
    again = claimed(queue, job)
    assert again.job.notes == {"version": "hf-1"}
    again.end("done", JobProgress())
    assert queue.claim(newer.id) is not None


def test_a_job_of_a_dead_process_goes_back_at_once(either: Plant) -> None:
    alive, dead = either.queue.submit("a", 3), either.queue.submit("b", 3)
    claimed(either.queue, alive)
    leave_behind(either, dead)
    either.queue.sweep()
    assert either.queue.get(alive.id).state == "running"
    assert either.queue.get(dead.id).state == "queued"
    (again,) = either.queue.claim_due(9)
    assert (again.job.id, again.job.attempts) == (dead.id, 2)


def test_the_third_dead_process_fails_the_job(either: Plant) -> None:
    job = either.queue.submit("a", 3)
    for _ in range(3):
        leave_behind(either, job)
        either.queue.sweep()
    failed = either.queue.get(job.id)
    assert failed.state == "failed"
    assert "killed or lost 3 times" in failed.error
    assert failed.finished_at is not None


def test_a_store_that_took_no_writes_for_a_while_costs_no_job(
    either: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("backend.store.job_sweeping.time.monotonic", lambda: now[0])
    sweeper = JobQueue(either.database, lease_seconds=30)
    job = either.queue.submit("a", 3)
    claim = claimed(either.queue, job)
    sweeper.sweep()
    now[0] += 36  # the sweep waited as long as the heartbeats did, and comes first
    sweeper.sweep()
    now[0] += 2
    claim.report(JobProgress())
    sweeper.sweep()
    assert either.queue.get(job.id).state == "running"
    for _ in range(16):
        now[0] += 2
        sweeper.sweep()
    assert either.queue.get(job.id).state == "queued"


def test_a_sweep_waits_as_long_as_heartbeats_do(plant: Plant) -> None:
    """Otherwise it sees no heartbeat and takes back the jobs of the living."""
    plant.queue.submit("a", 3)
    swept = threading.Event()
    sweep = threading.Thread(target=lambda: (plant.queue.sweep(), swept.set()))
    with locked(plant):
        sweep.start()
        assert not swept.wait(0.5)
    sweep.join()
    assert swept.is_set()


def test_a_process_elsewhere_is_gone_when_its_heart_stops(either: Plant) -> None:
    sweeper = JobQueue(either.database, lease_seconds=0.3)
    beating, silent = either.queue.submit("a", 3), either.queue.submit("b", 3)
    claims = [claimed(either.queue, job) for job in (beating, silent)]
    with either.database.begin() as connection:
        # Its clock is an hour behind; only whether it moves counts.
        hour_ago = datetime.now(timezone.utc) - timedelta(hours=1)
        connection.execute(update(tables.jobs).values(heartbeat_at=hour_ago))
    for _ in range(10):
        sweeper.sweep()
        claims[0].report(JobProgress())
        time.sleep(0.05)
    assert either.queue.get(beating.id).state == "running"
    assert either.queue.get(silent.id).state == "queued"
    successor = claimed(either.queue, silent)
    for write in (
        lambda: claims[1].note({"version": "hf-2"}),
        lambda: claims[1].end("done", JobProgress()),
    ):
        with pytest.raises(JobLost):
            write()
    successor.note({"version": "hf-3"})
    assert either.queue.get(silent.id).notes == {"version": "hf-3"}


def test_what_is_due_is_claimed_the_oldest_first_and_no_more_than_asked_for(
    queue: JobQueue,
) -> None:
    due = [queue.submit("a", project).id for project in range(4)]
    queue.submit("b", 3, delay=60)
    assert list(queue.claim_due(0)) == []
    assert [claim.job.id for claim in queue.claim_due(3)] == due[:3]
    assert [claim.job.id for claim in queue.claim_due(3)] == due[3:]


def test_only_old_finished_jobs_are_forgotten_and_no_id_comes_back(either: Plant) -> None:
    kept, waiting, old = (either.queue.submit(kind, 3) for kind in ("a", "b", "c"))
    for job in (kept, old):
        claimed(either.queue, job).end("done", JobProgress())
    with either.database.begin() as connection:
        long_ago = datetime.now(timezone.utc) - timedelta(days=31)
        connection.execute(
            update(tables.jobs).where(tables.jobs.c.id == old.id).values(finished_at=long_ago)
        )
    assert either.queue.prune(keep_days=30) == 1
    assert [job.id for job in either.queue.list()] == [waiting.id, kept.id]
    assert either.queue.submit("c", 3).id > old.id


def test_the_seconds_left_follow_the_rate_of_the_phase(queue: JobQueue) -> None:
    job = queue.submit("a", 3)
    assert job.seconds_left is None
    claim = claimed(queue, job)
    began = datetime.now(timezone.utc) - timedelta(seconds=10)
    claim.report(JobProgress("scoring", 50, 100, began, 50))
    assert queue.get(job.id).seconds_left is None
    claim.report(JobProgress("scoring", 60, 100, began, 50))
    assert queue.get(job.id).seconds_left == pytest.approx(40, rel=0.2)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([], []),
        (["a"], ["a"]),
        ([str(n) for n in range(200)], [str(n) for n in range(150, 200)]),
        (["x" * 400] * 30, ["x" * 400] * 19),
        (["two\r\nlines\0"], ["two lines"]),
        (["é" * 400], ["é" * 250]),
        (["\udc80 from a process"], ["? from a process"]),
    ],
)
def test_a_log_keeps_its_bounded_tail(lines: list[str], kept: list[str]) -> None:
    assert list(tail(lines)) == kept


def test_a_process_is_told_from_another_with_its_number() -> None:
    owner = new_owner()
    assert len(owner) <= 120
    assert not is_gone(owner)
    machine, pid, start, part = owner.split(" ")
    assert int(pid) == os.getpid()
    assert is_gone(" ".join([machine, pid, str(int(start) - 1), part]))
    assert not is_gone(" ".join(["elsewhere/1", pid, "1", part]))


def test_a_zombie_is_gone() -> None:
    script = (
        "from backend.store.job_owners import new_owner; print(new_owner(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        assert not is_gone(owner)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(owner)
