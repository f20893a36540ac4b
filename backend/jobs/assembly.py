"""Puts queue, handlers and worker together from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from functools import lru_cache

from prometheus_client import start_http_server

from backend.errors import SettingsError
from backend.jobs.handlers import Workshop
from backend.jobs.kinds import CLEAN_UP, POLL, TRAIN
from backend.jobs.messages import make_huey
from backend.jobs.queue import JobQueue
from backend.jobs.worker import run_worker
from backend.label_studio.client import Studio
from backend.label_studio.protocol import START_TRAINING
from backend.label_studio.webhooks import ACTIONS
from backend.loop.answer_store import AnswerStore
from backend.loop.database import Database
from backend.loop.scorers import Scorers
from backend.loop.serving_model import keep_model_of
from backend.loop.store import Store
from backend.metrics import registry_with
from backend.settings import Settings, load_settings

_SETTLING_SECONDS = 2.0
_CLEAN_UP_EVERY = timedelta(days=1)


def open_queue(settings: Settings, database: Database) -> JobQueue:
    """The jobs of a store, to submit and look up.

    Raises:
        QueueError: the queue's file, or Redis, cannot be used.
    """
    huey = make_huey(settings.data_dir, settings.redis_url.get_secret_value())
    return JobQueue(database, huey)


@contextmanager
def build_workshop(settings: Settings) -> Iterator[Workshop]:
    """What jobs work with; released at the end. Models are loaded when a job first needs them.

    Raises:
        HardestFirstError: the store, the queue or Label Studio is not usable.
    """
    with ExitStack() as opened:
        store = Store.from_settings(settings)
        opened.callback(store.close)
        queue = open_queue(settings, store)
        studio = opened.enter_context(Studio.from_settings(settings))
        # Asked before anything slow: a wrong token then fails at once.
        studio.whoami()
        scorers = Scorers(settings, store)
        opened.callback(scorers.close)
        yield Workshop(settings, studio, store, scorers, queue)


def work(settings: Settings) -> None:
    """Run jobs until told to stop (SIGTERM, SIGINT), and look at every watched project in turn.

    Raises:
        HardestFirstError: the store, the queue or Label Studio is not usable.
    """
    with _figures_served(settings.worker_metrics_port), build_workshop(settings) as workshop:
        keep_model_of("worker", settings, workshop.store)
        run_worker(workshop.queue, workshop.handlers(), on_tick=lambda: _tick(workshop))


@contextmanager
def _figures_served(port: int) -> Iterator[None]:
    """Let Prometheus read this process's figures on a port of loopback; 0: not at all."""
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry_with())
    except OSError as error:
        raise SettingsError(
            f"WORKER_METRICS_PORT {port} cannot be opened ({error.strerror}): take another for "
            "each worker of this machine"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tick(workshop: Workshop) -> None:
    now = datetime.now(timezone.utc)
    due = AnswerStore(workshop.store).due(now - timedelta(seconds=workshop.settings.poll_seconds))
    for project_id in due:
        workshop.submit(POLL, project_id)
        last = workshop.queue.latest(project_id, CLEAN_UP)
        if last is None or last.created_at < now - _CLEAN_UP_EVERY:
            workshop.submit(CLEAN_UP, project_id)


def take_up_event(queue: JobQueue, action: str, project_id: int) -> None:
    """Do what an event of Label Studio asks for: a training, or a look at the project."""
    if action == START_TRAINING:
        queue.submit(TRAIN, project_id)
    elif action in ACTIONS:
        # Label Studio may tell before it has stored what happened.
        queue.submit(POLL, project_id, delay=_SETTLING_SECONDS)


@lru_cache(maxsize=1)
def shared_queue() -> JobQueue:
    """The queue of this process, made from the environment at the first call."""
    settings = load_settings()
    return open_queue(settings, Store.from_settings(settings))
