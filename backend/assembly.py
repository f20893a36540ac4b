"""Puts the parts together from the settings: the one place where they are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

from backend.engines.engine import Engine, embedded
from backend.jobs.handlers import WorkerContext
from backend.label_studio.client import Studio
from backend.publishing.predict import Predictor
from backend.scoring.batching import ScoringWorker
from backend.scoring.models import Scorers
from backend.settings import Settings, load_settings
from backend.store.job_queue import JobQueue
from backend.store.scores import Store


@contextmanager
def build_worker_context(settings: Settings, engine: Engine = embedded) -> Iterator[WorkerContext]:
    """What jobs work with; released at the end. Models are loaded when a job first needs them.

    Args:
        settings: of this process.
        engine: where models are run to make an order.

    Raises:
        HardestFirstError: the store or Label Studio is not usable.
    """
    with ExitStack() as opened:
        store = Store.from_settings(settings)
        opened.callback(store.close)
        queue = JobQueue(store)
        studio = opened.enter_context(Studio.from_settings(settings))
        # Asked before anything slow: a wrong token then fails at once.
        studio.whoami()
        scorers = Scorers(settings, store)
        opened.callback(scorers.close)
        yield WorkerContext(settings, studio, store, scorers, queue, engine)


def build_worker(settings: Settings, store: Store) -> ScoringWorker:
    """The worker that owns the models of this process; not started yet."""
    return ScoringWorker(Scorers(settings, store))


@lru_cache(maxsize=1)
def shared_predictor() -> Predictor:
    """The predictor of this process, made from the environment at the first call."""
    settings = load_settings()
    store = Store.from_settings(settings)
    worker = build_worker(settings, store)
    worker.start()
    return Predictor(settings, store, worker)


@lru_cache(maxsize=1)
def shared_queue() -> JobQueue:
    """The queue of this process, made from the environment at the first call."""
    return JobQueue(Store.from_settings(load_settings()))
