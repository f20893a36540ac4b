"""`simulate`: what active learning would have saved on a data set that is labelled already."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from backend.errors import SimulationError
from backend.verbs.console import note, print_warnings, progress_bars, say, settings_with

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.simulate.analysis import Cost
    from backend.simulate.stage import Stage

_STRATEGIES = "random,random_deduplicated,entropy,diverse_uncertainty"


def simulate(
    data_yaml: Annotated[Path, typer.Argument(help="A labelled data set in YOLO format.")],
    strategies: Annotated[
        str, typer.Option(help="What picks, with commas between; random must be among them.")
    ] = _STRATEGIES,
    initial: Annotated[
        int, typer.Option(help="Images of the first round, picked at random.", min=1)
    ] = 20,
    batch: Annotated[int, typer.Option(help="Images picked in the second round.", min=1)] = 20,
    growth: Annotated[
        float, typer.Option(help="Each further batch is so many times the last.", min=1.0)
    ] = 1.0,
    rounds: Annotated[int, typer.Option(help="Trainings, the first included.", min=1)] = 10,
    seeds: Annotated[int, typer.Option(help="Repetitions, paired between strategies.", min=1)] = 3,
    imgsz: Annotated[
        int | None, typer.Option(help="Longer side of the input; as the model was.", min=32)
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Optimiser steps a training; 0: by its images.", min=0)
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(help="Start weights (.pt) or an architecture (.yaml); MODEL if not given."),
    ] = None,
    cost: Annotated[
        str, typer.Option(help="What labels are counted in: images, boxes or effort.")
    ] = "images",
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time; one a GPU, or a core.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The replay's folder, in DATA_DIR if not given.")
    ] = None,
) -> None:
    """Replay labelling on a labelled data set, and report what each strategy would have saved."""
    from backend.simulate.analysis import COSTS
    from backend.simulate.datasets import read_data
    from backend.simulate.plan import ReplayPlan, check_plan, settle
    from backend.simulate.runner import run_all
    from backend.simulate.stage import Stage
    from backend.simulate.start import find_model, input_size

    if cost not in COSTS:
        raise SimulationError(f"--cost {cost} is unknown: take one of {', '.join(COSTS)}")
    settings = _replay_settings()
    data = read_data(data_yaml)
    weights = find_model(model, settings)
    plan = ReplayPlan(
        out=out or settings.data_dir / "simulate" / data_yaml.absolute().parent.name,
        model=weights,
        arms=tuple(dict.fromkeys(name.strip() for name in strategies.split(",") if name.strip())),
        seeds=seeds,
        initial=initial,
        batch=batch,
        growth=growth,
        rounds=rounds,
        image_size=imgsz or input_size(weights),
        steps=steps,
    )
    print_warnings([*data.notes, *check_plan(plan, data)])
    settle(plan, data, settings)
    stage = Stage(plan, data, settings)
    with progress_bars(speed_seconds=600) as on_progress:
        failures = run_all(stage, jobs=jobs, on_progress=on_progress)
    for line in failures:
        note(line, mark="failed: ", style="red")
    _report(stage, cast("Cost", cost))
    if failures:
        raise SimulationError(
            f"{len(failures)} runs failed; the same command goes on with what is missing"
        )


def _replay_settings() -> Settings:
    """The backend's settings; where nothing is said of an encoder, the model's own features."""
    settings = settings_with()
    if settings.model_fields_set & {"encoder", "clip_model", "clip_pretrained"}:
        return settings
    return settings_with(encoder="detector")


def _report(stage: Stage, cost: Cost) -> None:
    from backend.simulate.records import read_runs
    from backend.simulate.report import Facts, write_report

    plan, settings = stage.plan, stage.settings
    facts = Facts(
        name=stage.data.name,
        pool_images=len(stage.data.pool),
        test_images=len(stage.data.test),
        class_boxes=stage.data.boxes_by_class(),
        settings={
            "initial": plan.initial,
            "batch": plan.batch,
            "growth": plan.growth,
            "rounds": plan.rounds,
            "seeds": plan.seeds,
            "imgsz": plan.image_size,
            "steps": plan.steps or "by images",
            "images a step": settings.train_batch,
            "model": plan.model.name,
            "encoder": settings.encoder,
            "diversity weight": settings.diversity_weight,
        },
        command=shlex.join(["python", "-m", "backend", *sys.argv[1:]]),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
    )
    write_report(read_runs(plan.out), facts, plan.out, cost=cost)
    say(f"report: {plan.out / 'report.md'}")
