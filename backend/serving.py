"""Runs the ASGI app under gunicorn with uvicorn's worker: one process, which owns the models."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from backend.api.security.loopback import is_loopback
from backend.errors import SettingsError
from backend.label_studio.auth import token_kind
from backend.server import create_app
from backend.settings import Settings
from backend.store.api_keys import KeyStore
from backend.store.database import Database

logger = logging.getLogger(__name__)


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's lines, and uvicorn's, which it hands on, take the form of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = list(logging.getLogger().handlers)


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{_bracketed(self._settings.host)}:{self._settings.port}",
            "worker_class": "backend.http_worker.HttpWorker",
            # One process owns the models; its threads answer while it scores.
            "workers": 1,
            # Longer than /predict may take, so that a long batch is not taken for a hang.
            "timeout": 120,
            "graceful_timeout": 30,
            # gunicorn's 2 s would cut off scripts that ask every second or two, just as they ask.
            "keepalive": 75,
            "logger_class": _Log,
            "loglevel": self._settings.log_level.lower(),
            # Nothing is written outside of DATA_DIR.
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> FastAPI:
        return create_app(self._settings)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def run_server(settings: Settings) -> None:
    """Serve until stopped (SIGTERM, SIGINT).

    Raises:
        AccessError: the token cannot work.
        SettingsError: HOST can be reached from elsewhere, and a lock is missing.
        StoreError: the store cannot be opened.
    """
    # Asked here: in gunicorn's worker it would end in a traceback.
    token_kind(settings.label_studio_api_key.get_secret_value())
    _check_locks(settings)
    _Gunicorn(settings).run()


def _check_locks(settings: Settings) -> None:
    """Let nobody in by accident: without locks the server listens on loopback only, and says so."""
    database = Database.from_settings(settings)
    has_keys = KeyStore(database).any_made()
    database.close()
    missing = [] if has_keys else ["make a key (`python -m backend keys make NAME`)"]
    if not settings.basic_auth_pass.get_secret_value():
        missing.append("set BASIC_AUTH_USER and BASIC_AUTH_PASS")
    if missing and not is_loopback(settings.host) and not settings.private_network:
        raise SettingsError(
            f"HOST={settings.host} can be reached from other machines, and not every door has a "
            f"lock: {' and '.join(missing)}, or set HOST=127.0.0.1 (PRIVATE_NETWORK=true if "
            "nobody else is on that network)."
        )
    if not has_keys:
        logger.warning(
            "no key was made yet: the API answers programs on this machine only; "
            "`python -m backend keys make NAME` makes one"
        )
