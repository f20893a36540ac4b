"""What the routes work with: made once when the server starts, released when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from backend.jobs.assembly import open_queue
from backend.jobs.queue import JobQueue
from backend.loop.assembly import build_worker
from backend.loop.predictor import Predictor
from backend.loop.repair import OrderKeeper
from backend.loop.secret import webhook_secret
from backend.loop.store import Store
from backend.settings import Settings


@dataclass(frozen=True)
class Services:
    """One server's parts.

    Args:
        settings: the settings.
        store: scores, embeddings, orders.
        predictor: answers Label Studio's `/predict`.
        keeper: looks after the published version.
        queue: the jobs.
        secret: what our own webhooks show.
    """

    settings: Settings
    store: Store
    predictor: Predictor
    keeper: OrderKeeper
    queue: JobQueue
    secret: str


@contextmanager
def open_services(settings: Settings) -> Iterator[Services]:
    """Open the store and start the thread that owns the models.

    Raises:
        StoreError: the store cannot be opened.
        QueueError: the queue's file, or Redis, cannot be used.
    """
    store = Store.from_settings(settings)
    worker = build_worker(settings, store)
    worker.start()
    predictor = Predictor(settings, store, worker)
    keeper = OrderKeeper(settings, store)
    queue = open_queue(settings, store)
    yield Services(settings, store, predictor, keeper, queue, webhook_secret(store))
    keeper.stop()
    predictor.close()


def _services(request: Request) -> Services:
    opened: Services = request.app.state.services
    return opened


ServicesDep = Annotated[Services, Depends(_services)]
