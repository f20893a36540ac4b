"""What Label Studio calls on its ML backend, by Label Studio's limits.

`GET /health` has 1 s and `POST /setup` 3 s, and neither touches the model. `POST /predict` has
100 s and answers exactly as many results as it got tasks. `POST /webhook` has 1 s. Errors of
health and setup are shown to the user; those of predict reach only Label Studio's log.
"""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any

from anyio import to_thread
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    HTTPException,
    Request,
    Response,
    status,
)
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from structlog.contextvars import bind_contextvars

from backend import __version__
from backend.api.parameters import refusals_with
from backend.api.security.basic_auth import check_connection, check_event
from backend.api.services import Services, ServicesDep
from backend.errors import HardestFirstError
from backend.jobs.events import take_up_event
from backend.label_studio.protocol import (
    PROJECT_HEADER,
    PROJECT_UPDATED,
    SERVER,
    parse_webhook,
    project_number,
)
from backend.label_studio.versions import UNPUBLISHED
from backend.publishing.predict import PREDICT_SECONDS

logger = logging.getLogger(__name__)

# Plain functions, which FastAPI runs on threads, but for two: health waits for no thread, and
# predict, which may wait long for images, has threads of its own.
router = APIRouter(tags=["Label Studio"])

_RESPONSES = refusals_with(401, 422)


_Project = Annotated[str | StrictInt | None, Field(examples=["12.1700000000"])]
_EVENT = {"action": "ANNOTATION_CREATED", "project": {"id": 12}}


class _Body(BaseModel):
    """Label Studio adds fields between versions: unknown ones are kept out of the way."""

    model_config = ConfigDict(extra="ignore")


class SetupRequest(_Body):
    """`POST /setup`. `project` is "ID.TIMESTAMP"; `extra_params` a dict, a string or null."""

    project: _Project = None
    extra_params: Any = None


class PredictRequest(_Body):
    """`POST /predict`."""

    tasks: list[dict[str, Any]]
    project: _Project = None
    label_config: str = ""
    params: Any = None


class VersionsRequest(_Body):
    """`POST /versions`."""

    project: _Project = None


@router.get("/health")
@router.get("/", include_in_schema=False)
async def health() -> dict[str, str]:
    """Say that the server is there."""
    return {
        "status": "UP",
        "model_class": "HardestFirst",
        "server": SERVER,
        "version": __version__,
    }


@router.post("/setup", dependencies=[Depends(check_connection)], responses=_RESPONSES)
def setup(body: SetupRequest, services: ServicesDep, later: BackgroundTasks) -> dict[str, str]:
    """Return the version whose predictions Label Studio shows."""
    project_id = _known_project(body.project)
    version = services.predictor.published_version(project_id)
    if version != UNPUBLISHED:
        # Connecting a backend makes Label Studio forget the published version, and make a webhook
        # for all there is: the keeper looks after the one, the worker after the other.
        later.add_task(_take_up, services, PROJECT_UPDATED, project_id)
    return {"model_version": version}


@router.post(
    "/predict",
    response_model=dict[str, Any],
    dependencies=[Depends(check_connection)],
    responses=_RESPONSES,
)
async def predict(body: PredictRequest, services: ServicesDep) -> Response:
    """Draw boxes on tasks, and score them."""
    # From here on, not from when a thread is free: those who wait for one wait for Label Studio's
    # images too, and their time runs.
    deadline = time.monotonic() + PREDICT_SECONDS
    project = body.project
    if project is None and body.tasks:
        project = body.tasks[0].get("project")
    project_id = _known_project(project)
    return await to_thread.run_sync(
        _predicted, services, project_id, body, deadline, limiter=services.predicting
    )


def _predicted(
    services: Services, project_id: int, body: PredictRequest, deadline: float
) -> Response:
    results = services.predictor.predict(
        project_id, body.tasks, body.label_config, deadline=deadline
    )
    version = services.predictor.published_version(project_id)
    # Written out here, not on the event loop: it may be thousands of tasks.
    return JSONResponse({"results": results, "model_version": version})


@router.post(
    "/webhook",
    status_code=status.HTTP_201_CREATED,
    dependencies=[Depends(check_event)],
    responses=_RESPONSES,
)
def webhook(
    body: Annotated[dict[str, Any], Body(examples=[_EVENT])],
    request: Request,
    services: ServicesDep,
    later: BackgroundTasks,
) -> dict[str, str]:
    """Receive an event of Label Studio."""
    header = request.headers.get(PROJECT_HEADER)
    event = parse_webhook(body, project_header=header)
    project_id = _known_project(event.project_id)
    # Label Studio waits for the answer, and the annotator with it: the work begins after it.
    later.add_task(_take_up, services, event.action, project_id)
    return {"status": "acknowledged"}


@router.post("/versions", dependencies=[Depends(check_connection)], responses=_RESPONSES)
def versions(body: VersionsRequest, services: ServicesDep) -> dict[str, list[str]]:
    """Return the version whose predictions Label Studio shows, as a list."""
    project_id = _known_project(body.project)
    return {"versions": [services.predictor.published_version(project_id)]}


def _take_up(services: Services, action: str, project_id: int) -> None:
    try:
        # A check takes a thread of its own: not for any number that a caller names.
        if action == PROJECT_UPDATED and services.store.publication(project_id) is not None:
            services.keeper.schedule_check(project_id)
        take_up_event(services.queue, action, project_id)
    except HardestFirstError as error:
        # Nothing is lost: the worker polls every project from time to time.
        logger.warning("project %s: %s was not taken up: %s", project_id, action, error)


def _known_project(value: Any) -> int:
    project_id = project_number(value)
    if project_id is None:
        raise HTTPException(
            status.HTTP_422_UNPROCESSABLE_CONTENT,
            f"project {value!r:.60} is no project: Label Studio sends ID.TIMESTAMP",
        )
    bind_contextvars(project=project_id)
    return project_id
