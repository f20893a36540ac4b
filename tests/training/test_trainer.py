from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import TrainingError, WeightsError
from backend.training.dataset import TrainingImage, write_dataset
from backend.training.plan import TrainingPlan
from backend.training.process import explain
from backend.training.steps import Order
from backend.training.trainer import Trained, steps_for, train
from backend.vision.picture import Picture, thumbnail
from tests.vision import networks

CLASSES = ("cat", "dog")
STEPS = 10


@pytest.fixture(scope="module", autouse=True)
def bytecode() -> Iterator[None]:
    """Each training process would compile half of torch again where Python may not keep it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base weights of three classes, under a name that Ultralytics would download."""
    return networks.save(networks.yolo("yolo11n"), tmp_path_factory.mktemp("base") / "yolov5n.pt")


@pytest.fixture(scope="module")
def data_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer images than a batch, one of them a background, of two classes."""

    def image(number: int) -> TrainingImage:
        pixels = networks.scene(96, 72, number)
        boxes = np.array([[0.1, 0.1, 0.4, 0.7], [0.5, 0.3, 0.9, 0.8]] if number else [])
        class_ids = np.array([0, 1] if number else [], np.int64)
        data = thumbnail(Picture(pixels, (96, 72)), 96)
        return TrainingImage(f"task-{number}", data, boxes.reshape(-1, 4), class_ids)

    folder = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(folder, map(image, range(3)), CLASSES, image_size=64).data_yaml


@pytest.fixture
def plan(base: Path, data_yaml: Path, tmp_path: Path) -> TrainingPlan:
    return TrainingPlan(
        base=base,
        data_yaml=data_yaml,
        folder=tmp_path / "training",
        image_size=64,
        steps=STEPS,
        batch=4,
        threads=1,
    )


@pytest.fixture(scope="module")
def undisturbed(
    base: Path, data_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, TrainingPlan, list[tuple[int, int]]]:
    """A training that ran to its end, its plan and its progress."""
    folder = tmp_path_factory.mktemp("undisturbed") / "training"
    plan = TrainingPlan(base, data_yaml, folder, 64, STEPS, 4, threads=1)
    progress: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder.parent))
        done = train(plan, on_progress=lambda *at: progress.append(at))
    return done, plan, progress


def parameters(weights: Path) -> dict[str, Any]:
    import torch

    model = torch.load(weights, map_location="cpu", weights_only=False)["model"]
    return dict(model.state_dict())


def children(folder: Path) -> list[int]:
    """Process ids of the trainings that work in `folder`."""
    sign = str(folder / "plan.json").encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if sign in entry.read_bytes() and b"backend.training.process" in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("images", [0, 1, 100, 10**6])
def test_the_number_of_steps_grows_with_the_data_and_has_an_end(images: int) -> None:
    assert 0 < steps_for(images) <= steps_for(images + 1) <= steps_for(10**7)


@pytest.mark.parametrize(
    ("is_background", "share"),
    [
        ([False] * 5, 0.0),
        ([True] * 3, 1.0),  # nothing else to train on
        ([False] * 9 + [True], 0.1),
        ([False] * 2 + [True] * 8, 0.2),
    ],
)
def test_images_without_objects_are_at_most_a_fifth_of_what_is_seen(
    is_background: list[bool], share: float
) -> None:
    empty = np.array(is_background)
    seen = np.array(list(islice(Order(is_background, epoch_length=1, seed=0), 200)))
    assert empty[seen].mean() == pytest.approx(share)
    for kind in (True, False):
        times = Counter(seen[empty[seen] == kind].tolist()).values()
        assert not times or max(times) - min(times) <= 1
    goes_on = Order(is_background, epoch_length=1, seed=0)
    goes_on.position = 37
    assert list(islice(goes_on, 20)) == seen[37:57].tolist()


class TestAFinishedTraining:
    Undisturbed = tuple[Trained, TrainingPlan, list[tuple[int, int]]]

    def test_took_the_steps_it_was_told_and_said_so(self, undisturbed: Undisturbed) -> None:
        done, _, progress = undisturbed
        assert done.steps == STEPS
        assert done.seconds > 0
        assert progress == [(step, STEPS) for step in range(1, STEPS + 1)]

    def test_gives_weights_the_detector_loads(
        self, undisturbed: Undisturbed, tmp_path: Path
    ) -> None:
        from backend.vision.yolo import load_detector

        detector = load_detector(undisturbed[0].path, device="cpu", export_dir=tmp_path)
        assert detector.class_names == CLASSES
        assert detector.input_size == 64
        pixels = networks.scene(96, 72, 1)
        (found,) = detector.detect([detector.prepare(Picture(pixels, (96, 72)))])
        assert found.detections.class_scores.shape[1] == len(CLASSES)

    def test_changed_the_weights(self, undisturbed: Undisturbed, base: Path) -> None:
        before, after = parameters(base), parameters(undisturbed[0].path)
        name = "model.0.conv.weight"
        assert not np.allclose(before[name].float(), after[name].float(), atol=1e-4)

    def test_writes_nothing_but_its_own(self, undisturbed: Undisturbed) -> None:
        done, plan, _ = undisturbed
        left = sorted(path.name for path in plan.folder.iterdir())
        assert left == ["lock", "plan.json", "result.json", "train.log", "weights.pt"]
        # HOME was the folder above.
        assert [path.name for path in plan.folder.parent.iterdir()] == ["training"]
        assert str(plan.folder.parent).encode() not in done.path.read_bytes()

    def test_is_returned_at_once(self, undisturbed: Undisturbed) -> None:
        done, plan, _ = undisturbed
        before = plan.log.stat().st_mtime_ns
        assert train(plan) == done
        assert plan.log.stat().st_mtime_ns == before


PARENT = """
import pathlib, sys
from backend.training.plan import read_plan
from backend.training.trainer import train

