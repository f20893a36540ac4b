"""`worker`, `jobs` and `forget`, and how other verbs run their work as jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.errors import JobFailedError, SettingsError
from backend.job_kinds import KINDS, POLL
from backend.verbs.console import (
    Json,
    ProjectId,
    note,
    output,
    progress_bars,
    say,
    service_settings,
    settings_with,
    table,
)

if TYPE_CHECKING:
    from backend.jobs.handlers import WorkerContext
    from backend.publishing.live_queue import OrderReport
    from backend.store.jobs import Job


def worker() -> None:
    """Run the loop: read answers, train, evaluate, rank again. Runs until it is stopped."""
    from backend.worker_process import work

    work(service_settings())


def jobs(
    project_id: Annotated[
        int | None, typer.Argument(help="The number in the project's address.", min=1)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show the looks for news, every minute, too.")
    ] = False,
    cancel: Annotated[int | None, typer.Option(help="Stop this job.", min=1)] = None,
    log: Annotated[int | None, typer.Option(help="Show the log of this job.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Show running, waiting and failed jobs, or cancel one."""
    from backend.store.database import Database
    from backend.store.jobs import QUEUED, RUNNING, JobRecords

    database = Database.from_settings(settings_with())
    try:
        queue = JobRecords(database)
        if cancel is not None:
            job = queue.cancel(cancel)
            is_over = job.state not in (QUEUED, RUNNING)
            say(f"{job} is {job.state}" if is_over else f"{job} was asked to stop")
        elif log is not None:
            _print_log(queue.get(log))
        else:
            kinds = () if every else tuple(kind for kind in KINDS if kind != POLL)
            _print_jobs(queue.list(project_id, limit=30, kinds=kinds), as_json=as_json)
    finally:
        database.close()


def forget(
    project_id: ProjectId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove everything stored here about a project; Label Studio keeps its own data."""
    from backend.jobs.forgetting import forget as forget_project
    from backend.store.forgetting import stored_of
    from backend.store.job_queue import JobQueue
    from backend.store.scores import Store

    settings = settings_with()
    store = Store.from_settings(settings)
    try:
        # Jobs whose process is gone must not block it.
        JobQueue(store).sweep()
        stored = stored_of(store, project_id)
        if not stored:
            say(f"nothing is stored of project {project_id}")
            return
        counts = ", ".join(f"{count} {name}" for name, count in stored.items())
        if not yes:
            if not sys.stdin.isatty():
                raise SettingsError(
                    f"forgetting project {project_id} has to be confirmed, and nobody can be asked "
                    "here: add --yes"
                )
            typer.confirm(
                f"Remove what is stored of project {project_id} for good ({counts}), its trained "
                "models and its cached images?",
                abort=True,
            )
        forget_project(settings, store, project_id)
    finally:
        store.close()
    say(f"project {project_id} is forgotten: {counts}")


def _print_log(job: Job) -> None:
    say(f"{job} of project {job.project_id}: {job.state}")
    for line in job.log:
        say(line)
    if job.error:
        note(job.error, mark="error: ", style="red")


def _print_jobs(found: Sequence[Job], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([job.as_json() for job in found]))
        return
    if not found:
        say("there are no jobs")
        return
    rows = table(
        "jobs, newest first", "id", "project", "kind", "state", "progress", "outcome",
        text=("kind", "state", "outcome"),
    )  # fmt: skip
    for job in found:
        rows.add_row(
            str(job.id), str(job.project_id), job.kind, job.state, _progress(job), outcome(job)
        )
    output.print(rows)


def outcome(job: Job) -> str:
    """One line: what a finished job did, what a running one is at, why one failed."""
    from backend.store.jobs import CANCELLED, DONE, RUNNING

    if job.error:
        return job.error
    if job.state == RUNNING:
        left = "" if job.seconds_left is None else f", about {job.seconds_left:.0f} s left"
        return f"{job.doing}{left}"
    if job.state == CANCELLED:
        return "stopped on request"
    # A job of an older version may have no result.
    return KINDS[job.kind].outcome(job.result) if job.state == DONE and job.result else ""


def _progress(job: Job) -> str:
    return f"{job.done}/{job.total}" if job.total else ""


def run_as_job(
    worker_context: WorkerContext,
    kind: str,
    project_id: int,
    payload: Mapping[str, Any] | None = None,
    *,
    on_report: Callable[[OrderReport], None] = lambda report: None,
) -> Job:
    """Run a job here and now, with its progress shown.

    Raises:
        JobFailedError: it failed, or was cancelled.
        QueueError: another one blocks it.
    """
    from backend.jobs.runner import run_now
    from backend.store.jobs import DONE

    with progress_bars() as on_progress:
        job = run_now(
            worker_context.queue,
            kind,
            project_id,
            payload,
            replace(worker_context, on_report=on_report).handlers(),
            on_progress=on_progress,
        )
    if job.state != DONE:
        raise JobFailedError(job.error or f"{job} was {job.state}")
    return job
