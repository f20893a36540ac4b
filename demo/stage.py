"""What the demo's parts share: where it works, what it shows, and how it speaks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.studio_server import StudioServer

HERE = Path(__file__).parent
WORK = HERE.parent / "var" / "demo"
DATA = WORK / "data"


class DemoError(Exception):
    """The demo cannot go on; the message is one line that says why."""


@dataclass(frozen=True)
class Scenario:
    """What the demo shows.

    Attributes:
        images: the files of the pool.
        labels: the label names of the project.
        environment: settings of the backend, beyond those that every demo has.
    """

    images: Sequence[Path]
    labels: Sequence[str]
    environment: dict[str, str]


def environment(studio: StudioServer, scenario: Scenario) -> dict[str, str]:
    """What the backend's processes are started with."""
    return {
        **os.environ,
        **scenario.environment,
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.admin.personal_token,
        "DATA_DIR": str(DATA),
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "BASIC_AUTH_USER": "",
        "BASIC_AUTH_PASS": "",
        "HOST": "127.0.0.1",
    }
