"""Jobs: ask for pre-annotation, list, look up, follow, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, status
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field

from backend.api.existence import check_exists
from backend.api.forms import form_or_json, form_or_json_schema
from backend.api.parameters import LARGEST_ID, Id, PathId, refusals
from backend.api.security.access import Caller, Reader, Writer
from backend.api.services import Services, ServicesDep
from backend.errors import QueueError
from backend.job_kinds import AUTO_LABEL, KINDS, POLL
from backend.store.jobs import QUEUED, STATES, Job

router = APIRouter(tags=["jobs"])

if TYPE_CHECKING:
    State = str
    Kind = str
else:
    State = Literal[tuple(STATES)]
    Kind = Literal[tuple(KINDS)]


class JobView(BaseModel):
    """A job. `done` of `total` steps of the phase `doing` are behind it; moments are UTC."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    project_id: int
    kind: Kind
    state: State
    payload: Mapping[str, Any] = Field(description="What it was asked to do.")
    attempts: int = Field(description="How often it was begun.")
    cancel_requested: bool
    doing: str = Field(description="Its phase.")
    done: int
    total: int
    seconds_left: float | None = Field(description="Of this phase; null: nothing can be said yet.")
    log: list[str] = Field(description="Its last lines.")
    result: Mapping[str, Any]
    error: str = Field(description='Why it failed; "" while it has not.')
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobsView(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobView]


class AutoLabelRequest(BaseModel):
    """What to draw on the unlabelled tasks that have no boxes yet."""

    project_id: Id
    tasks: Literal["detect"] = "detect"


@router.post(
    "/auto",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=JobView,
    responses=refusals(404, 415, 502, 504),
    openapi_extra=form_or_json_schema(AutoLabelRequest),
)
def auto_label(
    body: Annotated[AutoLabelRequest, Depends(form_or_json(AutoLabelRequest))],
    services: ServicesDep,
    caller: Writer,
) -> Job:
    """Draw boxes on the unlabelled tasks that have none yet, as a job; no order changes."""
    caller.check(body.project_id)
    return submit_checked(services, AUTO_LABEL, body.project_id)


@router.get("/jobs", response_model=JobsView, responses=refusals())
def list_jobs(
    services: ServicesDep,
    caller: Reader,
    project_id: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
    state: Annotated[list[State] | None, Query()] = None,
    kind: Annotated[list[Kind] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobsView:
    """List jobs, the newest first, of the projects that the key may see.

    Polls, one a minute and project, are left out unless `kind=poll` asks for them.
    """
    if project_id is not None:
        caller.check(project_id)
    found = services.queue.list(
        project_id,
        state or (),
        limit,
        kinds=kind or [other for other in KINDS if other != POLL],
        among=caller.projects,
    )
    return JobsView(jobs=[JobView.model_validate(job) for job in found])


def _seen(job_id: PathId, services: ServicesDep, caller: Reader) -> Job:
    return _find(services, caller, job_id)


@router.get("/jobs/{job_id}", response_model=JobView, responses=refusals(404))
def look_up(job: Annotated[Job, Depends(_seen)]) -> Job:
    """Show the progress of a job."""
    return job


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=refusals(404))
async def follow(
    job: Annotated[Job, Depends(_seen)], services: ServicesDep
) -> AsyncIterator[JobView]:
    """Send the job as it is, then again whenever it has changed; ends when the job has ended."""
    async for now in services.feed.follow(job.id):
        yield JobView.model_validate(now)


@router.delete("/jobs/{job_id}", response_model=JobView, responses=refusals(404))
def cancel(job_id: PathId, services: ServicesDep, caller: Writer) -> Job:
    """Cancel a waiting job, or ask a running one to stop; one that has ended stays as it is."""
    _find(services, caller, job_id)
    return services.queue.cancel(job_id)


def submit_checked(
    services: Services, kind: str, project_id: int, payload: Mapping[str, Any] | None = None
) -> Job:
    """Ask for a job once Label Studio has said that it has the project; see `check_exists`.

    A job of this kind that waits already says so too, and is returned in its place.
    """
    if not services.queue.list(project_id, (QUEUED,), limit=1, kinds=(kind,)):
        check_exists(services.settings, project_id)
    return services.queue.submit(kind, project_id, payload)


def _find(services: Services, caller: Caller, job_id: int) -> Job:
    try:
        job = services.queue.get(job_id)
    except QueueError:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, f"there is no job {job_id}: GET jobs lists them"
        ) from None
    caller.check(job.project_id)
    return job
