"""The server's locked doors: what a stranger on the network is answered, and what never leaks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from backend import http_worker
from backend.api.security.access import door_of
from backend.api.security.headers import SecurityHeaders
from backend.api.security.limits import SMALL_BODY_BYTES, BodyLimits, Door
from backend.api.security.nesting import nested_too_deep
from backend.api.security.rate_limits import RateLimits
from backend.errors import HardestFirstError
from backend.http_worker import HttpWorker
from backend.images.source import ImageSource
from backend.label_studio.client import Studio
from backend.server import create_app
from backend.service_log import make_handler
from backend.settings import Settings, load_settings
from backend.store.api_keys import KeyStore
from backend.store.database import Database
from backend.store.scores import Store
from tests.api.server import Server, served
from tests.label_studio.conftest import CONFIG, WebServer, reply
from tests.loop.conftest import MODELS

SECRET = "open-sesame-0123456789"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(
        **{name.lower(): value for name, value in MODELS.items()},
        data_dir=tmp_path_factory.mktemp("doors"),
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="legacy-token-of-nobody",
        max_request_mb=4,
    )


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as started:
        yield started


# Headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 200),
        ("GET", "/nothing-here", 404),
        ("DELETE", "/health", 405),
        ("POST", "/setup", 422),
    ],
)
def test_every_answer_has_the_security_headers(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path, headers={"Origin": "https://evil.example"})
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_an_unexpected_error_has_them_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(project_id: int) -> str:
        raise RuntimeError

    monkeypatch.setattr(client.app.state.services.predictor, "published_version", fail)  # type: ignore[attr-defined]
    answer = client.post("/setup", json={"project": "1.1"})
    assert answer.status_code == 500
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_the_docs_page_runs_only_what_it_names(client: TestClient) -> None:
    answer = client.get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    outside = set(re.findall(r'(?:src|href)="(https:[^"]+)"', answer.text))
    assert len(outside) == 2
    for address in outside:
        assert f" {address} " in policy
        assert re.search(re.escape(address) + r'" integrity="sha384-[\w+/]{64}"', answer.text)
    assert "connect-src 'self'" in policy
    assert client.get("/redoc").status_code == 404


def test_an_answer_may_say_itself_how_long_it_is_kept() -> None:
    app = SecurityHeaders(PlainTextResponse("x", headers={"Cache-Control": "private"}))
    assert TestClient(app).get("/thumbnail").headers["Cache-Control"] == "private"


# Bodies


def test_a_body_that_is_announced_as_too_large_is_refused(client: TestClient) -> None:
    task = {"id": 1, "data": {"image": "x" * 5_000_000}}
    answer = client.post("/predict", json={"tasks": [task], "project": "1.1"})
    assert answer.status_code == 413
    line = "the body of the request is larger than 4 MB: send less at once, or raise MAX_REQUEST_MB"
    assert answer.json() == {"detail": line}
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_chunks_without_a_length_are_counted(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"tasks": ["'
        for _ in range(5000):
            yield b"x" * 1000

    answer = client.post("/predict", content=chunks())
    assert answer.status_code == 413
    assert "larger than 4 MB" in answer.json()["detail"]


def test_a_body_that_is_nested_too_deep_never_reaches_the_parser(client: TestClient) -> None:
    def refused(body: bytes) -> bool:
        answer = client.post("/predict", content=body)
        assert answer.status_code == 422
        return answer.json()["detail"].startswith("body: arrays and objects nested more than 200")

    assert refused(b"[" * 50_000)
    assert refused(b'{"a":' * 201)
    assert refused(b'{"tasks": "\\"", "a": ' + b"[" * 200 + b"]" * 200 + b"}")
    assert refused(("[" * 201).encode("utf-16"))
    assert not refused(b"[" * 200 + b"]" * 200)
    assert not refused(b'["' + b"[" * 300 + b'\\"' + b"{" * 300 + b'"]')


@given(
    st.recursive(
        st.text('[]{}"\\\n\ud800é'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[{"\\'), inner),
    )
)
def test_the_depth_of_any_json_is_found(value: Any) -> None:
    around = 200 - _depth(value)
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        for encoding in ("utf-8", "utf-16", "utf-32-be"):
            fits = "[" * around + text + "]" * around
            assert not nested_too_deep(fits.encode(encoding, "surrogatepass"))
            assert nested_too_deep(f"[{fits}]".encode(encoding, "surrogatepass"))


def _depth(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


def test_only_what_carries_tasks_may_be_large(client: TestClient) -> None:
    body = b" " * (SMALL_BODY_BYTES + 1)
    answer = client.post("/setup", content=body)
    assert answer.status_code == 413
    assert answer.json()["detail"].endswith("larger than 2 MB: send less at once")
    assert client.post("/predict", content=body).status_code == 422


@contextlib.contextmanager
def serving(app: Any) -> Iterator[tuple[str, int]]:
    """The app under uvicorn as gunicorn's worker configures it; gives host and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=2, **HttpWorker.CONFIG_KWARGS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


