"""Jobs on both databases, run by real processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.store.database import Database
from backend.store.job_queue import JobQueue
from backend.store.jobs import Job

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 30.0


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"never so: {what}"
        time.sleep(0.02)


@dataclass
class Plant:
    """One database, and the processes that work on it."""

    folder: Path
    database_url: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.database_url)
        self.queue = JobQueue(self.database)

    @property
    def effects(self) -> list[str]:
        """What handlers of the worker processes did, in order."""
        path = self.folder / "effects"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def hold(self) -> Path:
        """As long as this file is there, the handlers that obey it go on."""
        return self.folder / "hold"

    def start_worker(self) -> subprocess.Popen[str]:
        return self._start("worker")

    def start_foreground(self, kind: str) -> subprocess.Popen[str]:
        return self._start("foreground", kind)

    def _start(self, *role: str) -> subprocess.Popen[str]:
        script = Path(__file__).parent / "toy_worker.py"
        process = subprocess.Popen(
            [sys.executable, script, self.folder, self.database_url, *role],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def wait_for(self, job: Job, state: str) -> Job:
        eventually(lambda: self.queue.get(job.id).state == state, f"{job} is {state}")
        return self.queue.get(job.id)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.database.close()


def killed(process: subprocess.Popen[str]) -> None:
    """End it as a power cut would."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def stopped(process: subprocess.Popen[str]) -> int:
    """End it as a service manager would; returns its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=25)


@contextmanager
def locked(plant: Plant) -> Iterator[None]:
    """The store of SQLite takes no writes."""
    connection = sqlite3.connect(plant.folder / "store.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """SQLite."""
    made = Plant(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}")
    yield made
    made.close()


def _empty_postgres(url: str) -> str:
    database = Database(url)
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    database.close()
    return url


@pytest.fixture
def large_plant(tmp_path: Path, postgres_url: str) -> Iterator[Plant]:
    """PostgreSQL."""
    made = Plant(tmp_path, _empty_postgres(postgres_url))
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    """Each of both databases."""
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    if request.param == "postgresql":
        url = _empty_postgres(request.getfixturevalue("postgres_url"))
    made = Plant(tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def queue(either: Plant) -> JobQueue:
    return either.queue
