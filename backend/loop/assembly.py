"""Puts the parts together from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from backend.label_studio.client import Studio
from backend.label_studio.images import ImageSource
from backend.loop.predictor import Predictor
from backend.loop.rounds import Round
from backend.loop.scoring import Scorer
from backend.loop.store import Store
from backend.loop.worker import ScoringWorker
from backend.settings import Settings, load_settings


def build_scorer(settings: Settings, store: Store, studio: Studio) -> Scorer:
    """Load the models and return what scores tasks with them.

    Raises:
        WeightsError: the weights are not allowed, not there, or cannot be loaded.
    """
    from backend.vision.models import load_models  # brings torch: only who scores pays for it

    return Scorer(
        models=load_models(settings),
        store=store,
        source=ImageSource.from_settings(settings, studio),
    )


@contextmanager
def build_round(settings: Settings) -> Iterator[Round]:
    """A round, ready to run; what it holds is released at the end.

    Raises:
        HardestFirstError: Label Studio, the store or the weights are not usable.
    """
    store = Store.from_settings(settings)
    try:
        with Studio.from_settings(settings) as studio:
            # Asked before the models are loaded: a wrong token then fails at once.
            studio.whoami()
            yield Round(settings, studio, store, build_scorer(settings, store, studio))
    finally:
        store.close()


def build_worker(settings: Settings, store: Store) -> ScoringWorker:
    """The worker that owns the models of this process; not started yet."""
    return ScoringWorker(lambda: build_scorer(settings, store, Studio.from_settings(settings)))


@lru_cache(maxsize=1)
def shared_predictor() -> Predictor:
    """The predictor of this process, made from the environment at the first call."""
    settings = load_settings()
    store = Store.from_settings(settings)
    worker = build_worker(settings, store)
    worker.start()
    return Predictor(settings, store, worker)