async def _echo_length(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    message = await receive()
    assert not message["more_body"]
    body = str(len(message["body"])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("chunked", [False, True])
def test_over_the_network_the_refusal_is_read_and_the_connection_closed(chunked: bool) -> None:
    app = BodyLimits(_echo_length, max_bytes=1_000_000, door_of=anybody)
    with serving(app) as (host, port):
        url = f"http://{host}:{port}/predict"
        large = b"x" * 20_000_000
        small = b"x" * 1_000_000
        with httpx.Client(timeout=20) as web:
            answer = web.post(url, content=iter([large]) if chunked else large)
            assert answer.status_code == 413
            assert answer.headers["Connection"] == "close"
            assert "server" not in answer.headers
            answer = web.post(url, content=iter([small]) if chunked else small)
            assert (answer.status_code, answer.text) == (200, "1000000")


def test_a_body_that_drips_is_cut_off() -> None:
    app = BodyLimits(_echo_length, max_bytes=1_000_000, door_of=anybody, body_seconds=0.5)
    with serving(app) as (host, port), socket.create_connection((host, port), timeout=20) as drip:
        drip.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        answer = _read_to_the_end(drip)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body of the request did not come within 0.5 s" in answer


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nX-Slow: ", b"GET / HTTP/1.1\r\n\r"])
def test_a_caller_who_does_not_get_to_the_point_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_worker, "HEADER_SECONDS", 0.5)
    with serving(_echo_length) as (host, port):
        with socket.create_connection((host, port), timeout=20) as slow:
            slow.sendall(sent)
            assert _read_to_the_end(slow) == b""
        # A next request on a connection that is kept open has as long as the first.
        with socket.create_connection((host, port), timeout=20) as kept:
            kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(1000).startswith(b"HTTP/1.1 200 ")
            kept.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
            assert _read_to_the_end(kept) in (b"", b"0")


def test_headers_that_are_too_large_are_refused() -> None:
    with serving(_echo_length) as (host, port):
        with socket.create_connection((host, port), timeout=20) as caller:
            with contextlib.suppress(OSError):
                caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 1_000_000)
                caller.sendall(b"\r\n\r\n")
            assert b" 200 " not in _read_to_the_end(caller)
        assert httpx.get(f"http://{host}:{port}/", headers={"X": "x" * 10_000}).is_success


def anybody(path: str) -> Door:
    async def let_in(request: Request) -> None:
        """No credentials are asked for."""

    return let_in


LARGE = 3 * SMALL_BODY_BYTES


def test_large_bodies_at_once_wait_their_turn_and_small_ones_do_not() -> None:
    """Four of the largest fill the memory that is granted; a fifth is asked to come again."""
    arrived, go_on = 0, anyio.Event()
    statuses: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal arrived
        await receive()
        arrived += 1
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = BodyLimits(slow, max_bytes=LARGE, door_of=anybody)

    async def ask(size: int = LARGE) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"x" * size, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = [(b"content-length", str(size).encode())]
        await app({"type": "http", "path": "/predict", "headers": headers}, receive, send)

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)
            for _ in range(10):
                tasks.start_soon(ask, SMALL_BODY_BYTES)
            while arrived < 14:
                await anyio.sleep(0)
            await ask()
            assert statuses == [503]
            go_on.set()
        await ask()

    anyio.run(run)
    assert statuses == [503, *[200] * 15]


