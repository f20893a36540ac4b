from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.errors import SimulationError
from backend.settings import load_settings
from backend.simulate.datasets import read_data
from backend.simulate.plan import ReplayPlan, initial_order
from backend.simulate.records import Run, read_runs, write_run
from backend.simulate.runner import run_all
from backend.simulate.stage import Stage, prepare
from backend.uncertainty import AGGREGATIONS
from benchmarks.picks import measure
from tests.simulate.yolo_set import write_set

DETECTOR = Path(__file__).parents[2] / "demo" / "weights" / "detector.pt"
ARMS = ("random", "diverse_uncertainty")

Progress = list[tuple[str, int, int]]


def stage_of(folder: Path, **changes: object) -> Stage:
    plan = ReplayPlan(
        out=folder / "out",
        model=DETECTOR,
        arms=ARMS,
        seeds=1,
        initial=4,
        batch=3,
        rounds=2,
        image_size=64,
        steps=2,
    )
    settings = load_settings(encoder="detector", device="cpu", train_batch=4)
    return Stage(replace(plan, **changes), read_data(folder / "data.yaml"), settings)  # type: ignore[arg-type]


def replay(stage: Stage) -> tuple[list[str], Progress]:
    progress: Progress = []
    failures = run_all(stage, jobs=2, on_progress=lambda *at: progress.append(at))
    return failures, progress


def records(stage: Stage) -> dict[str, Run]:
    return {run.arm: run for run in read_runs(stage.plan.out)}


def picks(stage: Stage, arm: str) -> list[int]:
    path = stage.plan.out / "work" / f"{arm}-s0" / "picks.json"
    found: list[int] = json.loads(path.read_text())
    return found


def parameters(weights: Path) -> dict[str, Any]:
    import torch

    model = torch.load(weights, map_location="cpu", weights_only=False)["model"]
    return dict(model.state_dict())


@pytest.fixture(scope="module", autouse=True)
def bytecode() -> Iterator[None]:
    """Each process would compile half of torch again where Python may not keep it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, list[str], Progress]:
    """A replay of two rounds that has run to its end, what failed in it and its progress."""
    folder = tmp_path_factory.mktemp("replay")
    write_set(folder, pool=12, test=6)
    stage = stage_of(folder)
    return (stage, *replay(stage))


Finished = tuple[Stage, list[str], Progress]


def test_every_run_is_recorded(finished: Finished) -> None:
    stage, failures, _ = finished
    assert failures == []
    found = records(stage)
    assert set(found) == {"full", *ARMS}
    assert all(run.done for run in found.values())
    assert [point.labels for point in found["full"].rounds] == [12]
    for arm in ARMS:
        assert [point.labels for point in found[arm].rounds] == [4, 7]
        labelled = picks(stage, arm)
        assert len(set(labelled)) == 7
        for point in found[arm].rounds:
            truths = (len(stage.data.pool[place].truth) for place in labelled[: point.labels])
            assert point.boxes == sum(truths)
            assert set(point.per_class) == {"cat", "dog"}


def test_all_arms_begin_alike(finished: Finished) -> None:
    stage, _, _ = finished
    first, second = (records(stage)[arm].rounds[0] for arm in ARMS)
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert picks(stage, "random") == initial_order(0, 12)[:7].tolist()
    assert picks(stage, "diverse_uncertainty")[:4] == picks(stage, "random")[:4]


def test_progress_counts_the_steps_of_all_runs(finished: Finished) -> None:
    steps = [(done, total) for what, done, total in finished[2] if what == "steps"]
    assert steps[0] == (0, 10)
    assert steps[-1] == (10, 10)
    assert steps == sorted(steps)


def test_a_finished_replay_returns_at_once(finished: Finished) -> None:
    stage, _, _ = finished
    before = {path: path.stat().st_mtime_ns for path in stage.plan.out.rglob("*")}
    assert replay(stage) == ([], [])
    assert {path: path.stat().st_mtime_ns for path in stage.plan.out.rglob("*")} == before


def test_picks_of_each_side_are_counted(finished: Finished) -> None:
    stage, _, _ = finished
    found = measure(
        stage.plan.out.parent / "data.yaml", stage.plan.out, arm="random", seed=0, picks=3
    )
    assert found["run"]["labels"] == 7
    assert {name.partition(",")[0] for name in found["sides"]} > set(AGGREGATIONS)
    for side in found["sides"].values():
        assert 0 <= side["new_scenes"] <= 3 - side["empty"] <= side["boxes"]


def test_an_interrupted_run_goes_on_to_the_same_end_and_a_broken_one_is_told(
    finished: Finished,
) -> None:
    stage, _, _ = finished
    whole = records(stage)
    weights = stage.plan.out / "work" / "random-s0" / "round-01" / "weights.pt"
    trained = parameters(weights)
    weights.unlink()
    for arm in ARMS:
        write_run(replace(whole[arm], done=False, rounds=whole[arm].rounds[:1]), stage.plan.out)
    (stage.plan.out / "work" / "diverse_uncertainty-s0" / "picks.json").unlink()
    failures, progress = replay(stage)
    assert len(failures) == 1
    assert failures[0].startswith("diverse_uncertainty, seed 0: ")
    assert "picks.json is gone: delete" in failures[0]
    assert progress[0] == ("steps", 6, 10)
    again = records(stage)["random"]
    assert again.done
    assert again.rounds[0] == whole["random"].rounds[0]
    assert replace(again.rounds[1], seconds=0) == replace(whole["random"].rounds[1], seconds=0)
    assert all((parameters(weights)[name] == value).all() for name, value in trained.items())


def test_a_training_that_arms_have_in_common_is_made_once(tmp_path: Path) -> None:
    write_set(tmp_path, pool=8, test=4)
    stage = stage_of(tmp_path, arms=("random",))
    assert replay(stage)[0] == []
    more = stage_of(tmp_path, arms=("random", "random_deduplicated", "entropy"))
    assert replay(more)[0] == []
    found = records(more)
    # The pool holds no near-duplicates: without them random is random. The time is of the first.
    assert found["random_deduplicated"].rounds == found["random"].rounds
    assert found["entropy"].rounds[0] == found["random"].rounds[0]
    assert found["entropy"].rounds[1].seconds != found["random"].rounds[1].seconds


def test_two_replays_in_one_folder_are_refused(tmp_path: Path) -> None:
    import fcntl

    write_set(tmp_path)
    stage = stage_of(tmp_path)
    stage.plan.out.mkdir()
    with (stage.plan.out / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SimulationError, match="another replay is at work"):
            replay(stage)


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_image_that_cannot_be_read_is_told_before_any_training(
    tmp_path: Path, part: str
) -> None:
    write_set(tmp_path)
    damaged = tmp_path / "images" / part / "2.png"
    stage = stage_of(tmp_path)
    # It was whole when the data set was read.
    damaged.write_bytes(b"no picture")
    with pytest.raises(SimulationError, match=r"2\.png: this is no image"):
        prepare(stage, lambda *at: None)
    assert not (stage.plan.out / "embeddings.npy").exists()
    assert not (stage.plan.out / "work").exists()
