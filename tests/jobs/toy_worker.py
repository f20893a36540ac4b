"""A worker with toy handlers, or one foreground run: a process that tests may kill."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.job_kinds import KINDS
from backend.jobs.context import JobContext
from backend.jobs.runner import run_now
from backend.jobs.worker import run_worker
from backend.store.database import Database
from backend.store.job_queue import JobQueue

# Nothing is given where this is only imported.
FOLDER = Path(*sys.argv[1:2])


def record(line: str) -> None:
    with (FOLDER / "effects").open("a") as file:
        file.write(line + "\n")


def effect(context: JobContext) -> Mapping[str, Any]:
    """Writes one line, once for all attempts, then waits until it is let go."""
    if "written" not in context.notes:
        record(f"effect {context.job.id}")
        context.note(written=True)
    context.progress("waiting", 1, 2)
    while (FOLDER / "hold").exists():
        context.check()
        time.sleep(0.02)
    return {"attempts": context.job.attempts}


def span(context: JobContext) -> None:
    """Writes when it begins and ends; lasts until its rival runs too, or a moment."""
    record(f"begin {context.job.kind}")
    deadline = time.monotonic() + context.job.payload["seconds"]
    while time.monotonic() < deadline and not (FOLDER / "let-go").exists():
        time.sleep(0.02)
    record(f"end {context.job.kind}")


def crash(context: JobContext) -> None:
    """Takes its process down."""
    record("crash")
    os.kill(os.getpid(), signal.SIGKILL)


def deaf(context: JobContext) -> None:
    """Never asks whether it should stop."""
    record("deaf")
    while (FOLDER / "hold").exists():
        time.sleep(0.02)


HANDLERS = {
    **dict.fromkeys(KINDS, span),
    **{"effect": effect, "crash": crash, "deaf": deaf},
}


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    database_url, role = sys.argv[2:4]
    queue = JobQueue(Database(database_url))
    if role == "worker":
        run_worker(queue, HANDLERS, on_tick=lambda: (FOLDER / "ticked").touch())
    else:
        run_now(queue, sys.argv[4], 3, {}, HANDLERS)


if __name__ == "__main__":
    main()