@pytest.fixture(scope="module")
def locked(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """With a lock at every door."""
    return settings.model_copy(
        update={
            "data_dir": tmp_path_factory.mktemp("locked"),
            "basic_auth_user": "label-studio",
            "basic_auth_pass": SecretStr(SECRET),
            "max_request_mb": 64,
        }
    )


def _all_but_the_last_byte(server: Server, path: str, size: int) -> socket.socket:
    address = httpx.URL(server.url)
    connection = socket.create_connection((address.host, address.port or 80), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: {size}\r\n\r\n"
    with contextlib.suppress(OSError):  # refused while it is being sent
        connection.sendall(head.encode() + b"x" * (size - 1))
    return connection


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/predict", 20_000_000),
        ("/webhook", 20_000_000),
        ("/setup", 1000),
        ("/v1/label/auto", 1000),
    ],
)
def test_nothing_is_read_of_a_caller_without_credentials(
    locked: Settings, path: str, size: int
) -> None:
    database = Database.from_settings(locked)
    keys = KeyStore(database)
    if not keys.any_made():
        keys.make("anybody")
    database.close()
    with served(locked) as server, contextlib.ExitStack() as held:
        strangers = [
            held.enter_context(_all_but_the_last_byte(server, path, size)) for _ in range(8)
        ]
        # None of them has sent its last byte, and each is answered.
        for stranger in strangers:
            assert _read_to_the_end(stranger).startswith(b"HTTP/1.1 401 ")


def test_who_fills_the_room_for_large_bodies_keeps_no_small_one_waiting(
    settings: Settings, tmp_path: Path
) -> None:
    no_locks = settings.model_copy(update={"data_dir": tmp_path, "max_request_mb": 10})
    with served(no_locks) as server, contextlib.ExitStack() as held:
        for _ in range(6):
            held.enter_context(_all_but_the_last_byte(server, "/predict", 10_000_000))
        event = {"action": "ANNOTATION_CREATED", "project": {"id": 3}}
        assert server.http.post("/webhook", json=event).status_code == 201
        assert server.http.post("/setup", json={"project": "3.1"}).status_code == 200
        body = {"tasks": [], "project": "3.1", "label_config": CONFIG}
        assert server.http.post("/predict", json=body).status_code == 200
        assert server.http.post("/v1/label/auto", data={"project_id": 3}).status_code != 503


def test_every_route_that_takes_a_body_has_a_door(client: TestClient) -> None:
    routes = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    found = [
        path
        for path, methods in routes.items()
        if any("requestBody" in operation for operation in methods.values())
    ]
    assert len(found) > 5
    assert [path for path in found if door_of(path) is None] == []


def test_a_body_where_nothing_takes_one_is_not_waited_for(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        served(settings.model_copy(update={"data_dir": tmp_path})) as server,
        _all_but_the_last_byte(server, "/nothing-here", 1_000_000) as stranger,
    ):
        assert stranger.recv(1000).startswith(b"HTTP/1.1 404 ")


def _read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            received += more
    return received


# Secrets


def _database_that_is_not_there(settings: Settings, web: WebServer) -> None:
    Store.from_settings(
        settings.model_copy(
            update={"database_url": SecretStr(f"postgresql://me:{SECRET}@127.0.0.1:9/x")}
        )
    )


def _database_with_a_password_in_its_query(settings: Settings, web: WebServer) -> None:
    url = f"postgresql://127.0.0.1:9/x?user=me&password={SECRET}"
    Store.from_settings(settings.model_copy(update={"database_url": SecretStr(url)}))


def _database_with_an_at_in_the_password(settings: Settings, web: WebServer) -> None:
    Store(f"postgresql://me:a@{SECRET}@127.0.0.1:9/x")


def _database_with_a_port_that_is_none(settings: Settings, web: WebServer) -> None:
    Store(f"postgresql://me:pw@127.0.0.1:{SECRET}/x")


def _redis_that_is_none(settings: Settings, web: WebServer) -> None:
    RateLimits("1/second", f"http://:{SECRET}@127.0.0.1:9/0")


def _redis_with_a_port_that_is_none(settings: Settings, web: WebServer) -> None:
    RateLimits("1/second", f"redis://:pw@127.0.0.1:{SECRET}/0")