train(read_plan(pathlib.Path(sys.argv[1])), on_progress=lambda *at: print(at[0], flush=True))
"""


def test_a_killed_parent_takes_the_training_with_it_and_a_restart_ends_in_the_same_weights(
    plan: TrainingPlan, undisturbed: TestAFinishedTraining.Undisturbed, tmp_path: Path
) -> None:
    plan.save(tmp_path / "plan.json")
    run = [sys.executable, "-c", PARENT, str(tmp_path / "plan.json")]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        wait_for(plan.checkpoint.exists)
        assert children(plan.folder)
        parent.kill()
    wait_for(lambda: not children(plan.folder), 10)
    assert not plan.weights.exists()
    progress: list[int] = []
    done = train(plan, on_progress=lambda step, total: progress.append(step))
    assert progress[0] > 1
    assert progress[-1] == done.steps == STEPS
    again, first = parameters(done.path), parameters(undisturbed[0].path)
    assert all((again[name] == first[name]).all() for name in first)


def test_a_damaged_checkpoint_means_starting_anew(plan: TrainingPlan) -> None:
    short = replace(plan, steps=1)
    short.folder.mkdir()
    short.checkpoint.write_bytes(b"PK\x03\x04 half of it")
    progress: list[int] = []
    lines: list[str] = []
    train(short, on_progress=lambda step, total: progress.append(step), on_log=lines.append)
    assert progress == [1]
    assert any("checkpoint is damaged" in line for line in lines)


class Stopped(Exception):  # noqa: N818
    """What a caller stops a training with."""


def test_a_stop_request_ends_the_process(plan: TrainingPlan) -> None:
    def check() -> None:
        if children(plan.folder):
            raise Stopped

    with pytest.raises(Stopped):
        train(plan, check=check)
    assert children(plan.folder) == []


def test_a_time_limit_ends_the_process_and_names_the_setting(plan: TrainingPlan) -> None:
    with pytest.raises(TrainingError, match="TRAIN_MINUTES"):
        train(replace(plan, minutes=0.001))
    assert children(plan.folder) == []


def test_a_process_that_the_system_kills_is_one_line(plan: TrainingPlan) -> None:
    import os

    def kill() -> None:
        for child in children(plan.folder):
            os.kill(child, signal.SIGKILL)

    with pytest.raises(TrainingError, match="want of memory: set a smaller TRAIN_BATCH") as caught:
        train(plan, check=kill)
    assert "\n" not in str(caught.value)


def test_a_second_training_in_the_folder_waits(plan: TrainingPlan) -> None:
    import fcntl

    plan.folder.mkdir()
    with (plan.folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked = iter([None])

        def check() -> None:
            if next(asked, Stopped) is Stopped:
                raise Stopped

        with pytest.raises(Stopped):
            train(plan, check=check)
    assert not plan.log.exists()


class TestBaseWeights:
    @pytest.mark.parametrize("name", ["yolo11n.onnx", "yolo11n_openvino_model"])
    def test_exports_cannot_be_trained(self, plan: TrainingPlan, name: str) -> None:
        with pytest.raises(TrainingError, match=r"Set MODEL to the \.pt"):
            train(replace(plan, base=Path(name)))

    def test_that_are_not_there_are_named(self, plan: TrainingPlan) -> None:
        with pytest.raises(TrainingError, match=r"gone\.pt is not there"):
            train(replace(plan, base=Path("gone.pt")))

    def test_that_are_damaged_are_named(self, plan: TrainingPlan, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.pt"
        damaged.write_bytes(plan.base.read_bytes()[:50_000])
        with pytest.raises(TrainingError, match=r"^damaged\.pt cannot be loaded .*damaged.*again$"):
            train(replace(plan, base=damaged))

    def test_that_are_not_finite_are_told(self, plan: TrainingPlan, tmp_path: Path) -> None:
        model = networks.yolo("yolo11n")
        model.model[0].conv.weight.data[:] = float("nan")
        with pytest.raises(TrainingError, match="diverged: its loss was nan at step 1"):
            train(replace(plan, base=networks.save(model, tmp_path / "nan.pt")))


# A limit on the size of files fails as a full disk does, for this process and its children only.
FULL_DISK = """
import pathlib, resource, sys
from backend.errors import TrainingError
from backend.training.plan import read_plan
from backend.training.trainer import train

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    train(read_plan(pathlib.Path(sys.argv[1])))
except TrainingError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_nothing_half(plan: TrainingPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    run = [sys.executable, "-c", FULL_DISK, str(tmp_path / "plan.json")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the disk is full")
    assert done.stdout.count("\n") == 1
    assert sorted(p.name for p in plan.folder.iterdir()) == ["lock", "plan.json", "train.log"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(""), r"the training failed \(RuntimeError"),
        (MemoryError(), "TRAIN_BATCH"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "TRAIN_BATCH"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "TRAIN_BATCH"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (WeightsError("yolo.pt is no detector"), "^yolo.pt is no detector$"),
        (ValueError("many\nlines"), "many lines"),
    ],
)
def test_every_failure_is_one_line(error: Exception, said: str) -> None:
    import re

    line = explain(error)
    assert re.search(said, line)
    assert "\n" not in line


def test_a_plan_is_the_same_after_it_was_written(plan: TrainingPlan, tmp_path: Path) -> None:
    from backend.training.plan import read_plan

    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["steps"] == STEPS
    assert read_plan(tmp_path / "plan.json").key() == plan.key()
    assert replace(plan, seed=1).key() != plan.key()
    assert replace(plan, threads=2, minutes=1).key() == plan.key()
