"""What is in the log, as people and as machines read it, and what never does."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.contextvars import bound_contextvars

from backend.jobs.context import JobContext
from backend.jobs.runner import run_now
from backend.redaction import STRUCK, Redactor
from backend.service_log import log_as_service, make_handler
from backend.settings import Settings, load_settings
from backend.store.job_queue import JobQueue
from backend.store.scores import Store
from demo.studio_server import free_port

ROOT = Path(__file__).parent.parent
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        data_dir=tmp_path,
        label_studio_api_key=LEGACY,
        basic_auth_pass="open sesame",
        redis_url="redis://:pa55word@cache:6379/0",
    )


@pytest.fixture
def logged(settings: Settings) -> Iterator[Callable[..., str]]:
    """Logs through a logger with our handler and gives what was written."""
    made: list[logging.Handler] = []
    logger = logging.getLogger("backend.somewhere")

    def log(form: str, message: str, *args: object, level: int = logging.INFO, **more: Any) -> str:
        stream = io.StringIO()
        handler = make_handler(settings.model_copy(update={"log_format": form}), stream)
        made.append(handler)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.log(level, message, *args, **more)
        logger.removeHandler(handler)
        return stream.getvalue()

    yield log
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("message", ["", "scored", "50 % of ünïcode"])
def test_a_line_of_text(logged: Callable[..., str], message: str) -> None:
    line = logged("text", "%s", message)
    found = re.fullmatch(r"(\S+) INFO backend\.somewhere: ?(.*)\n", line)
    assert found is not None, line
    assert found[2] == message
    logged_at = datetime.fromisoformat(found[1].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - logged_at) < timedelta(minutes=1)


def test_a_line_of_json(logged: Callable[..., str]) -> None:
    line = logged("json", "task %d is %s", 7, "done", level=logging.WARNING, extra={"project": 3})
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    event = json.loads(line)
    assert list(event)[:4] == ["time", "level", "logger", "message"]
    assert datetime.fromisoformat(event.pop("time").replace("Z", "+00:00")).utcoffset() == (
        timedelta(0)
    )
    assert event == {
        "level": "WARNING",
        "logger": "backend.somewhere",
        "message": "task 7 is done",
        "project": 3,
    }


def test_what_is_bound_and_what_is_given_stand_behind_the_message(
    logged: Callable[..., str],
) -> None:
    with bound_contextvars(request="abc", project=3):
        text = logged("text", "no prediction", extra={"task": 7, "why": "no file"})
        event = json.loads(logged("json", "no prediction", extra={"task": 7, "project": 4}))
    assert text.endswith(': no prediction request=abc project=3 task=7 why="no file"\n')
    # What is given about this event is nearer to it than what is bound.
    assert (event["request"], event["project"], event["task"]) == ("abc", 4, 7)
    assert logged("text", "later").endswith(": later\n")


def test_the_lines_of_a_job_tell_it_and_its_project(settings: Settings, tmp_path: Path) -> None:
    stream = io.StringIO()
    handler = make_handler(settings.model_copy(update={"log_format": "json"}), stream)
    ours = logging.getLogger("backend")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)

    def note(_: JobContext) -> None:
        logging.getLogger("backend.somewhere").info("at work")

    store = Store.from_settings(settings)
    job = run_now(JobQueue(store), "poll", 3, None, {"poll": note})
    store.close()
    ours.info("afterwards")
    ours.removeHandler(handler)
    ours.setLevel(logging.NOTSET)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event.get("message") for event in events if "job" not in event] == ["afterwards"]
    assert {(e["job"], e["project"]) for e in events if "job" in e} == {(job.id, 3)}
    assert "at work" in [event["message"] for event in events]


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_part_of_its_event(logged: Callable[..., str], form: str) -> None:
    try:
        raise ValueError("first line\n2030-01-01T00:00:00Z INFO backend: forged")
    except ValueError as error:
        out = logged(form, "it failed", level=logging.ERROR, exc_info=error)
    lines = out.splitlines()
    if form == "json":
        assert len(lines) == 1
        trace = json.loads(out)["exception"]
        assert trace.startswith("Traceback")
    else:
        trace = out
        assert lines[0].endswith("ERROR backend.somewhere: it failed")
        assert all(line.startswith("    ") for line in lines[1:])
    assert "in test_an_exception_is_part_of_its_event" in trace
    assert "ValueError: first line" in trace


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x1b[2K", "\x85", "\u2028"])
def test_nothing_a_stranger_writes_begins_a_line(logged: Callable[..., str], end: str) -> None:
    forged = f"x{end}2030-01-01T00:00:00Z INFO backend: forged"
    for form in ("text", "json"):
        out = logged(form, "no image at %s", forged, extra={"uri": forged})
        assert len(out.splitlines()) == 1, out
        assert "\x1b" not in out


def test_a_stranger_cannot_add_a_field(logged: Callable[..., str]) -> None:
    out = logged("text", "no image", extra={"uri": 'x" project=9 y="'})
    assert re.search(r'(?<!\\)" project=9', out) is None


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Token {LEGACY}", LEGACY),
        ("Authorization: Bearer abc", "abc"),
        ("authorization: Basic c3R1ZGlvOm9w", "c3R1ZGlvOm9w"),
        ("{'Authorization': 'Basic YTpi', 'host': 'x'}", "YTpi"),
        ("(b'authorization', b'Bearer short1')", "short1"),
        ("headers=[('authorization', 'short2')]", "short2"),
        ("it said Bearer abcdef0123456789", "abcdef0123456789"),
        (f"refreshing {JWT} failed", JWT),
        (f"Bearer {JWT}", JWT),
        ("Bearer hardest_0123456789ab_" + "9f" * 32, "9f" * 32),
        ("postgresql+psycopg://me:pa55@db/x failed", "pa55"),
        ("redis://:hunter2@cache:6379/0", "hunter2"),
        ("https://me:p@ss:w0rd@host/a", "p@ss:w0rd"),
        ("https://abcdef0123@host/a.jpg", "abcdef0123"),
        ("GET https://b.s3/a.jpg?X-Amz-Signature=5ec4e7&X-Amz-Date=1", "5ec4e7"),
        ("GET https://b.s3/a.jpg?X-Amz-Credential=AKIA5EC%2F2024", "AKIA5EC"),
        ("https://g/a?GoogleAccessId=me&Expires=1&Signature=5ec%2B=", "5ec%2B"),
        ("https://h.blob/a?sv=1&sp=r&sig=5ec4%3D&se=2", "5ec4"),
        ("https://h/a?token=5ec4e7", "5ec4e7"),
        ("DATABASE_PASSWORD=hunter2 is set", "hunter2"),
        ("BASIC_AUTH_PASS='hunter2'", "hunter2"),
        ('{"refresh_token": "hunter2", "a": 1}', "hunter2"),
        ('{"password": "hun ter2"}', "hun ter2"),
        ("Cookie: sessionid=hunter2; csrftoken=hunter3", "hunter"),
        ("{'set-cookie': 'sessionid=hunter2'}", "hunter2"),
    ],
)
def test_the_net_strikes_out_what_looks_like_a_secret(
    logged: Callable[..., str], text: str, secret: str
) -> None:
    for form in ("text", "json"):
        out = logged(form, "a line: %s", text, extra={"detail": {"deep": [text]}})
        assert secret not in out
        assert STRUCK in out
        assert secret not in logged(form, "it failed", exc_info=RuntimeError(text))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "wrong webhook secret: delete that webhook in Label Studio; the worker makes one",
        "LABEL_STUDIO_API_KEY is empty: make a personal access token in Label Studio",
        "does not accept the token (asking who the token belongs to): it was revoked",
        "this key is not for project 3: ask for one that is",
        "http://127.0.0.1:8080/data/upload/1/a.jpg?d=1&page=2 is not there (404)",
        "/data/local-files/?d=lines/a%20b.jpg is not given out",
        "basic authentication is on; a bearer of good news has a token as well",
        "write to me@example.com: version hf-20240101T000000-0123abcd",
    ],
)
def test_the_net_leaves_the_rest_alone(line: str) -> None:
    assert Redactor().text(line) == line


@pytest.mark.parametrize("secret", [LEGACY, "open sesame", "pa55word"])
def test_the_secrets_among_the_settings_never_stand_in_the_log(
    logged: Callable[..., str], secret: str
) -> None:
    for form in ("text", "json"):
        assert secret not in logged(form, f"said <{secret}>", extra={"a": (f"x{secret}y",)})
        assert secret not in logged(form, "said", extra={"password": secret, "cookie": secret})


def test_short_secrets_are_not_struck_out_of_words() -> None:
    assert Redactor(["", "a", "admin"]).text("the administrator said a word") == (
        "the administrator said a word"
    )


def test_logging_that_is_set_up_already_stays_as_it_is(settings: Settings) -> None:
    before = list(logging.getLogger().handlers)
    assert before, "pytest has set it up"
    log_as_service(settings)
    assert logging.getLogger().handlers == before


def serve(folder: Path, port: int) -> subprocess.Popen[str]:
    """`python -m backend serve`, without models, in a process of its own."""
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "MODEL": "missing.pt",
        "MODEL_DIR": str(folder),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": LEGACY,
        "LOG_FORMAT": "json",
        "PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "backend", "serve"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_server_leaves_nothing_that_keeps_the_port(tmp_path: Path) -> None:
    port = free_port()
    server = serve(tmp_path, port)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
    finally:
        server.kill()
        # The pipes are shut when the last process that holds them has ended.
        server.communicate(timeout=60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")


def test_all_that_a_server_writes_is_events(tmp_path: Path) -> None:
    """gunicorn's and uvicorn's lines too, and those of a model that cannot be loaded."""
    port = free_port()
    server = serve(tmp_path, port)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        answer = httpx.get(
            f"http://127.0.0.1:{port}/nowhere?token=hunter2", headers={"X-Request-ID": "mine-1"}
        )
        assert answer.headers["X-Request-ID"] == "mine-1"
    finally:
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    assert out == ""
    assert "hunter2" not in err
    events = [json.loads(line) for line in err.splitlines()]
    assert {"gunicorn.error", "uvicorn.error"} <= {event["logger"] for event in events}
    mine = [event for event in events if event.get("request") == "mine-1"]
    assert [(e["logger"], e["status"], e["route"]) for e in mine] == [
        ("backend.access", 404, "other")
    ]


def _wait_for(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, server.communicate()
        try:
            httpx.get(url, timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not start within 60 s")
