"""`score`, `queue`, `auto-label` and `doctor`: what is served next, and why not."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from backend.strategies import STRATEGIES
from backend.verbs.console import (
    Json,
    Limit,
    ProjectId,
    note,
    output,
    print_warnings,
    progress_bars,
    say,
    settings_with,
    table,
)

if TYPE_CHECKING:
    from backend.engines.engine import Engine
    from backend.publishing.live_queue import OrderReport
    from backend.settings import Settings

_SKIPPED_SHOWN = 10

StrategyName = Enum("StrategyName", {name: name for name in STRATEGIES}, type=str)  # type: ignore[misc]


class EngineName(str, Enum):
    """Where `score` runs the models."""

    embedded = "embedded"
    ray = "ray"


def score(
    project_id: ProjectId,
    strategy: Annotated[
        StrategyName | None, typer.Option(help="How the queue is ordered (STRATEGY).")
    ] = None,
    limit: Limit = None,
    diversity_weight: Annotated[
        float | None, typer.Option(help="0: pure uncertainty; 1: pure spread.", min=0.0, max=1.0)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Score and rank, but publish nothing.")
    ] = False,
    engine: Annotated[
        EngineName, typer.Option(help="Where the models run: here, or on a Ray cluster.")
    ] = EngineName.embedded,
    as_json: Json = False,
) -> None:
    """Score a project's tasks, rank the unlabelled ones and publish the order."""
    chosen = {
        "strategy": None if strategy is None else strategy.value,
        "queue_limit": limit,
        "diversity_weight": diversity_weight,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    make = _dry_run if dry_run else _publish
    report = make(project_id, given, engine)
    print_order_notes(report)
    if as_json:
        print(json.dumps(report.as_json()))
        return
    _print_queue(report.queue_rows())
    what = "published as " + report.model_version if report.model_version else "not published"
    say(
        f"{report.scored} scored, {report.reused} already scored, {len(report.skipped)} skipped, "
        f"{report.ranked} ranked by {report.strategy} with the model {report.scored_by}, {what}"
    )


def print_order_notes(report: OrderReport) -> None:
    """Print the warnings of an order that was just made, and the tasks it left out."""
    print_warnings(report.warnings)
    for task_id, reason in list(report.skipped.items())[:_SKIPPED_SHOWN]:
        note(f"skipped task {task_id}: {reason}")
    more = len(report.skipped) - _SKIPPED_SHOWN
    if more > 0:
        note(
            f"skipped {more} more tasks: `--json` lists them. Where all fail alike, see that "
            "LABEL_STUDIO_URL and LABEL_STUDIO_PUBLIC_URL are right, and name private servers of "
            "images in ALLOWED_IMAGE_HOSTS"
        )


def _engine(name: EngineName, settings: Settings) -> Engine:
    from backend.engines.engine import embedded
    from backend.engines.ray_data import RayData

    return RayData(settings) if name is EngineName.ray else embedded


def _dry_run(project_id: int, given: dict[str, Any], engine: EngineName) -> OrderReport:
    from backend.assembly import build_worker_context
    from backend.publishing.attempt import Attempt
    from backend.publishing.score_and_publish import OrderMaker

    settings = settings_with(**given)
    with (
        build_worker_context(settings, _engine(engine, settings)) as shop,
        progress_bars() as on_progress,
    ):
        orders = OrderMaker(shop.settings, shop.studio, shop.store, shop.scorers, shop.engine)
        return orders.run(project_id, Attempt(on_progress=on_progress), publish=False)


def _publish(project_id: int, given: dict[str, Any], engine: EngineName) -> OrderReport:
    from backend.assembly import build_worker_context
    from backend.job_kinds import PUBLISH
    from backend.verbs.jobs import run_as_job

    reports: list[OrderReport] = []
    settings = settings_with(**given)
    with build_worker_context(settings, _engine(engine, settings)) as worker_context:
        run_as_job(worker_context, PUBLISH, project_id, given, on_report=reports.append)
    return reports[0]


def queue(project_id: ProjectId, limit: Limit = None, as_json: Json = False) -> None:
    """Show what Label Studio serves next: the published order, less what is labelled by now."""
    from backend.label_studio.client import Studio
    from backend.publishing.live_queue import published_queue
    from backend.scoring.serving_model import notes_on_model
    from backend.store.scores import Store

    settings = settings_with(queue_limit=limit)
    store = Store.from_settings(settings)
    try:
        with Studio.from_settings(settings) as studio:
            published = published_queue(studio, store, project_id, settings.queue_limit)
        published.warnings += notes_on_model(settings, store)
    finally:
        store.close()
    print_warnings(published.warnings)
    if as_json:
        print(json.dumps(published.as_json()))
    else:
        _print_queue(published.queue_rows())
        say(f"{published.model_version}, scored by the model {published.scored_by}")


def auto_label(project_id: ProjectId, as_json: Json = False) -> None:
    """Draw boxes on all unlabelled tasks that have none yet, without changing any order."""
    from backend.assembly import build_worker_context
    from backend.job_kinds import AUTO_LABEL
    from backend.verbs.jobs import run_as_job

    with build_worker_context(settings_with()) as worker_context:
        result = run_as_job(worker_context, AUTO_LABEL, project_id).result
    if as_json:
        print(json.dumps({"project_id": project_id, **result}))
        return
    say(
        f"{result['prelabelled']} tasks pre-annotated, {result['had_one']} had boxes already, "
        f"{result['skipped']} skipped"
    )


def doctor(
    project_id: Annotated[
        int | None, typer.Argument(help="The number in the project's address.", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with the set-up, and the one thing to do about it."""
    from backend.doctor.findings import next_step
    from backend.doctor.setup import examine_setup

    findings = examine_setup(settings_with(), project_id)
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings]))
    else:
        marks = {
            "ok": ("ok   ", "green"),
            "warn": ("warn ", "yellow"),
            "fail": ("FAIL ", "red"),
        }
        for finding in findings:
            mark, style = marks[finding.level]
            say(f"{finding.check}: {finding.message}", mark=mark, style=style)
            if finding.remedy:
                say(f"     -> {finding.remedy}")
        step = next_step(findings)
        if not step and project_id is None:
            step = "run `python -m backend doctor PROJECT`: the number in the project's address"
        say(f"next: {step}" if step else "nothing to do")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def _file_name(address: str) -> str:
    """The file's name, without the eight digits that Label Studio puts before an upload's."""
    name = unquote(address.rsplit("/", 1)[-1])
    return re.sub(r"^[0-9a-f]{8}-", "", name) if "/data/upload/" in address else name


def _print_queue(rows: list[dict[str, Any]], most: int = 10) -> None:
    shown = min(most, len(rows))
    printed = table(
        f"first {shown} of the queue (scores: lower = more uncertain; R: picked at random)",
        *("rank", "task", "score", "lowest", "margin", "entropy", "image"),
        text=("image",),
    )
    for row in rows[:most]:
        printed.add_row(
            f"{'R ' if row['picked_at_random'] else ''}{row['rank']}",
            str(row["image_id"]),
            f"{row['uncertainty_score']:.3f}",
            *(f"{value:.3f}" for value in row["scores"].values()),
            _file_name(row["thumbnail"] or ""),
        )
    output.print(printed)
