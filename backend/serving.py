"""Runs the ASGI app under gunicorn with uvicorn's worker: one process, which owns the models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from gunicorn.app.base import BaseApplication

from backend.server import create_app
from backend.settings import Settings


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "worker_class": "uvicorn_worker.UvicornWorker",
            # One process owns the models; its threads answer while it scores.
            "workers": 1,
            # Longer than /predict may take, so that a long batch is not taken for a hang.
            "timeout": 120,
            "graceful_timeout": 30,
            "loglevel": self._settings.log_level.lower(),
            # Nothing is written outside of DATA_DIR.
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> FastAPI:
        return create_app(self._settings)


def run_server(settings: Settings) -> None:
    """Serve until told to stop (SIGTERM, SIGINT)."""
    _Gunicorn(settings).run()
