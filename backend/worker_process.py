"""The process that runs jobs and polls every watched project: the verb `worker`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

from prometheus_client import start_http_server

from backend.assembly import build_worker_context
from backend.errors import SettingsError
from backend.job_kinds import CLEAN_UP, POLL
from backend.jobs.handlers import WorkerContext
from backend.jobs.worker import run_worker
from backend.metrics import registry_with
from backend.scoring.serving_model import keep_model_of
from backend.settings import Settings
from backend.store.annotations import AnnotationStore

_CLEAN_UP_EVERY = timedelta(days=1)


def work(settings: Settings) -> None:
    """Run jobs until stopped (SIGTERM, SIGINT), and poll every watched project in turn.

    Raises:
        HardestFirstError: the store or Label Studio is not usable.
    """
    with (
        _figures_served(settings.worker_metrics_port),
        build_worker_context(settings) as context,
    ):
        keep_model_of("worker", settings, context.store)
        run_worker(context.queue, context.handlers(), on_tick=lambda: _tick(context))


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


def _tick(context: WorkerContext) -> None:
    now = datetime.now(timezone.utc)
    due = AnnotationStore(context.store).due(now - timedelta(seconds=context.settings.poll_seconds))
    for project_id in due:
        context.queue.submit(POLL, project_id)
        last = context.queue.latest(project_id, CLEAN_UP)
        if last is None or last.created_at < now - _CLEAN_UP_EVERY:
            context.queue.submit(CLEAN_UP, project_id)
