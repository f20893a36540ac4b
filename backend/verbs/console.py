"""What all verbs share: options, settings, progress, and how things are printed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backend.service_log import log_as_service
from backend.settings import Settings, load_settings

errors = Console(stderr=True)
output = Console()

ProjectId = Annotated[int, typer.Argument(help="The number in the project's address.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[int | None, typer.Option(help="Length of the queue (QUEUE_LIMIT).", min=1)]


def settings_with(**options: Any) -> Settings:
    """Settings from the environment; options that were given win.

    Logging follows LOG_LEVEL, but for INFO: the bars tell as much.
    """
    settings = _settings(options)
    logging.basicConfig(
        level=logging.WARNING if settings.log_level == "INFO" else settings.log_level,
        format="%(levelname)s %(name)s: %(message)s",
    )
    return settings


def service_settings(**options: Any) -> Settings:
    """The same for what runs until it is told to stop: its log is read later, by somebody else."""
    settings = _settings(options)
    log_as_service(settings)
    return settings


def _settings(options: dict[str, Any]) -> Settings:
    return load_settings(**{name: value for name, value in options.items() if value is not None})


@contextmanager
def progress_bars(*, speed_seconds: float = 30) -> Iterator[Any]:
    """A function (what, done, total) that draws bars on stderr.

    The time left is told by the speed over the last `speed_seconds`.
    """
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, speed_estimate_period=speed_seconds) as progress:
        bars: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what)
            progress.update(bars[what], completed=done, total=total)

        yield show


def say(line: str) -> None:
    """One line on stdout, however long."""
    output.print(line, highlight=False, soft_wrap=True)


def note(line: str) -> None:
    """One line on stderr, however long."""
    errors.print(line, highlight=False, soft_wrap=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """What the user should know and need not do anything about."""
    for warning in warnings:
        note(f"[yellow]note:[/yellow] {warning}")


def table(title: str, *columns: str, text: tuple[str, ...] = ()) -> Table:
    """A table of numbers, right-aligned; the columns named in `text` hold words."""
    made = Table(title=title)
    for column in columns:
        if column in text:
            made.add_column(column, overflow="fold")
        else:
            made.add_column(column, justify="right", min_width=len(column))
    return made
