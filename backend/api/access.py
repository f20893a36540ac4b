"""Who may call the API, and for which projects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, status


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Args:
        name: of the key; "" where no key is asked for.
        projects: the projects it may see; None: all.
    """

    name: str = ""
    projects: frozenset[int] | None = None

    def check(self, project_id: int) -> None:
        """Refuse a project that the caller may not see.

        Raises:
            HTTPException: 403.
        """
        if self.projects is not None and project_id not in self.projects:
            raise HTTPException(
                status.HTTP_403_FORBIDDEN, f"this key is not for project {project_id}"
            )


def _reader() -> Caller:
    return Caller()


def _writer() -> Caller:
    return Caller()


Reader = Annotated[Caller, Depends(_reader)]
"""A caller that may read."""

Writer = Annotated[Caller, Depends(_writer)]
"""A caller that may also change things: start jobs, put images first."""
