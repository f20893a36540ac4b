"""Images that people pin: for everyone, or in a reviewer's own queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StringConstraints

from backend.api.parameters import Id, refusals
from backend.api.prefixes import PREFIXES
from backend.api.routes.jobs import JobView
from backend.api.security.access import Caller, Writer
from backend.api.services import Services, ServicesDep
from backend.job_kinds import ASSIGN
from backend.label_studio.client import Studio
from backend.label_studio.records import TaskRef
from backend.label_studio.reviewer_tabs import QueueName, ReviewerTabs
from backend.store.pins import Assignments
from backend.turnstile import Turnstile

router = APIRouter(prefix="/v1/assignments", tags=["queue"])

_LABEL_STUDIO_S = 10.0
_NAMED_IN_A_LINE = 10

# Two that deal out images at the same time would not see each other's.
_dealing = Turnstile(
    "other queues are being made right now: ask again in a few seconds", waiting=3, turn_s=10.0
)

Label = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
]


class QueueRequest(BaseModel):
    """Which images, in which order, for whom."""

    image_ids: list[Id] = Field(
        max_length=1000,
        description="Tasks of one project in Label Studio, each once, the first to be labelled "
        "first. Empty: take back what was asked for before.",
    )
    project_id: Id | None = Field(
        None, description="May be left out where one of the images was scored before."
    )
    reviewer: Label | Annotated[list[Label], Field(min_length=1, max_length=50)] | None = Field(
        None,
        description="Who labels them, in a tab of their own. To several people the images are "
        "dealt out in turn.",
    )
    name: Label | None = Field(None, description="What the tab is called.")

    def queues(self) -> list[QueueName]:
        """The queues that are asked for; none: the images come first for everyone."""
        name = self.name or ""
        if self.reviewer is None:
            return [QueueName(name=name)] if name else []
        reviewers = [self.reviewer] if isinstance(self.reviewer, str) else self.reviewer
        return [QueueName(reviewer, name) for reviewer in reviewers]


class ReviewerQueue(BaseModel):
    """One tab of the Data Manager, with exactly these images in this order."""

    reviewer: str | None
    view_id: int = Field(description="The tab's number in Label Studio.")
    title: str
    image_ids: list[int]
    url: str = Field(description="Where people find it.")


class ReviewerQueues(BaseModel):
    """The tabs as they are now."""

    project_id: int
    queues: list[ReviewerQueue]
    removed: list[str] = Field(description="Titles of tabs that went: no image is left for them.")
    already_labelled: list[int] = Field(
        description='Of the images: they are listed, and "Label Tasks As Displayed" skips them.'
    )


class PutFirst(BaseModel):
    """These images come first for everyone when the job is done."""

    project_id: int
    image_ids: list[int]
    already_labelled: list[int] = Field(description="Left out: there is nothing to serve.")
    job: JobView
    job_url: str = Field(description="Path on this server of the job: its state and progress.")


_RESPONSES: dict[int | str, dict[str, Any]] = {
    **refusals(404, 409, 502, 504),
    200: {"model": ReviewerQueues, "description": "The tabs were removed, if there were any."},
    202: {"model": PutFirst, "description": "For everyone: a job publishes the new order."},
}


@router.post(
    "/queue",
    status_code=status.HTTP_201_CREATED,
    response_model=ReviewerQueues,
    responses=_RESPONSES,
)
def assign_queue(
    body: QueueRequest, services: ServicesDep, caller: Writer
) -> ReviewerQueues | JSONResponse:
    """Put these images first, in this order.

    Without reviewer and name: for everyone who presses Label All Tasks. They stay first in every
    later order, until they are labelled or the next such call. With one of the two: in a tab of
    the Data Manager, which a later call for the same reviewer, or name, replaces.
    """
    queues = body.queues()
    _refuse_repeated("image", body.image_ids)
    _refuse_repeated("reviewer", [queue.owner.removeprefix("for ") for queue in queues])
    project_id = _project_of(body, services, caller)
    with (
        _dealing.turn(),
        Studio.from_settings(services.settings, timeout=_LABEL_STUDIO_S, retries=0) as studio,
    ):
        tasks = _find(studio, project_id, body.image_ids)
        if not queues:
            return _put_first(services, project_id, body.image_ids, tasks)
        answer = _fill_tabs(studio, project_id, queues, body.image_ids, tasks)
    if body.image_ids:
        return answer
    return JSONResponse(answer.model_dump(mode="json"))


def _project_of(body: QueueRequest, services: Services, caller: Caller) -> int:
    if body.project_id is not None:
        caller.check(body.project_id)
        return body.project_id
    known = Assignments(services.store).projects_of(body.image_ids)
    for project_id in sorted({*known.values()}):
        caller.check(project_id)
    of_each = {project_id: image_id for image_id, project_id in known.items()}
    if not of_each:
        raise _unprocessable("none of these images was scored before: give project_id")
    if len(of_each) > 1:
        (first, one), (second, other), *_ = sorted(of_each.items())
        raise _unprocessable(
            f"image {one} is of project {first} and image {other} of project {second}: ask for "
            "each project on its own"
        )
    return next(iter(of_each))


def _find(studio: Studio, project_id: int, image_ids: list[int]) -> Mapping[int, TaskRef]:
    if not image_ids:
        studio.project(project_id)
        return {}
    tasks = studio.tasks_by_id(project_id, image_ids)
    unknown = [image_id for image_id in image_ids if image_id not in tasks]
    if unknown:
        raise _unprocessable(
            f"not in project {project_id}: {_listed(unknown)}; leave them out, or correct them"
        )
    return tasks


def _put_first(
    services: Services, project_id: int, image_ids: list[int], tasks: Mapping[int, TaskRef]
) -> JSONResponse:
    unlabelled = [image_id for image_id in image_ids if not tasks[image_id].is_labeled]
    if image_ids and not unlabelled:
        raise _unprocessable("all of these images are labelled already: there is nothing to serve")
    # Kept first: an order that is being made meanwhile takes it up too.
    Assignments(services.store).put_first(project_id, unlabelled)
    job = services.queue.submit(ASSIGN, project_id)
    answer = PutFirst(
        project_id=project_id,
        image_ids=unlabelled,
        already_labelled=_labelled(image_ids, tasks),
        job=JobView.model_validate(job),
        job_url=f"{PREFIXES[0]}/jobs/{job.id}",
    )
    return JSONResponse(answer.model_dump(mode="json"), status.HTTP_202_ACCEPTED)


def _fill_tabs(
    studio: Studio,
    project_id: int,
    queues: list[QueueName],
    image_ids: list[int],
    tasks: Mapping[int, TaskRef],
) -> ReviewerQueues:
    tabs = ReviewerTabs(studio, project_id)
    if image_ids:
        _refuse_taken(image_ids, tabs.waiting(besides=queues))
    answer = ReviewerQueues(
        project_id=project_id,
        queues=[],
        removed=[],
        already_labelled=_labelled(image_ids, tasks),
    )
    shares = {queue: image_ids[place :: len(queues)] for place, queue in enumerate(queues)}
    for queue in queues:
        if not shares[queue]:
            del shares[queue]
            answer.removed += tabs.remove(queue)
    for queue, view_id in zip(shares, tabs.show(shares), strict=True):
        answer.queues.append(
            ReviewerQueue(
                reviewer=queue.reviewer or None,
                view_id=view_id,
                title=queue.title,
                image_ids=shares[queue],
                url=f"{studio.public_url}/projects/{project_id}/data?tab={view_id}",
            )
        )
    tabs.tidy()
    return answer


def _labelled(image_ids: Iterable[int], tasks: Mapping[int, TaskRef]) -> list[int]:
    return [image_id for image_id in image_ids if tasks[image_id].is_labeled]


def _refuse_repeated(what: str, values: Iterable[object]) -> None:
    repeated = [str(value) for value, times in Counter(values).items() if times > 1]
    if repeated:
        raise _unprocessable(f"{what} {repeated[0]} comes twice: name each {what} once")


def _refuse_taken(image_ids: Iterable[int], waiting: Mapping[int, str]) -> None:
    taken = [image_id for image_id in image_ids if image_id in waiting]
    if taken:
        raise HTTPException(
            status.HTTP_409_CONFLICT,
            f'waiting in the queue "{waiting[taken[0]]}" already: {_listed(taken)}; leave them '
            "out, or fill that queue without them first",
        )


def _listed(image_ids: list[int]) -> str:
    more = len(image_ids) - _NAMED_IN_A_LINE
    named = ", ".join(str(image_id) for image_id in image_ids[:_NAMED_IN_A_LINE])
    plural = "image" if len(image_ids) == 1 else "images"
    return f"{plural} {named}" + (f" and {more} more" if more > 0 else "")


def _unprocessable(line: str) -> HTTPException:
    return HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, line)
