"""Training and its rounds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, status
from pydantic import BaseModel, Field

from backend.api.forms import form_or_json, form_or_json_schema
from backend.api.parameters import Id, ProjectQuery, refusals
from backend.api.routes.jobs import JobView, submit_checked
from backend.api.security.access import Reader, Writer
from backend.api.services import ServicesDep
from backend.job_kinds import TRAIN
from backend.label_studio.client import Studio
from backend.learning.edit_stats import Savings
from backend.learning.report import report_rounds
from backend.learning.stopping import Advice
from backend.store.jobs import Job
from backend.training.quality import Interval, Quality

router = APIRouter(tags=["learning"])

_LABEL_STUDIO_S = 5.0


class TrainRequest(BaseModel):
    """What to train on."""

    project_id: Id
    all_labels: bool = Field(
        False,
        description="Train on the hold-out too. Nothing is left to evaluate on: the model is "
        "kept, and serves only after `promote`.",
    )


class RoundView(BaseModel):
    """One training round; figures are null where the model could not be evaluated."""

    round: int
    version: str
    labels: int = Field(description="Images it was trained on.")
    boxes: int = Field(description="Boxes on them.")
    judged_on: int = Field(description="Images of the hold-out.")
    new: Quality | None
    serving: Quality | None = Field(description="The model that served until then.")
    difference: Interval | None = Field(description="Of mAP50, new less serving; paired.")
    agreement: float | None = Field(description="Kappa of both models' boxes.")
    promoted: bool
    reason: str
    minutes: float
    savings: Savings = Field(description="What annotators did since the round before.")
    created_at: datetime


class RoundsView(BaseModel):
    """The rounds of a project, the first one first."""

    project_id: int
    serving: str = Field(description='The version that serves; "base": the weights of MODEL.')
    rounds: list[RoundView]
    since_last_round: Savings
    advice: Advice


@router.post(
    "/train",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=JobView,
    responses=refusals(404, 409, 415, 502, 504),
    openapi_extra=form_or_json_schema(TrainRequest),
)
def train(
    body: Annotated[TrainRequest, Depends(form_or_json(TrainRequest))],
    services: ServicesDep,
    caller: Writer,
) -> Job:
    """Train on the annotations so far, evaluate the model, and promote it if not worse: a job."""
    caller.check(body.project_id)
    job = submit_checked(services, TRAIN, body.project_id, {"all_labels": body.all_labels})
    if bool(job.payload.get("all_labels")) != body.all_labels:
        raise HTTPException(
            status.HTTP_409_CONFLICT,
            f"{job} waits already, with the other all_labels: cancel it first, or wait for it",
        )
    return job


@router.get("/rounds", response_model=RoundsView, responses=refusals(404, 502, 504))
def rounds(project_id: ProjectQuery, services: ServicesDep, caller: Reader) -> dict[str, Any]:
    """Show what each training gained, what pre-annotation saved, and whether to stop."""
    caller.check(project_id)
    settings = services.settings
    # A caller waits and holds a thread, and can ask again: no retries here.
    with Studio.from_settings(settings, timeout=_LABEL_STUDIO_S, retries=0) as studio:
        return report_rounds(settings, studio, services.store, project_id).as_json()
