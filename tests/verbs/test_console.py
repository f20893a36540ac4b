"""What others wrote reaches the terminal as text, and as nothing else."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.plain_text import visible
from backend.verbs import console
from backend.verbs.console import PlainConsole, note, print_warnings, say, table

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
