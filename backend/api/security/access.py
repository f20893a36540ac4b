"""Who may call the API, and for which projects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import BackgroundTasks, Depends, HTTPException, Request, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.api.security.basic_auth import basic, check_connection, check_event
from backend.api.security.limits import Door
from backend.api.security.loopback import is_from_this_machine
from backend.api.services import Services, ServicesDep, services_of
from backend.errors import StoreError
from backend.store.api_keys import ApiKey

_LABEL_STUDIO = frozenset({"/setup", "/predict", "/webhook", "/versions"})

_bearer = HTTPBearer(
    scheme_name="key",
    description="A key of `python -m backend keys make NAME`. Where none was ever made, "
    "programs on the server's own machine are answered without.",
    auto_error=False,
)
_Shown = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Args:
        name: of the key; "" where no key is asked for.
        projects: the projects it may see; None: all.
        may_write: False: it may only read.
    """

    name: str = ""
    projects: frozenset[int] | None = None
    may_write: bool = True

    def check(self, project_id: int) -> None:
        """Refuse a project that the caller may not see.

        Raises:
            HTTPException: 403.
        """
        if self.projects is not None and project_id not in self.projects:
            raise HTTPException(
                status.HTTP_403_FORBIDDEN,
                f"this key is not for project {project_id}: ask for one that is",
            )


async def _admitted(
    request: Request, services: Services, shown: HTTPAuthorizationCredentials | None
) -> ApiKey | None:
    """See `Gate.admit`; asked once for each request, before its body is read if it has one."""
    if not hasattr(request.state, "admitted"):
        request.state.admitted = await services.gate.admit(
            None if shown is None else shown.credentials,
            address=request.client.host if request.client else "",
            from_this_machine=is_from_this_machine(request),
        )
    key: ApiKey | None = request.state.admitted
    return key


async def _reader(
    request: Request, services: ServicesDep, shown: _Shown, later: BackgroundTasks
) -> Caller:
    key = await _admitted(request, services, shown)
    if key is None:
        return Caller()
    request.state.key = key.name  # for the log
    if services.gate.is_use_due(key):
        later.add_task(services.gate.note_use, key)
    return Caller(key.name, key.projects, key.may_write)


def door_of(path: str) -> Door | None:
    """The check of a path, by the headers of a request; None: nothing there takes a body."""
    if path in _LABEL_STUDIO:
        return _label_studio_door
    return _key_door if path.startswith("/v1/") else None


async def _key_door(request: Request) -> None:
    try:
        await _admitted(request, services_of(request), await _bearer(request))
    except StoreError as error:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None


async def _label_studio_door(request: Request) -> None:
    check = check_event if request.url.path == "/webhook" else check_connection
    check(request, services_of(request), await basic(request))


KEY_FIRST = Depends(_reader)
"""For `dependencies=` of a router: a key is asked for before anything else is looked at, also by a
route that forgets to."""

Reader = Annotated[Caller, KEY_FIRST]
"""A caller that may read."""


async def _writer(caller: Reader) -> Caller:
    if not caller.may_write:
        raise HTTPException(
            status.HTTP_403_FORBIDDEN, "this key may only read: ask for one that may write"
        )
    return caller


Writer = Annotated[Caller, Depends(_writer)]
"""A caller that may also change things: start jobs, put images first."""
