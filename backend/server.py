"""The ASGI app: what Label Studio calls on its ML backend, by Label Studio's limits.

`GET /health` has 1 s and `POST /setup` 3 s, and neither touches the model. `POST /predict` has
100 s and answers exactly as many results as it got tasks. `POST /webhook` has 1 s. Errors of
health and setup are shown to the user; those of predict reach only Label Studio's log.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import BackgroundTasks, Body, Depends, FastAPI, HTTPException, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, ConfigDict

from backend import __version__
from backend.errors import HardestFirstError, StoreError
from backend.jobs.assembly import open_queue, take_up_event
from backend.label_studio.protocol import (
    PROJECT_HEADER,
    PROJECT_UPDATED,
    SECRET_HEADER,
    parse_webhook,
    project_number,
)
from backend.label_studio.versions import UNPUBLISHED
from backend.loop.assembly import build_worker
from backend.loop.predictor import Predictor
from backend.loop.repair import OrderKeeper
from backend.loop.secret import webhook_secret
from backend.loop.store import Store
from backend.service_log import log_as_service
from backend.settings import Settings, load_settings

logger = logging.getLogger(__name__)


class _Body(BaseModel):
    """Label Studio adds fields between versions: unknown ones are kept out of the way."""

    model_config = ConfigDict(extra="ignore")


class SetupRequest(_Body):
    """`POST /setup`. `project` is "ID.TIMESTAMP"; `extra_params` a dict, a string or null."""

    project: str | int | None = None
    extra_params: Any = None


class PredictRequest(_Body):
    """`POST /predict`."""

    tasks: list[dict[str, Any]]
    project: str | int | None = None
    label_config: str = ""
    params: Any = None


class VersionsRequest(_Body):
    """`POST /versions`."""

    project: str | int | None = None


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app. gunicorn calls this without arguments; settings then come from the environment.

    Raises:
        SettingsError: a setting is malformed.
        StoreError: the store cannot be opened.
    """
    chosen = settings or load_settings()
    log_as_service(chosen)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = Store.from_settings(chosen)
        worker = build_worker(chosen, store)
        worker.start()
        app.state.predictor = Predictor(chosen, store, worker)
        app.state.keeper = OrderKeeper(chosen, store)
        app.state.queue = open_queue(chosen, store)
        app.state.secret = webhook_secret(store)
        yield
        app.state.keeper.stop()
        app.state.predictor.close()

    app = FastAPI(title="Hardest First", version=__version__, lifespan=lifespan)
    app.add_exception_handler(HardestFirstError, _one_line)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _no_traceback)
    _add_routes(app, _basic_auth(chosen), _event_auth(chosen))
    return app


def _add_routes(app: FastAPI, authorised: Any, event_authorised: Any) -> None:
    # Plain functions: FastAPI runs them on threads, so a slow predict never holds up health.
    @app.get("/health")
    @app.get("/")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "HardestFirst", "version": __version__}

    @app.post("/setup", dependencies=[authorised])
    def setup(body: SetupRequest, request: Request, later: BackgroundTasks) -> dict[str, str]:
        project_id = _known_project(body.project)
        version = request.app.state.predictor.published_version(project_id)
        # Connecting a backend makes Label Studio forget the published version, and make a webhook
        # for all there is: the keeper looks after the one, the worker after the other.
        request.app.state.keeper.look_soon(project_id)
        if version != UNPUBLISHED:
            later.add_task(_take_up, request.app.state, PROJECT_UPDATED, project_id)
        return {"model_version": version}

    @app.post("/predict", dependencies=[authorised])
    def predict(body: PredictRequest, request: Request) -> dict[str, Any]:
        project = body.project
        if project is None and body.tasks:
            project = body.tasks[0].get("project")
        project_id = _known_project(project)
        predictor: Predictor = request.app.state.predictor
        results = predictor.predict(project_id, body.tasks, body.label_config)
        return {"results": results, "model_version": predictor.published_version(project_id)}

    @app.post("/webhook", status_code=status.HTTP_201_CREATED, dependencies=[event_authorised])
    def webhook(
        body: Annotated[dict[str, Any], Body()], request: Request, later: BackgroundTasks
    ) -> dict[str, str]:
        header = request.headers.get(PROJECT_HEADER)
        event = parse_webhook(body, project_header=header)
        project_id = _known_project(event.project_id)
        # Label Studio waits for the answer, and the annotator with it: the work begins after it.
        later.add_task(_take_up, request.app.state, event.action, project_id)
        return {"status": "acknowledged"}

    @app.post("/versions", dependencies=[authorised])
    def versions(body: VersionsRequest, request: Request) -> dict[str, list[str]]:
        project_id = _known_project(body.project)
        return {"versions": [request.app.state.predictor.published_version(project_id)]}


def _take_up(state: Any, action: str, project_id: int) -> None:
    try:
        if action == PROJECT_UPDATED:
            state.keeper.look_soon(project_id)
        take_up_event(state.queue, action, project_id)
    except HardestFirstError as error:
        # Nothing is lost: the worker looks at every project from time to time.
        logger.warning("project %s: %s was not taken up: %s", project_id, action, error)


def _known_project(value: str | int | None) -> int:
    project_id = project_number(value)
    if project_id is None:
        raise HTTPException(
            status.HTTP_422_UNPROCESSABLE_CONTENT,
            f"project {value!r} is no project: Label Studio sends ID.TIMESTAMP",
        )
    return project_id


def _event_auth(settings: Settings) -> Any:
    """Our own webhook shows its secret; Label Studio itself the connection's user and password."""
    check_basic = _basic_auth(settings).dependency

    def check(
        request: Request,
        given: Annotated[HTTPBasicCredentials | None, Depends(HTTPBasic(auto_error=False))],
    ) -> None:
        shown = request.headers.get(SECRET_HEADER)
        if shown is None:
            check_basic(given)
        elif not secrets.compare_digest(shown.encode(), request.app.state.secret.encode()):
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "wrong webhook secret: delete that webhook in Label Studio; the worker makes one",
            )

    return Depends(check)


def _basic_auth(settings: Settings) -> Any:
    user = settings.basic_auth_user.encode()
    password = settings.basic_auth_pass.get_secret_value().encode()

    def check(
        given: Annotated[HTTPBasicCredentials | None, Depends(HTTPBasic(auto_error=False))],
    ) -> None:
        if not user and not password:
            return
        # Both are compared, each in constant time, so that time tells nothing of either.
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

    return Depends(check)


async def _one_line(_request: Request, error: Exception) -> JSONResponse:
    unavailable = isinstance(error, StoreError)
    logger.error("%s", error)
    return JSONResponse(
        {"detail": str(error)},
        status.HTTP_503_SERVICE_UNAVAILABLE
        if unavailable
        else status.HTTP_422_UNPROCESSABLE_CONTENT,
    )


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(
        {"detail": f"{where}: {first['msg']}"}, status.HTTP_422_UNPROCESSABLE_CONTENT
    )


async def _no_traceback(_request: Request, error: Exception) -> JSONResponse:
    logger.error("unexpected error", exc_info=error)
    return JSONResponse(
        {"detail": "unexpected error; the backend's log holds the details"},
        status.HTTP_500_INTERNAL_SERVER_ERROR,
    )
