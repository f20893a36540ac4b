"""Whether the server is ready, and its metrics for Prometheus.

`GET /health`, which says no more than that the server is there, is among Label Studio's calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response, status
from fastapi.responses import PlainTextResponse
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel

from backend.api.parameters import refusals
from backend.api.readiness import LIMIT_SECONDS, Check
from backend.api.security.access import Caller, Reader
from backend.api.services import Services, ServicesDep
from backend.job_kinds import KINDS
from backend.metrics import CONTENT_TYPE, exposition, gauge
from backend.store.census import Census
from backend.store.jobs import STATES

# Neither waits for a thread: they answer also while all threads are busy.
router = APIRouter(tags=["operations"])


class Readiness(BaseModel):
    """`GET /ready`."""

    ready: bool
    checks: list[Check]


@router.get(
    "/ready",
    responses={status.HTTP_503_SERVICE_UNAVAILABLE: {"model": Readiness}},
)
async def ready(services: ServicesDep, response: Response) -> Readiness:
    """Say whether the store and Label Studio answer and the models are loaded, within 2 seconds.

    Asks for no key: what probes a server holds none.
    """
    checks = await services.readiness.checks()
    everything = all(check.ok for check in checks)
    if not everything:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(ready=everything, checks=checks)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus' text form."}, **refusals()},
)
async def metrics(services: ServicesDep, caller: Reader) -> Response:
    """Give Prometheus the figures of this process and the counts of the store.

    A key that is limited to projects sees the answers of those only. Counts that do not come
    within 2 seconds are left out, and `hardest_first_store_up` is 0.
    """
    census = await services.census.answer(LIMIT_SECONDS)
    return Response(exposition(_OfApp(services, caller, census)), media_type=CONTENT_TYPE)


class _OfApp(Collector):
    """The figures that belong to one server rather than to its process."""

    def __init__(self, services: Services, caller: Caller, census: Census | None) -> None:
        self._services = services
        self._caller = caller
        self._census = census

    def collect(self) -> Iterable[Metric]:
        """What Prometheus calls."""
        waiting = gauge("images_waiting", "Images that wait for the thread that owns the models.")
        waiting.add_metric([], self._services.worker.waiting)
        up = gauge("store_up", "1: the counts of the store came in time; 0: they did not.")
        up.add_metric([], self._census is not None)
        return [waiting, up, *(self._counts(self._census) if self._census else ())]

    def _counts(self, census: Census) -> Iterator[Metric]:
        jobs = gauge("jobs", "Jobs in the store, by their state.", "kind", "state")
        for kind in KINDS:
            for state in STATES:
                jobs.add_metric([kind, state], census.jobs.get((kind, state), 0))
        yield jobs
        answers = gauge("answers", "Annotations as last read, skipped ones included.", "project")
        labelled = gauge("labelled_tasks", "Tasks with an annotation that is no skip.", "project")
        for figure, counts in ((answers, census.answers), (labelled, census.labelled)):
            for project, count in sorted(counts.items()):
                if self._caller.projects is None or project in self._caller.projects:
                    figure.add_metric([str(project)], count)
            yield figure
