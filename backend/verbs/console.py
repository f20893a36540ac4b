"""What all verbs share: options, settings, progress, and how things are printed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend.plain_text import visible

if TYPE_CHECKING:
    from backend.settings import Settings


ShowProgress = Callable[[str, int, int], None]


class PlainConsole(Console):
    """Prints text as it is: nothing in it is markup, an emoji's name, or a terminal's command.

    The one place where what others wrote (file names, titles, addresses, errors) becomes harmless.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Rich asks this for every text, in a line as in a table."""
        return super().render_str("\n".join(map(visible, text.split("\n"))), **options)


errors = PlainConsole(stderr=True)
output = PlainConsole()

ProjectId = Annotated[int, typer.Argument(help="The number in the project's address.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[int | None, typer.Option(help="Length of the queue (QUEUE_LIMIT).", min=1)]


def settings_with(**options: Any) -> Settings:
    """Settings from the environment; options that were given win.

    Logging follows LOG_LEVEL, except INFO: the bars show as much.
    """
    settings = _settings(options)
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    level = logging.WARNING if settings.log_level == "INFO" else settings.log_level
    logging.basicConfig(level=level, handlers=[handler])
    return settings


class _PlainFormatter(logging.Formatter):
    """Lines of log without what a terminal obeys; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(visible, super().format(record).split("\n")))


def service_settings(**options: Any) -> Settings:
    """The same for what runs until it is stopped: its log is read later."""
    from backend.service_log import log_as_service

    settings = _settings(options)
    log_as_service(settings)
    return settings


def _settings(options: dict[str, Any]) -> Settings:
    from backend.settings import load_settings

    return load_settings(**{name: value for name, value in options.items() if value is not None})


@contextmanager
def progress_bars(*, speed_seconds: float = 30) -> Iterator[ShowProgress]:
    """A function (what, done, total) that shows how far things are, on stderr.

    A terminal gets bars, whose time left goes by the speed over the last `speed_seconds`; a file
    gets a line a minute, and one at the end of each phase.
    """
    if not errors.is_terminal:
        yield ProgressLines()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

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


class ProgressLines:
    """Progress as lines, each at least `pause_s` after the last; the end of a phase at once.

    Args:
        pause_s: seconds between two lines.
        clock: gives the time in seconds.
    """

    def __init__(self, pause_s: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._ended: set[str] = set()
        self._said_at = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say so, where it is time to."""
        now = self._clock()
        if done < self._began.get(what, (now, done))[1]:  # it begins once more
            del self._began[what]
            self._ended.discard(what)
        began_at, began_with = self._began.setdefault(what, (now, done))
        ends = 0 < total <= done and what not in self._ended
        if not ends and now - self._said_at < self._pause_s:
            return
        if ends:
            self._ended.add(what)
        self._said_at = now
        steps = done - began_with
        left = (now - began_at) / steps * max(0, total - done) if steps > 0 else 0
        when = f", about {math.ceil(left / 60)} min left" if left else ""
        note(f"{what}: {done} of {total}{when}")


def say(line: str, *, mark: str = "", style: str = "") -> None:
    """One line on stdout, however long; `mark` comes first, in the style."""
    _print_line(output, line, mark, style)


def note(line: str, *, mark: str = "", style: str = "") -> None:
    """One line on stderr, however long; `mark` comes first, in the style."""
    _print_line(errors, line, mark, style)


def _print_line(console: Console, line: str, mark: str, style: str) -> None:
    console.print(Text.assemble((mark, style), visible(line)), soft_wrap=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print what the user should know, without having to act."""
    for warning in warnings:
        note(warning, mark="note: ", style="yellow")


def table(title: str, *columns: str, text: tuple[str, ...] = ()) -> Table:
    """A table of numbers, right-aligned; the columns named in `text` hold words."""
    made = Table(title=title)
    for column in columns:
        if column in text:
            made.add_column(column, overflow="fold")
        else:
            made.add_column(column, justify="right", min_width=len(column))
    return made