def _label_studio_that_refuses_the_token(settings: Settings, web: WebServer) -> None:
    web.answers["/api/version"] = lambda handler: reply(handler, 401, b'{"detail": "no"}')
    with Studio(web.url, SECRET) as studio:
        studio.release()


def _label_studio_that_refuses_to_renew_it(settings: Settings, web: WebServer) -> None:
    refused = b'{"detail": "bad"}'
    web.answers["/api/token/refresh/"] = lambda handler: reply(handler, 401, refused)
    # The two first parts of a JWT: {"alg": "none"} and {"token_type": "refresh"}.
    token = f"eyJhbGciOiAibm9uZSJ9.eyJ0b2tlbl90eXBlIjogInJlZnJlc2gifQ.{SECRET}"
    with Studio(web.url, token) as studio:
        studio.release()


def _label_studio_with_a_password_in_its_address(settings: Settings, web: WebServer) -> None:
    load_settings(label_studio_url=f"http://me:{SECRET}@127.0.0.1:9")


def _image_whose_address_has_a_password(settings: Settings, web: WebServer) -> None:
    _fetch(settings, web.url.replace("//", f"//me:{SECRET}@") + "/gone.png")


def _image_whose_signature_is_refused(settings: Settings, web: WebServer) -> None:
    web.answers["/a.png"] = lambda handler: reply(handler, 403, SECRET.encode())
    _fetch(settings, f"{web.url}/a.png?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}")


def _image_that_redirects_to_a_broken_signed_address(settings: Settings, web: WebServer) -> None:
    location = f"http://127.0.0.1:{SECRET}/?X-Amz-Signature={SECRET}"
    web.answers["/b.png"] = lambda handler: reply(handler, 302, b"", Location=location)
    _fetch(settings, f"{web.url}/b.png")


def _image_from_what_does_not_speak_http(settings: Settings, web: WebServer) -> None:
    def answer(handler: Any) -> None:
        handler.wfile.write(f"SSH-2.0-{SECRET}\r\n".encode())
        handler.close_connection = True

    web.answers["/c.png"] = answer
    _fetch(settings, f"{web.url}/c.png")


def _fetch(settings: Settings, uri: str) -> None:
    allowing = settings.model_copy(update={"allowed_image_hosts": "127.0.0.1"})
    with contextlib.closing(ImageSource.from_settings(allowing, retries=0)) as source:
        source.fetch(uri)


FAILURES = [
    _database_that_is_not_there,
    _database_with_a_password_in_its_query,
    _database_with_an_at_in_the_password,
    _database_with_a_port_that_is_none,
    _redis_that_is_none,
    _redis_with_a_port_that_is_none,
    _label_studio_that_refuses_the_token,
    _label_studio_that_refuses_to_renew_it,
    _label_studio_with_a_password_in_its_address,
    _image_whose_address_has_a_password,
    _image_whose_signature_is_refused,
    _image_that_redirects_to_a_broken_signed_address,
    _image_from_what_does_not_speak_http,
]


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__.strip("_"))
def test_a_failure_tells_no_secret(
    fail: Callable[[Settings, WebServer], None], settings: Settings, client: TestClient
) -> None:
    """Neither its line nor the log of a server, at its most talkative."""
    log = io.StringIO()
    handler = make_handler(settings, log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with contextlib.closing(WebServer()) as web, pytest.raises(HardestFirstError) as caught:
            fail(settings, web)
        logging.getLogger("test").error("it failed", exc_info=caught.value)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "it failed" in log.getvalue()
    for text in (str(caught.value), repr(caught.value), log.getvalue()):
        assert SECRET not in text
    assert "\n" not in str(caught.value)


def test_no_repr_tells_a_secret(settings: Settings, tmp_path: Path) -> None:
    named = ("label_studio_api_key", "basic_auth_pass", "database_url", "redis_url")
    full = load_settings(**dict.fromkeys(named, SECRET))
    studio = Studio("http://127.0.0.1:9", SECRET)
    source = ImageSource("http://127.0.0.1:9", studio.auth)
    for thing in (full, studio, studio.auth, source, vars(source)):
        assert SECRET not in repr(thing)
    source.close()
    studio.close()


def test_services_do_not_show_the_webhooks_secret(client: TestClient) -> None:
    services = client.app.state.services  # type: ignore[attr-defined]
    assert services.secret not in repr(services)
