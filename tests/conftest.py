"""Shared by all tests: one real Label Studio for the whole run, started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.studio_server import StudioServer, StudioServerError, running_studio


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
