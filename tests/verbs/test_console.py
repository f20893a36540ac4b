"""What others wrote reaches the terminal as text, and as nothing else."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.plain_text import visible
from backend.verbs import console
from backend.verbs.console import (
    PlainConsole,
    ProgressLines,
    note,
    print_warnings,
    progress_bars,
    say,
    table,
)

# Control codes, markup, emoji names and what turns the direction of writing, more than by chance.
FOREIGN = st.lists(
    st.sampled_from(["[/red]", "[bold", "]", "\x1b[31m", "\x9b2J", "\u202e", "\r", "\n", ":smile:"])
    | st.text(max_size=5)
).map("".join)


@pytest.fixture
def consoles(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    for name in ("output", "errors"):
        made = PlainConsole()
        made.file = stream
        monkeypatch.setattr(console, name, made)
    return stream


@given(FOREIGN)
def test_a_line_stays_one_line_and_holds_only_what_is_printed(text: str) -> None:
    stream = io.StringIO()
    made = PlainConsole()
    made.file = stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "output", made)
        patch.setattr(console, "errors", made)
        say(text)
        note(text, mark="error: ", style="red")
        print_warnings([text])
    shown = visible(text)
    assert stream.getvalue() == f"{shown}\nerror: {shown}\nnote: {shown}\n"
    assert stream.getvalue().replace("\n", "").isprintable()


def test_cells_titles_and_logs_too(consoles: io.StringIO) -> None:
    nasty = "a[/red]\x1b[2J\u202e.jpg"
    rows = table(nasty, "image", text=("image",))
    rows.add_row(nasty)
    console.output.print(rows)
    shown = consoles.getvalue()
    assert r"a[/red]\x1b[2J\u202e.jpg" in shown.replace("│", "").replace("\n", "")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s", (nasty,), None)
    assert "\x1b" not in console._PlainFormatter("%(message)s").format(record)


def test_a_file_gets_a_line_a_minute_and_one_at_the_end(consoles: io.StringIO) -> None:
    seconds = iter([0, 0, 20, 61, 62, 100, 130, 131, 132])
    lines = ProgressLines(clock=lambda: float(next(seconds)))
    for what, done in [
        *(("pictures", 0), ("pictures", 5), ("pictures", 10), ("pictures", 11)),
        *(("pictures", 30), ("steps", 0), ("steps", 1), ("pictures", 0)),
    ]:
        lines(what, done, 30)
    assert consoles.getvalue().splitlines() == [
        "pictures: 10 of 30, about 3 min left",
        "pictures: 30 of 30",
    ]


def test_progress_of_a_command_whose_output_is_kept_is_lines(consoles: io.StringIO) -> None:
    with progress_bars() as show:
        show("scoring", 0, 2)
        show("scoring", 2, 2)
    assert consoles.getvalue() == "scoring: 2 of 2\n"
