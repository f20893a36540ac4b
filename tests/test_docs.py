"""The documents say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from backend.api.prefixes import PREFIXES
from backend.cli import app
from backend.doctor.tested_versions import TESTED
from backend.server import create_app
from backend.settings import Settings, load_settings
from backend.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


def cells(line: str) -> list[str]:
    """The cells of a table row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_rows(document: str) -> dict[str, list[str]]:
    """First cell, without backticks -> all cells, of every table row of a Markdown document."""
    rows = [cells(line) for line in document.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_stands_in_the_readme_with_its_meaning(name: str) -> None:
    row = table_rows(README)[name.upper()]
    field = Settings.model_fields[name]
    assert field.description is not None
    assert row[2] == field.description


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_stands_in_the_readme(strategy: str) -> None:
    assert STRATEGIES[strategy].text in table_rows(README)[strategy][1]


@pytest.mark.parametrize("version", list(TESTED))
def test_every_tested_label_studio_stands_in_the_readme(version: str) -> None:
    assert table_rows(README)[version][1] == TESTED[version]


def test_the_newest_tested_label_studio_is_the_one_of_all_tests() -> None:
    pinned = (ROOT / "requirements-label-studio.txt").read_text().split("==")[-1].strip()
    assert pinned == list(TESTED)[-1]


def test_every_verb_stands_in_the_readme_and_none_that_is_not_there() -> None:
    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"python -m backend ([a-z-]+)", README))
    assert named == verbs


@pytest.fixture(scope="module")
def operations() -> dict[str, dict[str, Any]]:
    """ "GET /path" -> what the OpenAPI document says of it, under the first of the prefixes."""
    paths = create_app(load_settings(label_studio_api_key="nobody's")).openapi()["paths"]
    return {
        f"{method.upper()} {path}": operation
        for path, methods in paths.items()
        for method, operation in methods.items()
        if not path.startswith(f"{PREFIXES[1]}/")
    }


def test_every_route_stands_in_the_api_document_and_none_that_is_not_there(
    operations: dict[str, Any],
) -> None:
    named = {name for name in table_rows(API) if re.match("[A-Z]+ /", name)}
    assert named == set(operations)


def test_every_parameter_stands_in_the_api_document(operations: dict[str, Any]) -> None:
    named = {
        parameter["name"]
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
    assert {name for name in named if f"`{name}`" not in API} == set()


def test_every_refusal_stands_in_the_api_document(operations: dict[str, Any]) -> None:
    declared = {code for operation in operations.values() for code in operation["responses"]}
    named = set(re.findall(r"^\| ([45]\d\d) \|", API, re.M))
    assert {code for code in declared if code >= "400"} <= named


@pytest.mark.parametrize(
    "document", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "demo" / "README.md"]
)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_importing_the_backend_makes_and_reads_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = "import backend.cli, backend.server, backend.model, backend.vision.models"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []
