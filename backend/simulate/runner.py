"""All runs of a replay, each in a process of its own, a few at a time.

A run that fails, or whose process the system ends, leaves the others alone. When the caller ends,
for whatever reason, so do the processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from backend.errors import SimulationError
from backend.parent import end_with_parent
from backend.progress import Progress
from backend.simulate.replay import Replay, recorded, run_folder
from backend.simulate.stage import Stage, prepare
from backend.training.process import explain


@dataclass(frozen=True)
class Share:
    """What of the machine one run may use.

    Args:
        gpu: as CUDA_VISIBLE_DEVICES names it; None: the CPU.
        threads: of torch and OpenCV.
    """

    gpu: str | None
    threads: int


@dataclass(frozen=True)
class _Live:
    arm: str
    seed: int
    share: Share
    process: SpawnProcess


def run_all(stage: Stage, *, jobs: int | None, on_progress: Progress) -> list[str]:
    """Make all runs that are not finished; at once where there are none.

    Args:
        stage: what to run.
        jobs: runs at a time; None: one a GPU, or else one a core.
        on_progress: called with what is done (pictures, then optimiser steps), how many, of how
            many.

    Returns:
        One line for each run that failed; finished rounds of it are kept.

    Raises:
        HardestFirstError: what all runs share cannot be made, or the folder is in use.
    """
    with _alone(stage.plan.out):
        counter = _Steps(stage, on_progress)
        todo = deque(run for run in stage.plan.runs() if not counter.is_finished(*run))
        if not todo:
            return []
        prepare(stage, on_progress)
        counter.show()
        shares = _shares(stage.settings.device, min(jobs or len(todo), len(todo)), jobs is None)
        return _work_off(stage, todo, shares, counter)


class _Steps:
    """Optimiser steps of all runs, done and in all."""

    def __init__(self, stage: Stage, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._total: dict[tuple[str, int], int] = {}
        self._done: dict[tuple[str, int], int] = {}
        for arm, seed in stage.plan.runs():
            counts = stage.plan.labels_of(arm, len(stage.data.pool))
            steps = [stage.plan.steps_of(count) for count in counts]
            made = len(recorded(stage.plan.out, arm, seed).rounds)
            self._total[arm, seed] = sum(steps)
            self._done[arm, seed] = sum(steps[:made])

    def is_finished(self, arm: str, seed: int) -> bool:
        return self._done[arm, seed] == self._total[arm, seed]

    def update(self, arm: str, seed: int, steps: int) -> None:
        self._done[arm, seed] = steps
        self.show()

    def show(self) -> None:
        self._on_progress("steps", sum(self._done.values()), sum(self._total.values()))


def _work_off(
    stage: Stage, todo: deque[tuple[str, int]], shares: list[Share], counter: _Steps
) -> list[str]:
    failures: list[str] = []
    live: dict[Connection, _Live] = {}
    try:
        while todo or live:
            while todo and shares:
                connection, run = _start(stage, *todo.popleft(), shares.pop())
                live[connection] = run
            ready = wait(list(live))
            for connection in [one for one in live if one in ready]:
                run = live[connection]
                try:
                    message = connection.recv()
                except EOFError:
                    del live[connection]
                    shares.append(run.share)
                    failures += _end_of(run, connection)
                    continue
                if isinstance(message, str):
                    failures.append(f"{run.arm}, seed {run.seed}: {message}")
                else:
                    counter.update(run.arm, run.seed, message)
    finally:
        for run in live.values():
            run.process.kill()
            run.process.join()
    return failures


def _start(stage: Stage, arm: str, seed: int, share: Share) -> tuple[Connection, _Live]:
    # Not forked: torch's threads do not survive that.
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(stage, arm, seed, share, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, _Live(arm, seed, share, process)


def _end_of(run: _Live, connection: Connection) -> list[str]:
    """Tidy up after a process that has ended; one line if nobody knows why."""
    connection.close()
    run.process.join()
    if run.process.exitcode in (0, 1):
        return []  # it has said itself what there is to say
    return [
        f"{run.arm}, seed {run.seed}: the system ended it (status {run.process.exitcode}), most "
        "likely for want of memory: choose fewer --jobs"
    ]


def work(stage: Stage, arm: str, seed: int, share: Share, parent: Connection) -> None:
    """Make one run; what a process of its own does. Reports steps, or its failure, to its parent.

    Args:
        stage: what all runs share, prepared.
        arm: what picks.
        seed: of the run.
        share: what of the machine it may use.
        parent: where whole numbers (steps) and texts (failures) are sent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children itself
    end_with_parent(os.getppid())
    if share.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpu
    _print_to(run_folder(stage.plan.out, arm, seed) / "train.log")
    import cv2
    import torch

    cv2.setNumThreads(share.threads)
    torch.set_num_threads(share.threads)
    device = "cpu" if share.gpu is None else "cuda:0"
    try:
        Replay(stage, arm, seed, device=device, threads=share.threads).run(parent.send)
    except Exception as error:
        traceback.print_exc()
        parent.send(explain(error))
        sys.exit(1)


def _print_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def _shares(device: str, runs: int, is_free: bool) -> list[Share]:
    """The machine in equal parts.

    Args:
        device: the setting DEVICE.
        runs: no more parts than this.
        is_free: as many as there are GPUs, or else cores, if that is fewer.
    """
    gpus = _gpus(device)
    cores = len(os.sched_getaffinity(0))
    parts = min(runs, len(gpus) or cores) if is_free else runs
    threads = max(1, cores // parts)
    return [Share(gpus[i % len(gpus)] if gpus else None, threads) for i in range(parts)]


def _gpus(device: str) -> list[str]:
    """The GPUs to use, as CUDA_VISIBLE_DEVICES names them; none: the CPU."""
    from backend.vision.engines import choose_device

    chosen = choose_device(device)
    if chosen == "cpu":
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return names if device == "auto" else [names[int(chosen.partition(":")[2])]]


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        SimulationError: another replay holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SimulationError(f"another replay is at work in {out}: let it end") from None
        yield
