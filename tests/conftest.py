"""Shared by all tests: one real Label Studio a process, started when first asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from demo.studio_server import StudioServer, StudioServerError, running_studio


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, the files that may take longest come first: none is left over at the end."""
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
