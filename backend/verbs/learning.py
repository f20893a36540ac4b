"""`train`, `rounds`, `promote` and `rollback`: training rounds, and which model serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from backend.errors import QueueError
from backend.verbs.console import (
    Json,
    ProjectId,
    note,
    output,
    print_warnings,
    say,
    settings_with,
    table,
)
from backend.verbs.ordering import print_order_notes

if TYPE_CHECKING:
    from backend.jobs.handlers import WorkerContext
    from backend.learning.report import RoundsReport
    from backend.publishing.live_queue import OrderReport
    from backend.training.quality import Interval, Quality

Version = Annotated[str, typer.Argument(help='As `rounds` shows it, or "base".')]

_COLOURS = {"green": "green", "amber": "yellow", "red": "red"}


def train(
    project_id: ProjectId,
    all_labels: Annotated[
        bool,
        typer.Option(
            "--all-labels",
            help="Train on the hold-out too. Nothing is left to evaluate on: "
            "the model is kept, and serves only after `promote`.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on the annotations so far, evaluate the model, and promote it if it is not worse."""
    from backend.assembly import build_worker_context
    from backend.job_kinds import TRAIN
    from backend.store.rounds import RoundStore
    from backend.verbs.jobs import run_as_job

    with build_worker_context(settings_with()) as worker_context:
        job = run_as_job(worker_context, TRAIN, project_id, {"all_labels": all_labels})
        row = RoundStore(worker_context.store).find(project_id, str(job.result["version"]))
    for line in job.log:
        note(line)
    if as_json:
        print(json.dumps(job.result))
        return
    assert row is not None
    say(f"round {row.round}: {row.version}, trained on {row.labels} images with {row.boxes} boxes")
    if row.promoted:
        say(row.reason, mark="promoted: ", style="green")
    else:
        say(f"not promoted: {row.reason}")
    if row.promoted:
        say(f"The worker re-ranks the queue; or run `python -m backend score {project_id}` now.")


def rounds(
    project_id: ProjectId,
    plot: Annotated[
        Path | None, typer.Option(help="Where the learning curve goes (a PNG under DATA_DIR).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what each training gained, what pre-annotation saved, and whether to stop."""
    from backend.label_studio.client import Studio
    from backend.learning.curve import curve_file, draw_curve
    from backend.learning.report import quality_of, report_rounds
    from backend.store.scores import Store

    settings = settings_with()
    store = Store.from_settings(settings)
    try:
        with Studio.from_settings(settings) as studio:
            report = report_rounds(settings, studio, store, project_id)
    finally:
        store.close()
    picture = plot or curve_file(settings, project_id)
    if any(quality_of(row) for row in report.rounds):
        draw_curve(report.rounds, picture, target_map50=settings.target_map50)
        note(f"learning curve: {picture}")
    elif plot is not None:
        note(f"no round was evaluated yet: there is no learning curve to draw, and no {plot}")
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _print_report(report)


def _print_report(report: RoundsReport) -> None:
    from backend.learning.report import quality_of

    if report.rounds:
        output.print(_round_rows(report))
    else:
        say(f"project {report.project_id} has no round yet; {report.serving} serves")
    for row in report.rounds:
        say(f"{row.version} {'promoted' if row.promoted else 'not promoted'}: {row.reason}")
    output.print(_savings_rows(report))
    last = next((q for row in reversed(report.rounds) if (q := quality_of(row))), None)
    if last is not None:
        output.print(_class_rows(last))
    colour = report.advice.colour
    say(report.advice.told, mark=f"{colour}: ", style=_COLOURS[colour])
    marks = {True: "stop", False: "go on", None: "cannot tell"}
    for signal in report.advice.signals:
        say(f"  {signal.name}: {marks[signal.says_stop]} ({signal.told})")


def _round_rows(report: RoundsReport) -> Table:
    from backend.learning.report import quality_of

    rows = table(
        f"rounds of project {report.project_id}; {report.serving} serves",
        *("version", "labels", "hold-out", "mAP50 (95%)", "mAP50-95", "minutes"),
        text=("version",),
    )
    for row in report.rounds:
        quality = quality_of(row)
        rows.add_row(
            row.version,
            str(row.labels),
            str(row.judged_on),
            _figure(quality.map50) if quality else "",
            f"{quality.map50_95.value:.3f}" if quality else "",
            f"{row.seconds / 60:.1f}",
        )
    return rows


def _class_rows(quality: Quality) -> Table:
    rows = table("AP50 of each class in the last evaluated round", "class", "AP50", text=("class",))
    for name, interval in quality.per_class.items():
        rows.add_row(name, _figure(interval) if interval else "none in the hold-out")
    return rows


def _savings_rows(report: RoundsReport) -> Table:
    rows = table(
        "what annotators did to the boxes they were shown",
        *("round", "answers", "accepted", "moved", "relabelled", "deleted", "added", "s each"),
    )
    named = [(str(row.round), own) for row, own in zip(report.rounds, report.savings, strict=True)]
    for name, savings in [*named, ("since", report.since)]:
        edits, each = savings.edits, savings.seconds_each
        counts = (edits.accepted, edits.moved, edits.relabelled, edits.deleted, edits.added)
        rows.add_row(
            name, str(savings.answers), *map(str, counts), "" if each is None else f"{each:.1f}"
        )
    return rows


def _figure(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.2f}-{interval.high:.2f})"


def promote(project_id: ProjectId, version: Version) -> None:
    """Promote a trained model, whatever its evaluation said, and re-rank the queue."""
    from backend.assembly import build_worker_context
    from backend.scoring.serving_model import model_that_serves
    from backend.store.rounds import RoundStore

    with build_worker_context(settings_with()) as worker_context:
        rounds = RoundStore(worker_context.store)
        # Weights that are gone must not serve.
        worker_context.scorers.weights_of(rounds.find(project_id, version), project_id)
        rounds.promote(project_id, version)
        serves = model_that_serves(worker_context.settings, worker_context.store, project_id)
        say(f"project {project_id} is served by {serves} from now on")
        _rerank(worker_context, project_id)


def rollback(project_id: ProjectId) -> None:
    """Take the last promotion back, and re-rank the queue."""
    from backend.assembly import build_worker_context
    from backend.scoring.serving_model import model_that_serves
    from backend.store.rounds import RoundStore

    with build_worker_context(settings_with()) as worker_context:
        before, _ = RoundStore(worker_context.store).roll_back(project_id)
        serves = model_that_serves(worker_context.settings, worker_context.store, project_id)
        say(f"project {project_id} is served by {serves} from now on, no longer by {before}")
        _rerank(worker_context, project_id)


def _rerank(worker_context: WorkerContext, project_id: int) -> None:
    from backend.job_kinds import PUBLISH
    from backend.verbs.jobs import run_as_job

    reports: list[OrderReport] = []
    try:
        run_as_job(worker_context, PUBLISH, project_id, on_report=reports.append)
    except QueueError as error:
        print_warnings([f"the queue is re-ranked later: {error}"])
        worker_context.queue.submit(PUBLISH, project_id)
        return
    print_order_notes(reports[0])
    say(f"{reports[0].ranked} tasks ranked, published as {reports[0].model_version}")
