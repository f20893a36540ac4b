"""The backend's server on loopback, in this process and without models, spoken to over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from backend.api.security.access import Caller, _reader
from backend.api.services import Services
from backend.server import create_app
from backend.settings import Settings


@dataclass
class Server:
    """A running server, and a client that speaks to it."""

    app: FastAPI
    url: str
    http: httpx.Client

    @property
    def services(self) -> Services:
        found: Services = self.app.state.services
        return found

    def swap(self, **parts: Any) -> None:
        """Put other parts in the place of its own."""
        self.app.state.services = replace(self.services, **parts)

    @contextmanager
    def only_for(self, *projects: int, may_write: bool = True) -> Iterator[None]:
        """Take every caller for one that shows a key of these projects."""
        caller = Caller("a key", frozenset(projects), may_write)
        self.app.dependency_overrides[_reader] = lambda: caller
        try:
            yield
        finally:
            self.app.dependency_overrides.clear()


@contextmanager
def served(settings: Settings) -> Iterator[Server]:
    """Serve by uvicorn in a thread of this process. Its weights are missing: none are loaded."""
    app = create_app(settings.model_copy(update={"model": "missing.pt"}))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "uvicorn ended"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=20) as http:
        yield Server(app, url, http)
    server.should_exit = True
    thread.join()
