"""The parent's side of a training: starts the process, watches it, and says why it failed.

The training runs in a separate process, so that a crash, a full memory or a full disk there leaves
the caller and the serving model as they were.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from backend.disk import is_disk_full
from backend.errors import TrainingError
from backend.training.plan import TrainingPlan

_POLL_SECONDS = 0.5
_HOUSE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Args:
        path: the trained weights, a .pt file.
        steps: optimiser steps taken.
        seconds: how long it trained, in seconds, interruptions left out.
    """

    path: Path
    steps: int
    seconds: float


def steps_for(images: int) -> int:
    """Optimiser steps for a data set of `images` images, the same in every round and arm.

    Three steps an image are 48 passes at 16 images a step: on generated frames AP no longer rose
    between 50 and 100 passes over 40 images, nor between 32 and 53 over 120. The cap bounds the
    time of large data sets.

    >>> [steps_for(images) for images in (0, 40, 120, 500, 100_000)]
    [120, 120, 360, 1500, 1500]
    """
    return min(1500, max(120, 3 * images))


def train(
    plan: TrainingPlan,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_log: Callable[[str], None] = lambda line: None,
    check: Callable[[], None] = lambda: None,
) -> Trained:
    """Train, resume an interrupted training, or return at once what the same plan has made.

    Args:
        plan: what to train; one training at a time works in its folder, a second one waits.
        on_progress: called with the optimiser steps done and in all.
        on_log: called with each line that the training prints.
        check: called about twice a second; what it raises ends the training, and a later `train`
            resumes it.

    Raises:
        TrainingError: it failed; one line says why and what to do.
        WeightsError: the base weights cannot be read.
    """
    _check_base(plan.base)
    with _locked(plan.folder, check) as lock:
        done = _finished(plan)
        if done is None:
            with _child(plan, lock) as child:
                _watch(child, plan, on_progress, on_log, check)
            done = _finished(plan)
    if done is None:
        raise TrainingError("the training ended without trained weights; see train.log")
    return done


def _check_base(base: Path) -> None:
    if base.suffix != ".pt":
        raise TrainingError(
            f"{base.name} cannot be trained: it is an export, for running only. Set MODEL to the "
            ".pt it was made from"
        )
    if not base.is_file():
        raise TrainingError(f"{base.name} is not there: put the base weights into MODEL_DIR")


@contextlib.contextmanager
def _locked(folder: Path, check: Callable[[], None]) -> Iterator[BinaryIO]:
    """Hold the folder's lock. The child inherits it: it is held until both are gone."""
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(_POLL_SECONDS)
        yield lock


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with the folder's files into one line."""
    try:
        yield
    except OSError as error:
        why = "the disk is full" if is_disk_full(error) else error.strerror
        raise TrainingError(
            f"nothing can be written to {folder} ({why}): free some space there, or move DATA_DIR"
        ) from None


def _finished(plan: TrainingPlan) -> Trained | None:
    """What the plan has made before, if it was finished."""
    try:
        result = json.loads(plan.result.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if result["key"] != plan.key() or not plan.weights.is_file():
        return None
    return Trained(plan.weights, result["steps"], result["seconds"])


@contextlib.contextmanager
def _child(plan: TrainingPlan, lock: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """The training process, in a group of its own that is killed at the end."""
    plan_file, scratch = plan.folder.absolute() / "plan.json", plan.scratch.absolute()
    ours = {"YOLO_CONFIG_DIR": str(scratch), "MPLCONFIGDIR": str(scratch)}
    paths = [str(_HOUSE), os.environ.get("PYTHONPATH", "")]
    with _writable(plan.folder):
        plan.save(plan_file)
        scratch.mkdir(exist_ok=True)
        log = plan.log.open("wb")
    with log:
        child = subprocess.Popen(
            [sys.executable, "-u", "-m", "backend.training.process", str(plan_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=scratch,
            env={**os.environ, **ours, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _watch(
    child: subprocess.Popen[bytes],
    plan: TrainingPlan,
    on_progress: Callable[[int, int], None],
    on_log: Callable[[str], None],
    check: Callable[[], None],
) -> None:
    """Pass on what the child says until it ends.

    Raises:
        TrainingError: it failed, or took too long.
    """
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    deadline = time.monotonic() + plan.minutes * 60
    failure: str | None = None
    with plan.log.open("rb") as log:
        messages, printed = _Lines(child.stdout), _Lines(log)
        running = True
        while running:
            # Checked first: what the child said last is read after its end.
            running = child.poll() is None
            for message in map(json.loads, messages.read()):
                failure = message.get("error", failure)
                if "steps" in message:
                    on_progress(message["steps"], plan.steps)
            for line in printed.read():
                on_log(line)
            if running:
                check()
                if time.monotonic() > deadline:
                    raise TrainingError(
                        f"the training took longer than {plan.minutes:g} minutes: raise "
                        "TRAIN_MINUTES, or set a smaller TRAIN_IMAGE_SIZE or fewer TRAIN_STEPS"
                    )
                time.sleep(_POLL_SECONDS)
    if child.returncode != 0:
        raise TrainingError(failure or _why(child.returncode, printed.last))


class _Lines:
    """Whole lines of what is written to a stream bit by bit."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.last = ""
        self._stream = stream
        self._rest = b""

    def read(self) -> list[str]:
        """The lines that came since; never waits."""
        *lines, self._rest = (self._rest + (self._stream.read() or b"")).split(b"\n")
        texts = [line.decode(errors="replace").rstrip() for line in lines]
        self.last = next((text for text in reversed(texts) if text), self.last)
        return texts


def _why(status: int, last_line: str) -> str:
    """One line for a child that ended without saying why."""
    if status == -signal.SIGKILL:
        return (
            "the system ended the training, most likely for want of memory: set a smaller "
            "TRAIN_BATCH or TRAIN_IMAGE_SIZE"
        )
    return f"the training process ended with status {status} ({last_line[:200]}); see train.log"
