"""The ASGI app that gunicorn serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from backend import __version__
from backend.api.parameters import ANYWHERE
from backend.api.prefixes import PREFIXES
from backend.api.refusals import add_error_handlers
from backend.api.request_context import RequestContext
from backend.api.routes import (
    assignments,
    docs_page,
    health,
    jobs,
    label_studio,
    learning,
    score_batch,
    thumbnails,
)
from backend.api.security.access import KEY_FIRST, door_of
from backend.api.security.headers import SecurityHeaders
from backend.api.security.limits import BodyLimits
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

    app = FastAPI(
        title="Hardest First",
        version=__version__,
        lifespan=lifespan,
        responses=ANYWHERE,
        docs_url=None,  # docs_page has its own
        redoc_url=None,
    )
    add_error_handlers(app)
    app.include_router(label_studio.router)
    for prefix in PREFIXES:
        for topic in (jobs, learning, score_batch, thumbnails):
            app.include_router(topic.router, prefix=prefix, dependencies=[KEY_FIRST])
    app.include_router(assignments.router, dependencies=[KEY_FIRST])
    app.include_router(health.router)
    app.include_router(docs_page.router)
    # From the inside out: a request passes the last one first.
    app.add_middleware(BodyLimits, max_bytes=chosen.max_request_mb * 1_000_000, door_of=door_of)
    app.add_middleware(RequestContext)
    app.add_middleware(SecurityHeaders)
    return app
