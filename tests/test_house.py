"""The house as CONTRIBUTING.md draws it: rooms, arrows, and where each thing is changed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BACKEND = ROOT / "backend"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

ARROWS = {
    "vision": (),
    "label_studio": (),
    "selection": (),
    "training": ("vision",),
    "images": ("label_studio",),
    "store": ("label_studio",),
    "scoring": ("images", "label_studio", "selection", "store", "vision"),
    "ranking": ("label_studio", "selection", "store"),
    "engines": ("label_studio", "scoring", "store"),
    "publishing": ("engines", "images", "label_studio", "ranking", "scoring", "store"),
    "learning": ("images", "label_studio", "scoring", "store", "training", "vision"),
    "doctor": ("images", "label_studio", "scoring", "store", "vision"),
    "simulate": ("ranking", "scoring", "selection", "store", "training", "vision"),
    "jobs": (
        *("engines", "images", "label_studio", "learning", "publishing", "scoring", "store"),
        "vision",
    ),
    "api": (
        *("assembly", "jobs", "label_studio", "learning", "publishing", "ranking", "scoring"),
        *("store", "training"),
    ),
    "verbs": (
        *("assembly", "doctor", "engines", "jobs", "label_studio", "learning", "publishing"),
        *("scoring", "simulate", "store", "training", "worker_process"),
    ),
}
"""Room -> the rooms that it imports. Each room imports only rooms above it in this list."""

TOP = {"assembly", "cli", "http_worker", "model", "server", "serving", "worker_process"}
"""Files beside the rooms that join them; no room imports them, but where `ARROWS` says so."""

HEAVY = {"torch", "ultralytics", "openvino", "open_clip"}
"""Only `vision` and `training`, and what replays labelled data, may run models by themselves."""


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """What a file imports, as parts of dotted names."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {(*node.module.split("."), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
    return found


def test_every_folder_is_a_room() -> None:
    assert {path.parent.name for path in BACKEND.glob("*/__init__.py")} == set(ARROWS)


def test_each_room_imports_only_rooms_above_it() -> None:
    order = list(ARROWS)
    for room, others in ARROWS.items():
        assert set(others) - TOP <= set(order[: order.index(room)]), room


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_are_those_that_are_drawn(room: str) -> None:
    found = {
        name[1]
        for path in (BACKEND / room).rglob("*.py")
        for name in imports_of(path)
        if name[0] == "backend" and name[1] in {*ARROWS, *TOP} - {room}
    }
    assert found == set(ARROWS[room])


@pytest.mark.parametrize("room", sorted(set(ARROWS) - {"vision", "training", "simulate"}))
def test_models_are_run_by_vision_and_training(room: str) -> None:
    for path in (BACKEND / room).rglob("*.py"):
        assert not {name[0] for name in imports_of(path)} & HEAVY, path


@pytest.mark.parametrize("room", sorted(set(ARROWS) - {"store"}))
def test_sql_is_in_the_store_alone(room: str) -> None:
    for path in (BACKEND / room).rglob("*.py"):
        assert "sqlalchemy" not in {name[0] for name in imports_of(path)}, path


def test_a_plain_file_imports_no_room() -> None:
    """Files beside the rooms are what all else is built on: they import each other alone."""
    for path in BACKEND.glob("*.py"):
        if path.stem not in TOP | {"__main__", "diversity"}:
            names = {name[1] for name in imports_of(path) if name[0] == "backend"}
            assert not names & {*ARROWS, *TOP}, path


def where() -> list[tuple[str, list[str]]]:
    """The table "where do I change": what -> the paths named in its row."""
    section = CONTRIBUTING.split("## Where do I change", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [(cells[0].strip(), re.findall(r"`([\w/.]+)`", cells[1])) for cells in rows[2:]]


@pytest.mark.parametrize(("what", "paths"), where(), ids=lambda value: str(value)[:30])
def test_what_is_to_be_changed_is_where_the_table_says(what: str, paths: list[str]) -> None:
    assert paths, what
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("room", ARROWS)
def test_no_folder_holds_more_than_its_name_can_say(room: str) -> None:
    for folder in [BACKEND / room, *(p for p in (BACKEND / room).rglob("*") if p.is_dir())]:
        assert len(list(folder.glob("*.py"))) <= 25, folder


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_and_what_they_import_are_there(path: Path) -> None:
    for name in imports_of(path):
        if name[0] in ("backend", "benchmarks", "demo", "tests"):
            module = importlib.import_module(".".join(name[:-1]))
            is_module = (
                importlib.util.find_spec(".".join(name)) if hasattr(module, "__path__") else 0
            )
            assert hasattr(module, name[-1]) or is_module, ".".join(name)
