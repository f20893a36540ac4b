"""Shared by all tests: one real Label Studio and one PostgreSQL a process, when first asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from backend.store.scores import Store
from backend.store.tables import metadata
from demo.studio_server import StudioServer, StudioServerError, running_studio
from tests.person import Person
from tests.postgres_server import postgres_bin, running_postgres

# What tests of these folders do takes seconds each: servers, trainings, jobs in processes.
SLOW_FOLDERS = {"api", "engines", "jobs", "label_studio", "loop", "scoring", "simulate", "training"}
# The same in files of other folders: networks, and servers.
SLOW_FILES = {
    *("test_demo_scene.py", "test_conversion.py", "test_foreign.py", "test_metrics.py"),
    *("test_model.py", "test_models.py", "test_server.py", "test_service_log.py", "test_yolo.py"),
}
SLOW_FIXTURES = {"label_studio", "postgres_url", "redis_url"}

# How long an example takes says more of the machine than of the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fast`, for `make test-fast`."""
    parser.addoption(
        "--fast",
        action="store_true",
        help="only what needs no Label Studio, no browser, no other server and no training",
    )


def _is_slow(item: pytest.Item) -> bool:
    folder = item.path.relative_to(item.config.rootpath).parts[1]
    fixtures = set(getattr(item, "fixturenames", ()))
    works_long = folder in SLOW_FOLDERS or item.path.name in SLOW_FILES
    return works_long or bool(fixtures & SLOW_FIXTURES) or "postgresql" in item.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, the files that may take longest come first: none is left over at the end."""
    if config.getoption("fast"):
        slow = [item for item in items if _is_slow(item)]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
    if hasattr(config, "workerinput"):
        items.sort(key=_may_take, reverse=True)


def _may_take(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return limit.args[0] if limit else 0


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Half a character, which tests send on purpose and servers log, cannot travel in a report."""
    return _whole((yield))


def _whole(found: Any) -> Any:
    if isinstance(found, str):
        return found.encode(errors="backslashreplace").decode()
    if isinstance(found, dict):
        return {name: _whole(value) for name, value in found.items()}
    return type(found)(map(_whole, found)) if isinstance(found, list | tuple) else found


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioServer]:
    """A real Label Studio on loopback. Each test makes its own project in it."""
    try:
        running = running_studio(tmp_path_factory.mktemp("label-studio"))
        with running as server:
            yield server
    except StudioServerError as error:
        if "is not there" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def owner(label_studio: StudioServer) -> Iterator[Person]:
    """Who set Label Studio up."""
    person = Person(label_studio.url, label_studio.admin)
    with person.http:
        yield person


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    programs = postgres_bin()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    with running_postgres(programs, tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        opened = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    else:
        opened = Store(request.getfixturevalue("postgres_url"))
        with opened.begin() as connection:
            for table in metadata.tables.values():
                connection.execute(table.delete())
    yield opened
    opened.close()
