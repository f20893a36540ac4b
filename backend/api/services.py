"""The parts that routes use: made when the server starts, released when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from backend.api.job_feed import JobFeed
from backend.api.probes import Probe
from backend.api.readiness import ReadinessCheck
from backend.api.security.gate import Gate
from backend.api.security.rate_limits import RateLimits
from backend.assembly import build_worker
from backend.publishing.predict import Predictor
from backend.publishing.restore import OrderKeeper
from backend.ranking.pool_cache import PoolCache
from backend.scoring.batching import ScoringWorker
from backend.scoring.serving_model import keep_model_of
from backend.scoring.thumbnails import Thumbnails
from backend.settings import Settings
from backend.store.api_keys import KeyStore
from backend.store.census import Census, take_census
from backend.store.job_queue import JobQueue
from backend.store.scores import Store
from backend.store.webhook_secret import webhook_secret

# At once; more wait for one of these to end, while their own time runs.
_PREDICTING = 64


@dataclass(frozen=True)
class Services:
    """One server's parts.

    Args:
        settings: the settings.
        store: scores, embeddings, orders.
        predictor: answers Label Studio's `/predict`.
        keeper: keeps the published version served.
        queue: the jobs.
        feed: follows jobs.
        thumbnails: small pictures of tasks.
        pools: the order of tasks.
        secret: of our own webhooks.
        worker: the thread that owns the models.
        readiness: whether all of this is ready.
        census: how many jobs and annotations the store holds.
        gate: recognises the keys of the API.
        predicting: the threads of `/predict`, most of which wait for images.
    """

    settings: Settings
    store: Store
    predictor: Predictor
    keeper: OrderKeeper
    queue: JobQueue
    feed: JobFeed
    thumbnails: Thumbnails
    pools: PoolCache
    secret: str = field(repr=False)
    worker: ScoringWorker
    readiness: ReadinessCheck
    census: Probe[Census]
    gate: Gate
    predicting: CapacityLimiter


@contextmanager
def open_services(settings: Settings) -> Iterator[Services]:
    """Open the store and start the thread that owns the models.

    Raises:
        StoreError: the store cannot be opened.
        SettingsError: REDIS_URL is malformed.
    """
    rates = RateLimits(settings.api_rate, settings.redis_url.get_secret_value())
    store = Store.from_settings(settings)
    keep_model_of("server", settings, store)
    worker = build_worker(settings, store)
    worker.start()
    predictor = Predictor(settings, store, worker)
    keeper = OrderKeeper(settings, store)
    queue = JobQueue(store)
    thumbnails = Thumbnails.from_settings(settings, store)
    readiness = ReadinessCheck(settings, store, worker)
    census = Probe("census", lambda: take_census(store), keep_seconds=5.0)
    yield Services(
        settings=settings,
        store=store,
        predictor=predictor,
        keeper=keeper,
        queue=queue,
        feed=JobFeed(queue),
        thumbnails=thumbnails,
        pools=PoolCache(store),
        secret=webhook_secret(store),
        worker=worker,
        readiness=readiness,
        census=census,
        gate=Gate(KeyStore(store), rates),
        predicting=CapacityLimiter(_PREDICTING),
    )
    readiness.close()
    thumbnails.close()
    keeper.stop()
    predictor.close()


def services_of(request: Request) -> Services:
    """The parts of the server that a request came to."""
    opened: Services = request.app.state.services
    return opened


# Asynchronous, though it waits for nothing: it then takes no thread from those who need one.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]
