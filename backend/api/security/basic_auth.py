"""How Label Studio shows who it is: the connection's user and password, or our webhook's secret."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends, HTTPException, Request, status
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from backend.api.services import ServicesDep
from backend.label_studio.protocol import SECRET_HEADER

basic = HTTPBasic(auto_error=False)
_Given = Annotated[HTTPBasicCredentials | None, Depends(basic)]


def check_connection(_request: Request, services: ServicesDep, given: _Given) -> None:
    """Refuse who does not show BASIC_AUTH_USER and BASIC_AUTH_PASS, where these are set.

    Raises:
        HTTPException: 401.
    """
    user = services.settings.basic_auth_user.encode()
    password = services.settings.basic_auth_pass.get_secret_value().encode()
    if not user and not password:
        return
    # Both are compared, each in constant time, so that timing reveals neither.
    matches = given is not None and (
        secrets.compare_digest(given.username.encode(), user)
        & secrets.compare_digest(given.password.encode(), password)
    )
    if not matches:
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "wrong user or password: give the backend's connection in Label Studio "
            "BASIC_AUTH_USER and BASIC_AUTH_PASS",
            headers={"WWW-Authenticate": "Basic"},
        )


def check_event(request: Request, services: ServicesDep, given: _Given) -> None:
    """Our own webhook shows its secret; Label Studio itself the connection's user and password.

    Raises:
        HTTPException: 401.
    """
    shown = request.headers.get(SECRET_HEADER)
    if shown is None:
        check_connection(request, services, given)
    elif not secrets.compare_digest(shown.encode(), services.secret.encode()):
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "wrong webhook secret: delete that webhook in Label Studio; the worker makes one",
        )
