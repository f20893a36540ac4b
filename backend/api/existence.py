"""Checks that Label Studio has a project before a job is made for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backend.errors import BusyError
from backend.label_studio.client import Studio
from backend.settings import Settings

# Per request to Label Studio; two are needed, the first for a token.
_STUDIO_S = 2.0

# Requests that wait for Label Studio hold a thread each: few may do so at a time.
_asking = threading.BoundedSemaphore(4)


def check_exists(settings: Settings, project_id: int) -> None:
    """Ask Label Studio for a project before a job is made for it.

    Raises:
        BusyError: others wait for Label Studio already.
        LabelStudioError: there is no such project, or Label Studio does not say so in time.
    """
    with (
        _one_of_few(),
        Studio.from_settings(settings, timeout=_STUDIO_S, retries=0) as studio,
    ):
        studio.project(project_id)


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _asking.acquire(blocking=False):
        raise BusyError(
            "Label Studio is slow to say which projects there are: ask again in a few seconds"
        )
    try:
        yield
    finally:
        _asking.release()
