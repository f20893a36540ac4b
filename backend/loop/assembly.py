"""Puts the parts together from the settings."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache

from backend.errors import StoreError, WeightsError
from backend.label_studio.client import Studio
from backend.label_studio.doctor import Finding, diagnose
from backend.loop.answer_store import AnswerStore
from backend.loop.predictor import Predictor
from backend.loop.published import OrderReport, published_queue
from backend.loop.scorers import Scorers
from backend.loop.store import Store
from backend.loop.worker import ScoringWorker
from backend.settings import Settings, load_settings


def read_queue(settings: Settings, project_id: int) -> OrderReport:
    """The published order of a project; see `published_queue`."""
    store = Store.from_settings(settings)
    try:
        with Studio.from_settings(settings) as studio:
            return published_queue(studio, store, project_id, settings.queue_limit)
    finally:
        store.close()


def examine_setup(settings: Settings, project_id: int | None) -> list[Finding]:
    """What is wrong with the weights, the store and Label Studio, and what to do about it."""
    from backend.vision.models import load_models

    findings: list[Finding] = []
    class_names: tuple[str, ...] | None = None
    try:
        store = Store.from_settings(settings)
        findings.append(Finding("store", "ok", "the store can be read and written"))
        findings += _examine_worker(settings, store, project_id)
        store.close()
    except StoreError as error:
        findings.append(Finding("store", "fail", str(error)))
    try:
        models = load_models(settings)
        class_names = models.detector.class_names
        names = f"{settings.model} ({len(class_names)} classes), {models.encoder.name}"
        findings.append(Finding("models", "ok", names))
    except WeightsError as error:
        findings.append(Finding("models", "fail", str(error)))
    return findings + diagnose(settings, project_id, class_names=class_names)


def _examine_worker(settings: Settings, store: Store, project_id: int | None) -> list[Finding]:
    """Whether a worker looks after the project; nothing is said of one it need not look after."""
    patience = timedelta(seconds=3 * settings.poll_seconds)
    late = AnswerStore(store).due(datetime.now(timezone.utc) - patience)
    if project_id is None or project_id not in late:
        return []
    return [
        Finding(
            "worker",
            "warn",
            f"no worker has looked at project {project_id} in the last {patience.seconds} s: its "
            "answers train no model",
            "start `python -m backend worker`, or see `python -m backend jobs`",
        )
    ]


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
