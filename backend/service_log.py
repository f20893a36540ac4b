"""How the server and the worker log."""

from __future__ import annotations

import logging

from backend.settings import Settings

# They tell of each request, message or table; nobody reads that unless something is wrong.
_TALKATIVE = ("httpx", "httpcore", "huey", "alembic")


def log_as_service(settings: Settings) -> None:
    """Log with the time, from LOG_LEVEL on; does nothing where logging is set up already."""
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if settings.log_level != "DEBUG":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
