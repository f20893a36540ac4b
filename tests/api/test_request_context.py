"""Around every request: its id, its line in the log, its figures, and streams left alone."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Message

from backend.api.refusals import add_error_handlers
from backend.api.request_context import RequestContext
from backend.errors import HardestFirstError
from backend.metrics import exposition
from backend.service_log import make_handler
from backend.settings import load_settings

logger = logging.getLogger("backend.test")


def make_app() -> FastAPI:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/tasks/{image_id}")
    def tasks(image_id: int, request: Request, later: BackgroundTasks) -> int:
        request.state.key = "ci"
        logger.info("inside")
        later.add_task(logger.info, "afterwards")
        return image_id

    @app.get("/refused")
    def refused() -> None:
        raise HardestFirstError("no such thing: make one")

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret inside")

    app.add_middleware(RequestContext)
    return app


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(make_app()) as started:
        yield started


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """The events logged by this project's loggers, filled as they come."""
    found: list[dict[str, Any]] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            found.extend(json.loads(line) for line in text.splitlines() if line)
            return len(text)

    ours = logging.getLogger("backend")
    handler = make_handler(load_settings(log_format="json"), Stream())
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield found
    ours.removeHandler(handler)
    ours.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, False),
        ("", False),
        ("a", True),
        ("1f3b.A_b-9", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a;project=9", False),
        ("naïve", False),
    ],
)
def test_a_well_formed_id_is_kept_and_any_other_replaced(
    client: TestClient, given: str | None, kept: bool
) -> None:
    headers = {} if given is None else {"X-Request-ID": given.encode("latin-1")}
    answer = client.get("/tasks/1", headers=headers)  # type: ignore[arg-type]
    found = answer.headers["X-Request-ID"]
    assert (found == given) == kept
    assert kept or len(found) == 32


def test_all_lines_of_a_request_tell_its_id(
    client: TestClient, events: list[dict[str, Any]]
) -> None:
    client.get("/tasks/7?project_id=3&token=hunter2", headers={"X-Request-ID": "first"})
    client.get("/tasks/8", headers={"X-Request-ID": "second"})
    assert [(event["request"], event["message"]) for event in events] == [
        ("first", "inside"),
        ("first", "afterwards"),
        ("first", "answered"),
        ("second", "inside"),
        ("second", "afterwards"),
        ("second", "answered"),
    ]
    last = events[2]
    assert last.pop("ms") >= 0
    del last["time"]
    assert last == {
        "level": "INFO",
        "logger": "backend.access",
        "message": "answered",
        "request": "first",
        "method": "GET",
        "route": "/tasks/{image_id}",
        "status": 200,
        "project": "3",
        "task": "7",
        "key": "ci",
    }


@pytest.mark.parametrize("query", ["", "project_id=", "project_id=x", "project_id=1%0A2"])
def test_what_is_no_number_is_not_told_as_one(
    client: TestClient, events: list[dict[str, Any]], query: str
) -> None:
    client.get(f"/tasks/abc?{query}")
    assert events[-1]["status"] == 422
    assert "task" not in events[-1]
    assert "project" not in events[-1]


def test_an_error_is_one_event_with_its_id_and_its_traceback(
    client: TestClient, events: list[dict[str, Any]]
) -> None:
    answer = client.get("/broken", headers={"X-Request-ID": "b"})
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == "b"
    assert list(answer.json()) == ["detail"]
    assert "secret inside" not in answer.text
    failed, answered = events
    assert failed["request"] == answered["request"] == "b"
    assert "RuntimeError: secret inside" in failed["exception"]
    assert answered["status"] == 500


def test_an_expected_error_tells_the_request_too(
    client: TestClient, events: list[dict[str, Any]]
) -> None:
    assert client.get("/refused").status_code == 422
    assert [event["message"] for event in events] == ["no such thing: make one", "answered"]
    assert "exception" not in events[0]
    assert events[0]["request"] == events[1]["request"]


def _figure(line: str) -> float:
    for found in exposition().decode().splitlines():
        name, _, value = found.rpartition(" ")
        if name == line:
            return float(value)
    return 0.0


def test_requests_are_counted_by_template_and_strangers_together(client: TestClient) -> None:
    known = 'hardest_first_http_requests_total{method="GET",route="/tasks/{image_id}",status="200"}'
    strange = 'hardest_first_http_requests_total{method="other",route="other",status="404"}'
    seconds = 'hardest_first_http_request_seconds_count{method="GET",route="/tasks/{image_id}"}'
    before = [_figure(known), _figure(strange), _figure(seconds)]
    for number in range(3):
        client.get(f"/tasks/{number}")
        client.request(f"ODD{number}", f"/somewhere/{number}")
    after = [_figure(known), _figure(strange), _figure(seconds)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 3, 3]


async def _call(app: Any, path: str, receive: Any, send: Any) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)


async def _nothing_more() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_stream_flows_while_it_is_made(events: list[dict[str, Any]]) -> None:
    async def main() -> None:
        go_on = asyncio.Event()
        app = FastAPI()

        async def chunks() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await go_on.wait()
            yield "data: 2\n\n"

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(chunks(), media_type="text/event-stream")

        app.add_middleware(RequestContext)
        bodies: list[bytes] = []

        async def send(message: Message) -> None:
            if message.get("body"):
                bodies.append(message["body"])
                # The second is made only after the first has arrived: nothing holds it back.
                go_on.set()

        await asyncio.wait_for(_call(app, "/stream", _nothing_more, send), 10)
        assert bodies == [b"data: 1\n\n", b"data: 2\n\n"]

    asyncio.run(main())
    assert [(event["message"], event["status"]) for event in events] == [("answered", 200)]


def test_a_stream_that_breaks_is_cut_off_and_not_answered_twice(
    events: list[dict[str, Any]],
) -> None:
    async def main() -> None:
        app = FastAPI()

        async def chunks() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            raise RuntimeError("halfway")

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(chunks())

        app.add_middleware(RequestContext)
        sent: list[str] = []

        async def send(message: Message) -> None:
            sent.append(message["type"])

        with pytest.raises(RuntimeError, match="halfway"):
            await _call(app, "/stream", _nothing_more, send)
        assert sent == ["http.response.start", "http.response.body"]

    asyncio.run(main())
    assert [event["message"] for event in events] == ["answered"]


def test_a_caller_who_leaves_is_told_of_too(events: list[dict[str, Any]]) -> None:
    async def main() -> None:
        app = FastAPI()
        begun = asyncio.Event()

        @app.get("/slow")
        async def slow() -> None:
            begun.set()
            await asyncio.Event().wait()

        app.add_middleware(RequestContext)

        async def send(message: Message) -> None:
            raise AssertionError(message)

        task = asyncio.create_task(_call(app, "/slow", _nothing_more, send))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [(event["route"], event["status"]) for event in events] == [("/slow", 0)]
