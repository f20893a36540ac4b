"""Thousands of malformed requests: each is answered, none with a 5xx, and nothing comes of any."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import select

from backend.server import create_app
from backend.settings import Settings
from backend.store.scores import Store
from backend.store.tables import metadata
from tests.api.busy_server import SCORED, TASKS, fill, settings_for, without_models
from tests.api.malformed import MAKE, Fuzz
from tests.label_studio.conftest import CONFIG

AT_ONCE = 8
LIMIT_SECONDS = 20.0
CONNECTION = b"Basic " + base64.b64encode(b"label-studio:pa55word")
LONGEST_LINE = 1000
EXPECTED = (200, 201, 401, 415, 422)


class Tracebacks(logging.Handler):
    """Keeps the log lines that come with a traceback: errors that nobody expected."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@pytest.fixture
def tracebacks() -> Iterator[list[str]]:
    handler = Tracebacks()
    logging.getLogger().addHandler(handler)
    yield handler.found
    logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = settings_for(tmp_path_factory.mktemp("data"), "http://127.0.0.1:9")
    fill(made)
    return made


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[Store]:
    opened = Store.from_settings(settings)
    yield opened
    opened.close()


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app without models, in this process."""
    with without_models():
        app = create_app(settings)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://testserver") as client,
        ):
            yield client


async def send_all(
    client: httpx.AsyncClient, path: str, requests: Iterable[tuple[bytes, dict[str, bytes]]]
) -> Counter[int]:
    """Send them, some at once; returns how many got which status."""
    statuses: Counter[int] = Counter()
    left = iter(requests)

    async def send() -> None:
        for body, headers in left:
            with anyio.fail_after(LIMIT_SECONDS):
                answer = await client.post(path, content=body, headers=headers)
            check(answer, body)
            statuses[answer.status_code] += 1

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(send)
    return statuses


def check(answer: httpx.Response, body: bytes) -> None:
    """What every answer keeps to."""
    about = (answer.status_code, answer.text[:300], body[:300])
    assert answer.status_code in EXPECTED, about
    found = answer.json()
    if answer.status_code >= 400:
        assert set(found) == {"detail"}, about
        assert len(found["detail"]) < LONGEST_LINE, about
        assert found["detail"].isprintable(), about
    elif "results" in found:
        assert len(found["results"]) == len(json.loads(body)["tasks"]), about


def content(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables."""
    with store.begin() as connection:
        return {
            name: sorted(connection.execute(select(table)).all(), key=repr)
            for name, table in metadata.tables.items()
        }


@pytest.mark.parametrize("path", MAKE)
def test_nothing_comes_of_malformed_requests(
    path: str, settings: Settings, store: Store, tracebacks: list[str]
) -> None:
    count, make = MAKE[path]
    fuzz = Fuzz(path)
    good = {"Content-Type": b"application/json", "Authorization": CONNECTION}
    requests = [(fuzz.bytes_of(make(fuzz)), fuzz.headers(good)) for _ in range(count)]

    async def run() -> Counter[int]:
        async with started(settings) as client:
            before = content(store)
            statuses = await send_all(client, path, requests)
            assert content(store) == before
            scored = {"id": TASKS[0], "data": {"image": f"/data/upload/{TASKS[0]}.jpg"}}
            well_formed = {"tasks": [scored], "project": f"{SCORED}.1", "label_config": CONFIG}
            answer = await client.post(
                "/predict", json=well_formed, headers={"Authorization": CONNECTION}
            )
            assert [len(one["result"]) for one in answer.json()["results"]] == [1]
            return statuses

    statuses = asyncio.run(run())
    assert tracebacks == []
    assert sum(statuses.values()) == count
    # What lies behind the reading of bodies was reached too.
    assert statuses[422] > count / 3
    assert statuses[200] + statuses[201] > count / 20


def test_no_thread_waits_for_projects_that_nobody_published(settings: Settings) -> None:
    async def run() -> list[threading.Thread]:
        async with started(settings) as client:
            client.auth = httpx.BasicAuth("label-studio", "pa55word")
            for project in range(1000, 1050):
                await client.post("/setup", json={"project": f"{project}.1"})
                await client.post(
                    "/webhook", json={"project": project, "action": "PROJECT_UPDATED"}
                )
            await client.post("/setup", json={"project": f"{SCORED}.1"})
            return [one for one in threading.enumerate() if isinstance(one, threading.Timer)]

    assert len(asyncio.run(run())) == 1
