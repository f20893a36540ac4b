"""The command line: `python -m backend VERB`.

Results go to stdout, progress and warnings to stderr. An expected failure is one line on stderr
and exit status 1.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backend.errors import HardestFirstError
from backend.settings import STRATEGIES, Settings, load_settings

app = typer.Typer(
    name="backend",
    help="Hardest First: the hardest, most diverse images first, in Label Studio.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_errors = Console(stderr=True)
_output = Console()

StrategyName = Enum("StrategyName", {name: name for name in STRATEGIES}, type=str)  # type: ignore[misc]

ProjectId = Annotated[int, typer.Argument(help="The number in the project's address.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[int | None, typer.Option(help="Length of the queue (QUEUE_LIMIT).", min=1)]


def main() -> None:
    """Run the command line; the errors that are expected become one line."""
    try:
        app()
    except HardestFirstError as error:
        _errors.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _errors.print("stopped; what was stored is kept", highlight=False)
        sys.exit(130)


@app.command()
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
    as_json: Json = False,
) -> None:
    """Score a project's tasks, rank the unlabelled ones and publish the order."""
    from backend.loop.assembly import build_order_maker

    settings = _settings(
        strategy=None if strategy is None else strategy.value,
        queue_limit=limit,
        diversity_weight=diversity_weight,
    )
    with build_order_maker(settings) as orders, _progress() as on_progress:
        report = orders.run(project_id, publish=not dry_run, on_progress=on_progress)
    _print_warnings(report.warnings)
    if as_json:
        print(json.dumps(report.as_json()))
        return
    _print_queue(report.queue_rows())
    for task_id, reason in report.skipped.items():
        _errors.print(f"skipped task {task_id}: {reason}", highlight=False, soft_wrap=True)
    what = "published as " + report.model_version if report.model_version else "not published"
    _output.print(
        f"{report.scored} scored, {report.reused} already scored, {len(report.skipped)} skipped, "
        f"{report.ranked} ranked by {report.strategy}, {what}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def queue(project_id: ProjectId, limit: Limit = None, as_json: Json = False) -> None:
    """Show what Label Studio serves next: the published order, less what is labelled by now."""
    from backend.loop.assembly import read_queue

    settings = _settings(queue_limit=limit)
    published = read_queue(settings, project_id)
    _print_warnings(published.warnings)
    if as_json:
        print(json.dumps(published.as_json()))
    else:
        _print_queue(published.queue_rows())


@app.command()
def doctor(
    project_id: Annotated[
        int | None, typer.Argument(help="The number in the project's address.", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with the set-up, and the one thing to do about it."""
    from backend.loop.assembly import examine_setup

    findings = examine_setup(_settings(), project_id)
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings]))
    else:
        marks = {
            "ok": "[green]ok[/green]  ",
            "warn": "[yellow]warn[/yellow]",
            "fail": "[red]FAIL[/red]",
        }
        for finding in findings:
            _output.print(
                f"{marks[finding.level]} {finding.check}: {finding.message}",
                highlight=False,
                soft_wrap=True,
            )
            if finding.remedy:
                _output.print(f"     -> {finding.remedy}", highlight=False, soft_wrap=True)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port (PORT).", min=1, max=65535)] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (HOST).")] = None,
) -> None:
    """Run the ML backend that Label Studio connects to."""
    from backend.serving import run_server

    run_server(_settings(port=port, host=host))


@app.command()
def demo(
    wait: Annotated[bool, typer.Option(help="Stay up until Ctrl-C.")] = True,
    model: Annotated[
        str | None, typer.Option(help="Your own detector, such as yolo11n.pt.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Your own folder of images.")] = None,
) -> None:
    """Start Label Studio with a filled project and serve its hardest image first."""
    from demo.run import run_demo

    raise typer.Exit(run_demo(wait=wait, model=model, images=images))


def _settings(**options: Any) -> Settings:
    """Settings from the environment; options that were given win. Logging follows LOG_LEVEL."""
    given = {name: value for name, value in options.items() if value is not None}
    settings = load_settings(**given)
    logging.basicConfig(
        level=logging.WARNING if settings.log_level == "INFO" else settings.log_level,
        format="%(levelname)s %(name)s: %(message)s",
    )
    return settings


@contextmanager
def _progress() -> Iterator[Any]:
    """A function (what, done, total) that draws bars on stderr."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_errors) as progress:
        bars: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what)
            progress.update(bars[what], completed=done, total=total)

        yield show


def _file_name(address: str) -> str:
    """The file's name, without the eight digits that Label Studio puts before an upload's."""
    name = unquote(address.rsplit("/", 1)[-1])
    return re.sub(r"^[0-9a-f]{8}-", "", name) if "/data/upload/" in address else name


def _print_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        _errors.print(f"[yellow]note:[/yellow] {warning}", highlight=False, soft_wrap=True)


def _print_queue(rows: list[dict[str, Any]], most: int = 10) -> None:
    shown = min(most, len(rows))
    table = Table(title=f"first {shown} of the queue (scores: lower = more uncertain)")
    for column in ("rank", "task", "score", "lowest", "margin", "entropy"):
        table.add_column(column, justify="right", min_width=len(column))
    table.add_column("image", overflow="fold")
    for row in rows[:most]:
        table.add_row(
            str(row["rank"]),
            str(row["image_id"]),
            f"{row['uncertainty_score']:.3f}",
            *(f"{value:.3f}" for value in row["scores"].values()),
            _file_name(row["thumbnail"] or ""),
        )
    _output.print(table)
