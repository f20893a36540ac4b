"""Puts the parts together from the settings."""

from __future__ import annotations

from functools import lru_cache

from backend.loop.predictor import Predictor
from backend.loop.scorers import Scorers
from backend.loop.store import Store
from backend.loop.worker import ScoringWorker
from backend.settings import Settings, load_settings


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
