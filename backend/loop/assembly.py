"""Puts the parts together from the settings."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache

from backend.errors import StoreError, WeightsError
from backend.label_studio.doctor import Finding, diagnose
from backend.loop.answer_store import AnswerStore
from backend.loop.model_files import ModelFiles
from backend.loop.predictor import Predictor
from backend.loop.round_store import RoundStore
from backend.loop.scorers import Scorers
from backend.loop.serving_model import model_that_serves, notes_on_model
from backend.loop.store import Store
from backend.loop.worker import ScoringWorker
from backend.settings import Settings, load_settings


def examine_setup(settings: Settings, project_id: int | None) -> list[Finding]:
    """What is wrong with the weights, the store and Label Studio, and what to do about it."""
    findings: list[Finding] = []
    class_names: tuple[str, ...] | None = None
    store: Store | None = None
    try:
        store = Store.from_settings(settings)
        findings.append(Finding("store", "ok", "the store can be read and written"))
        findings += _examine_worker(settings, store, project_id)
        for note in notes_on_model(settings, store):
            message, _, remedy = note.partition(": ")
            findings.append(Finding("MODEL", "warn", message, remedy))
    except StoreError as error:
        findings.append(Finding("store", "fail", str(error)))
    try:
        found, class_names = _examine_models(settings, store, project_id)
        findings += found
    except WeightsError as error:
        findings.append(Finding("models", "fail", str(error)))
    finally:
        if store is not None:
            store.close()
    return findings + diagnose(settings, project_id, class_names=class_names)


def _examine_models(
    settings: Settings, store: Store | None, project_id: int | None
) -> tuple[list[Finding], tuple[str, ...]]:
    """What MODEL names and which model serves the project, and the classes of the one that serves.

    Raises:
        WeightsError: weights are not there, changed or cannot be loaded.
    """
    from backend.vision.models import load_models

    models = load_models(settings)
    class_names = models.detector.class_names
    names = f"{settings.model} ({len(class_names)} classes), {models.encoder.name}"
    findings = [Finding("models", "ok", names)]
    if store is None or project_id is None:
        return findings, class_names
    serving = RoundStore(store).serving(project_id)
    if serving is not None:
        files = ModelFiles(settings.trained_dir, project_id)
        path = files.find(serving.version, serving.content_hash)
        kept = store.class_names(serving.detector)
        class_names = kept or models.with_detector(path, settings).detector.class_names
    serves = model_that_serves(settings, store, project_id)
    findings.append(Finding("serving", "ok", f"project {project_id} is served by {serves}"))
    return findings, class_names


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
