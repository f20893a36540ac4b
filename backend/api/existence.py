"""Checks that Label Studio has a project before a job is made for it."""

from __future__ import annotations

from backend.label_studio.client import Studio
from backend.settings import Settings
from backend.turnstile import Turnstile

# Per request to Label Studio; two are needed, the first for a token.
_STUDIO_S = 2.0

_asking = Turnstile(
    "Label Studio is slow to say which projects there are: ask again in a few seconds", inside=4
)


def check_exists(settings: Settings, project_id: int) -> None:
    """Ask Label Studio for a project before a job is made for it.

    Raises:
        BusyError: others wait for Label Studio already.
        LabelStudioError: there is no such project, or Label Studio does not say so in time.
    """
    with (
        _asking.turn(),
        Studio.from_settings(settings, timeout=_STUDIO_S, retries=0) as studio,
    ):
        studio.project(project_id)
