"""What each verb imports: the command line starts at once where it needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from backend.cli import app
from tests.imported import SLOW, imported

FOR_HELP = {
    "_distutils_hack",  # by a .pth file of setuptools, at every start of Python
    "annotated_doc",
    "annotated_types",
    "attr",  # by rich, where it is there
    "click",
    "markdown_it",
    "mdurl",
    "pydantic",
    "pydantic_core",
    "pygments",
    "rich",
    "shellingham",
    "typer",
    "typing_extensions",
    "typing_inspection",
}


def verbs() -> list[tuple[str, ...]]:
    """Every verb, and every verb of a group."""
    found: list[tuple[str, ...]] = [()]
    whole: Any = typer.main.get_command(app)
    for name, command in whole.commands.items():
        found.append((name,))
        found += [(name, inner) for inner in getattr(command, "commands", ())]
    return found


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_help_imports_nothing_but_the_command_line(verb: tuple[str, ...], tmp_path: Path) -> None:
    assert imported(*verb, "--help", environment={"DATA_DIR": str(tmp_path)}) <= FOR_HELP


def test_jobs_starts_without_models_and_clients(tmp_path: Path) -> None:
    imported("jobs", environment={"DATA_DIR": str(tmp_path)})  # makes the store
    found = imported("jobs", environment={"DATA_DIR": str(tmp_path)})
    assert "sqlalchemy" in found
    assert not found & (SLOW | {"httpx", "label_studio_sdk", "numpy"})
