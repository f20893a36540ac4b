"""The ASGI app that gunicorn serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from backend import __version__
from backend.api import label_studio
from backend.api.refusals import add_error_handlers
from backend.api.services import open_services
from backend.service_log import log_as_service
from backend.settings import Settings, load_settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app. The store is opened, and the models begin to load, when it starts.

    Args:
        settings: None when a server calls this by name; settings then come from the environment.

    Raises:
        SettingsError: a setting is malformed.
        StoreError: the store cannot be opened.
    """
    chosen = settings or load_settings()
    log_as_service(chosen)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_services(chosen) as services:
            app.state.services = services
            yield

    app = FastAPI(title="Hardest First", version=__version__, lifespan=lifespan)
    add_error_handlers(app)
    app.include_router(label_studio.router)
    return app
