"""Which images to label next, by a strategy of the caller's choice."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, create_model

from backend.api.first_scoring import first_scoring
from backend.api.parameters import ProjectQuery, refusals
from backend.api.routes.jobs import JobView
from backend.api.security.access import Reader
from backend.api.services import Services, ServicesDep
from backend.ranking.order import RankedTask
from backend.ranking.pool_cache import FreshPool
from backend.store.jobs import DONE, Job
from backend.strategies import StrategyName
from backend.uncertainty import MEASURES

router = APIRouter(tags=["queue"])

_DECIMALS = 6

Score = Annotated[float, Field(ge=0, le=1)]


if TYPE_CHECKING:
    Measures = BaseModel
else:
    Measures = create_model(
        "Measures",
        __doc__="The uncertainty scores of an image by measure, each 0..1, lower = more uncertain.",
        **dict.fromkeys(MEASURES, Score),
    )


class QueuedImage(BaseModel):
    """One image of the queue."""

    image_id: int = Field(description="The task in Label Studio.")
    uncertainty_score: Score = Field(description="By the strategy; lower = more uncertain.")
    scores: Measures
    rank: int = Field(ge=1, description="Its place in the order of serving, 1 = next.")
    picked_at_random: bool = Field(description="It is of the hold-out: its rank is chance.")
    thumbnail: str = Field(description="Address of a small JPEG, on this server.")


class ScoreBatch(BaseModel):
    """The images to label next, and what the order is based on. Times are UTC."""

    project_id: int
    strategy: str
    diversity_weight: Score
    model_version: str | None = Field(
        description="The order that Label Studio serves; null: none was published."
    )
    detector: str = Field(description="Whose scores these are.")
    scored_at: datetime = Field(description="When images were last scored and ranked.")
    age_seconds: float = Field(ge=0, description="How long ago that was.")
    labels_read_at: datetime = Field(
        description="Images that were labelled by this moment are not in the queue."
    )
    ranked: int = Field(description="Open images in the order, of which the queue is the first.")
    queue: list[QueuedImage]


class ScoringUnderWay(BaseModel):
    """Nothing is scored yet; a job is scoring now."""

    detail: str
    job: JobView
    job_url: str = Field(description="Path on this server of the job: its state and progress.")


_RESPONSES: dict[int | str, dict[str, Any]] = {
    **refusals(404, 502, 504),
    202: {"model": ScoringUnderWay, "description": "Nothing is scored yet; a job was begun."},
}


@router.get("/score-batch", response_model=ScoreBatch, responses=_RESPONSES)
def score_batch(
    project_id: ProjectQuery,
    request: Request,
    services: ServicesDep,
    caller: Reader,
    strategy: Annotated[
        StrategyName | None,
        Query(description="How to order; without it, as the last order was made."),
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=10_000, description="How many: the first of the order.")
    ] = 50,
    diversity_weight: Annotated[
        float | None,
        Query(ge=0, le=1, description="0: pure uncertainty; 1: pure spread."),
    ] = None,
    sort: Annotated[
        Literal["uncertainty_score", "rank"],
        Query(description="How these are listed; which ones they are is the order's to say."),
    ] = "uncertainty_score",
) -> ScoreBatch | JSONResponse:
    """List the images to label next.

    Answers from the last scoring at once, re-ranks for another strategy or weight without running
    a model, and starts a scoring where there was none.
    """
    caller.check(project_id)
    ask = partial(
        services.pools.ranked, project_id, strategy=strategy, diversity_weight=diversity_weight
    )
    found = ask()
    home = request.url.path.removesuffix("/score-batch")
    if found is None:
        job = first_scoring(services, caller, project_id)
        found = ask() if job.state == DONE else None
        if found is None:
            return _under_way(job, home)
    # Absolute URLs: clients open a thumbnail as it is.
    base = str(request.url.replace(path=home, query=""))
    images = [_image(task, base) for task in found.pool.tasks(limit)]
    if sort == "uncertainty_score":
        images.sort(key=lambda image: (image.uncertainty_score, image.rank))
    return _batch(services, found, images)


def _under_way(job: Job, home: str) -> JSONResponse:
    answer = ScoringUnderWay(
        detail=f"project {job.project_id} is being scored for the first time: ask again when "
        f"job {job.id} is done",
        job=JobView.model_validate(job),
        job_url=f"{home}/jobs/{job.id}",
    )
    return JSONResponse(answer.model_dump(mode="json"), status.HTTP_202_ACCEPTED)


def _batch(services: Services, found: FreshPool, images: list[QueuedImage]) -> ScoreBatch:
    pool = found.pool
    live = services.store.publication(pool.project_id)
    age = (datetime.now(timezone.utc) - pool.ranked_at).total_seconds()
    return ScoreBatch(
        project_id=pool.project_id,
        strategy=pool.options.strategy,
        diversity_weight=pool.options.diversity_weight,
        model_version=None if live is None else live.model_version,
        detector=pool.detector,
        scored_at=pool.ranked_at,
        age_seconds=round(max(0.0, age), 1),
        labels_read_at=found.labels_read_at,
        ranked=len(pool.order),
        queue=images,
    )


def _image(task: RankedTask, base: str) -> QueuedImage:
    scores = {name: round(score, _DECIMALS) for name, score in task.scores.items()}
    return QueuedImage(
        image_id=task.task_id,
        uncertainty_score=round(task.uncertainty_score, _DECIMALS),
        scores=Measures(**scores),
        rank=task.rank,
        picked_at_random=task.picked_at_random,
        thumbnail=f"{base}/thumbnail/{task.task_id}",
    )
