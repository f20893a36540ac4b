"""The processes of the demo: Label Studio, the backend, and the worker that closes the loop."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from backend.verbs.console import note
from demo.stage import DATA, HERE, WORK, DemoError, Scenario, environment
from demo.studio_server import StudioServer, free_port, running_studio


@contextmanager
def fresh_studio() -> Iterator[StudioServer]:
    """A Label Studio with nothing in it."""
    folder = WORK / "label-studio"
    shutil.rmtree(folder, ignore_errors=True)
    note("starting Label Studio ...")
    with running_studio(folder, port=_preferred_port(8080)) as studio:
        yield studio


@contextmanager
def backend(studio: StudioServer, scenario: Scenario) -> Iterator[str]:
    """The ML backend, up and answering, with its worker beside it; yields its address."""
    for old in DATA.glob("store.sqlite3*"):
        old.unlink()
    shutil.rmtree(DATA / "trained", ignore_errors=True)
    port = _preferred_port(9090)
    note("starting the backend and its worker ...")
    with ExitStack() as running:
        server = running.enter_context(_process(studio, scenario, "serve", "--port", str(port)))
        _wait_for_backend(server, port)
        running.enter_context(_process(studio, scenario, "worker"))
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _process(
    studio: StudioServer, scenario: Scenario, verb: str, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log_of(verb).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", verb, *options],
            env=environment(studio, scenario),
            cwd=HERE.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


def log_of(verb: str) -> Path:
    """Where a process of the backend writes its log."""
    return WORK / f"{verb}.log"


def _wait_for_backend(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    lines = log_of("serve").read_text(errors="replace").strip().splitlines()
    raise DemoError(f"the backend did not start; its last words: {(lines or ['none'])[-1]}")


def _preferred_port(port: int) -> int:
    """The usual port, or a free one where something else has it."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
    except httpx.ConnectError:
        return port
    except httpx.TransportError:
        pass
    return free_port()
