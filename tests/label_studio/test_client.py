"""The client and its tokens: against the real Label Studio, and against servers that misbehave."""

from __future__ import annotations

import ast
import base64
import json
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

import backend.label_studio
from backend.errors import (
    AccessError,
    LabelStudioError,
    RefusedError,
    SettingsError,
    UnreachableError,
)
from backend.label_studio.auth import TokenAuth, token_kind
from backend.label_studio.client import UNCERTAINTY_SAMPLING, Studio
from backend.label_studio.protocol import parse_webhook, project_number
from tests.label_studio.conftest import reply

URL = "http://studio.example"
LABELLED = {
    "filter": "filter:tasks:total_annotations",
    "operator": "greater",
    "type": "Number",
    "value": 0,
}


def jwt(**claims) -> str:
    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}.signature"


def personal(**claims) -> str:
    return jwt(**{"token_type": "refresh", "exp": time.time() + 10_000, **claims})


# Tokens


@pytest.mark.parametrize(
    ("key", "kind"),
    [("0123456789abcdef", "legacy"), ("a.b.c", "legacy"), (personal(), "personal")],
    ids=["hex", "dots", "jwt"],
)
def test_kinds_of_token(key, kind):
    assert token_kind(key) == kind


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (personal(exp=1), "has expired"),
        (jwt(token_type="access", exp=time.time() + 99), "five minutes"),
        (personal().rsplit(".", 1)[0], "lacks its signature"),
        ("open-sesame\n0123", "has a line break at place 12"),
        ("open-sesame 0123", "has a space at place 12"),
        ("open-sesame\u200b0123", r"has the character U\+200B at place 12"),
        ("öpen-sesame-0123", r"has the character U\+00F6 at place 1"),
        ("'open-sesame-0123'", "has quotes around it"),
        ("Token open-sesame", "begins with 'Token'"),
        ("bearer open-sesame", "begins with 'bearer'"),
    ],
    ids=[
        *("empty", "blank", "expired", "access", "unsigned", "line break", "space", "invisible"),
        *("no ASCII", "quotes", "Token", "Bearer"),
    ],
)
def test_tokens_that_cannot_work_are_told_at_once(key, message):
    with pytest.raises(AccessError, match=message) as caught:
        Studio(URL, key)
    assert not key.strip() or key not in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_what_the_library_says_of_headers_is_not_quoted(web, monkeypatch):
    # Should a token come through with what no header can hold, all the same.
    monkeypatch.setattr("backend.label_studio.auth._check_characters", lambda key: None)
    with (
        Studio(web.url, "open-sesame\n0123", retries=0) as studio,
        pytest.raises(UnreachableError, match="has a character that HTTP does not") as caught,
    ):
        studio.release()
    assert "sesame" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with (
        Studio("http://label-studio.example", "0123456789abcdef", retries=0) as studio,
        pytest.raises(UnreachableError, match=r"label-studio\.example to NO_PROXY"),
    ):
        studio.release()


def test_a_certificate_of_ones_own_is_named_and_can_be_trusted(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)

    class Version(BaseHTTPRequestHandler):
        def do_GET(self):
            reply(self, 200, b'{"release": "1.23.2"}', Content_Type="application/json")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Version)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"https://localhost:{server.server_port}"
    try:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        with (
            Studio(url, "0123456789abcdef", retries=0) as studio,
            pytest.raises(UnreachableError, match="set SSL_CERT_FILE to a file"),
        ):
            studio.release()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Studio(url, "0123456789abcdef", retries=0) as studio:
            assert studio.release().version == "1.23.2"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_token_is_in_no_repr():
    key = personal()
    assert key not in repr(TokenAuth(URL, key)) + repr(Studio(URL, key))


class TokenServer:
    """Gives access tokens that live `lifetime_s`, and answers any of the living."""

    def __init__(self, lifetime_s: float = 300.0) -> None:
        self.lifetime_s = lifetime_s
        self.given: list[str] = []
        self.forgotten: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            time.sleep(0.01)
            dates = {"iat": 1000, "exp": 1000 + self.lifetime_s}  # a clock all of its own
            self.given.append(jwt(token_type="access", jti=len(self.given), **dates))
            return httpx.Response(200, json={"access": self.given[-1]})
        token = request.headers["authorization"].removeprefix("Bearer ")
        known = token in self.given and token not in self.forgotten
        return httpx.Response(200 if known else 401, json={})


def test_one_access_token_serves_all_threads():
    server = TokenServer()
    with (
        httpx.Client(
            auth=TokenAuth(URL, personal()), transport=httpx.MockTransport(server)
        ) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        statuses = list(pool.map(lambda _: client.get(f"{URL}/x").status_code, range(32)))

    assert statuses == [200] * 32
    assert len(server.given) == 1


def test_an_access_token_is_renewed_before_it_dies(monkeypatch):
    server = TokenServer(lifetime_s=300)
    now = [0.0]
    monkeypatch.setattr("backend.label_studio.auth.time.monotonic", lambda: now[0])
    with httpx.Client(
        auth=TokenAuth(URL, personal()), transport=httpx.MockTransport(server)
    ) as client:
        for moment in (0.0, 250.0, 260.0, 400.0):
            now[0] = moment
            assert client.get(f"{URL}/x").status_code == 200

    assert len(server.given) == 2


def test_a_refused_access_token_is_renewed_once():
    server = TokenServer()
    with httpx.Client(
        auth=TokenAuth(URL, personal()), transport=httpx.MockTransport(server)
    ) as client:
        client.get(f"{URL}/x")
        server.forgotten.add(server.given[0])
        assert client.get(f"{URL}/x").status_code == 200

    assert len(server.given) == 2


# The real one


@pytest.fixture(params=["personal", "legacy"])
def either(request, label_studio):
    if request.param == "legacy":
        label_studio.allow_legacy_tokens(True)
    account = label_studio.admin
    key = account.personal_token if request.param == "personal" else account.legacy_token
    with Studio(label_studio.url, key) as studio:
        yield studio
    if request.param == "legacy":
        label_studio.allow_legacy_tokens(False)


def test_both_kinds_of_token_open_the_door(either, label_studio):
    assert either.whoami().email == label_studio.admin.email
    assert either.release().version.startswith("1.")


@pytest.mark.since("1.17", "older versions have no other kind of token")
def test_a_legacy_token_is_dead_by_default_and_the_line_says_so(label_studio):
    with (
        Studio(label_studio.url, label_studio.admin.legacy_token) as studio,
        pytest.raises(AccessError, match=r"off by default since Label Studio 1\.17"),
    ):
        studio.whoami()


def test_a_project_and_its_tasks(studio, make_project, owner):
    project = make_project(tasks=7)

    info = studio.project(project.id)
    assert (info.title, info.task_count, info.labelled_count) == ("A project", 7, 0)
    assert (info.sampling, info.model_version) == ("Sequential sampling", "")
    assert info.maximum_annotations == 1
    assert info.show_predictions
    assert project.id in {found.id for found in studio.projects()}
    in_pages = [task.id for task in studio.tasks(project.id, page_size=3)]
    assert in_pages == project.task_ids == sorted(project.task_ids)
    assert [t.id for t in studio.tasks(project.id, after=in_pages[4])] == in_pages[5:]
    assert list(studio.tasks(project.id, after=in_pages[-1])) == []
    task = owner.next_task(project.id)
    owner.submit(task)
    (changed,) = studio.tasks(project.id, after=task["id"] - 1, filters=[LABELLED])
    assert (changed.id, changed.is_labeled, changed.total_annotations) == (task["id"], True, 1)


def test_tasks_deleted_while_pages_are_read_hide_no_others(studio, make_project, owner):
    project = make_project(tasks=6)
    pages = studio.tasks(project.id, page_size=2)
    first = [next(pages).id, next(pages).id]
    for task_id in first:
        owner.call("DELETE", f"/api/tasks/{task_id}/")

    assert [task.id for task in pages] == project.task_ids[2:]


def test_predictions_are_imported_read_switched_and_deleted(studio, make_project):
    project = make_project(tasks=2)
    rows = [
        {"task": task_id, "result": [], "score": score, "model_version": "v1"}
        for task_id, score in zip(project.task_ids, (0.25, 0.75), strict=True)
    ]

    assert studio.import_predictions(project.id, rows) == 2
    assert studio.model_versions(project.id) == {"v1": 2}
    found = studio.predictions_of(project.id, "v1")
    assert {p.task_id: p.score for p in found} == dict(
        zip(project.task_ids, (0.25, 0.75), strict=True)
    )
    assert studio.predictions_of(project.id, "v2") == []
    assert len(studio.predictions_of_task(project.task_ids[0])) == 1
    studio.set_order(project.id, "v1")
    info = studio.project(project.id)
    assert (info.model_version, info.sampling) == ("v1", UNCERTAINTY_SAMPLING)
    with pytest.raises(RefusedError, match="Model version doesn't exist") as caught:
        studio.set_order(project.id, "v2")
    assert caught.value.status == 400
    assert studio.delete_model_version(project.id, "v1") == 2
    assert studio.project(project.id).model_version == ""


def test_an_unknown_task_spoils_the_whole_import(studio, make_project):
    """What `publish` builds on: nothing at all is made then."""
    project = make_project(tasks=1)
    rows = [
        {"task": task_id, "result": [], "score": 0.5, "model_version": "v1"}
        for task_id in (project.task_ids[0], 999_999)
    ]

    with pytest.raises(RefusedError) as caught:
        studio.import_predictions(project.id, rows)
    assert caught.value.status == 400
    assert studio.model_versions(project.id) == {}


def test_a_project_that_is_not_there(studio):
    for call in (studio.project, studio.backends, studio.model_versions, studio.views):
        with pytest.raises(LabelStudioError) as caught:
            call(999_999)
        assert "\n" not in str(caught.value)
    with pytest.raises(LabelStudioError, match="Project 999999 is not in Label Studio"):
        studio.project(999_999)


# Servers that misbehave


def studio_of(answer, key="legacy-token-0123456789", **options):
    return Studio(URL, key, transport=httpx.MockTransport(answer), **{"retries": 0, **options})


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (httpx.Response(401, json={"detail": "no"}), AccessError, "off by default"),
        (httpx.Response(403, json={"detail": "no"}), AccessError, "owner or administrator"),
        (httpx.Response(500, text="oh"), RefusedError, r"\(500; oh\): see its log"),
        (httpx.Response(429), RefusedError, r"asked too often .*\(429; "),
        (httpx.Response(200, text="<html>"), LabelStudioError, "correct LABEL_STUDIO_URL"),
        (
            httpx.Response(301, headers={"location": "https://studio.example/"}),
            LabelStudioError,
            "redirects to https://studio.example/",
        ),
        (httpx.ConnectError("refused"), UnreachableError, "No Label Studio answers"),
        (httpx.ReadTimeout("slow"), UnreachableError, "did not answer in time"),
        (httpx.RemoteProtocolError("cut"), UnreachableError, "No Label Studio answers"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda studio: studio.project(1),
        lambda studio: list(studio.tasks(1)),
        lambda studio: studio.model_versions(1),
        lambda studio: studio.import_predictions(1, [{"task": 1, "result": []}]),
        lambda studio: studio.delete_model_version(1, "v"),
        lambda studio: studio.release(),
    ],
)
def test_failures_in_one_line(answer, error, message, call):
    def respond(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(error, match=message) as caught:
        call(studio_of(respond))
    assert "\n" not in str(caught.value)
    assert "legacy-token" not in str(caught.value)


@pytest.mark.parametrize("body", ["{}", "null", "[]", '{"x": 1}', "3", '"text"', '[{"x": 1}]'])
@pytest.mark.parametrize(
    "call",
    [
        lambda studio: studio.whoami(),
        lambda studio: studio.project(1),
        lambda studio: studio.projects(),
        lambda studio: list(studio.tasks(1)),
        lambda studio: studio.annotations_of(1, [1]),
        lambda studio: studio.predictions_of(1),
        lambda studio: studio.predictions_of_task(1),
        lambda studio: studio.model_versions(1),
        lambda studio: studio.backends(1),
        lambda studio: studio.backends(1, refresh=True),
        lambda studio: studio.webhooks(1),
        lambda studio: studio.member_count(1),
    ],
)
def test_json_of_another_shape_is_one_line_or_nothing(body, call):
    studio = studio_of(lambda request: httpx.Response(200, text=body))
    try:
        found = call(studio)
    except LabelStudioError as error:
        assert "is not Label Studio's" in str(error)  # noqa: PT017 (some shapes say nothing)
    else:
        assert not found or body == '{"x": 1}' or isinstance(found, int)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"\x1f\x8b"])
def test_bytes_that_are_no_json_are_one_line(content):
    headers = {"content-encoding": "gzip"} if content.startswith(b"\x1f") else {}
    studio = studio_of(lambda request: httpx.Response(200, content=content, headers=headers))
    with pytest.raises(LabelStudioError, match="is not Label Studio's"):
        studio.release()


def test_projects_are_each_listed_once_whatever_a_page_holds():
    def answer(request):
        page = int(request.url.params["page"])
        rows = [{"id": number} for number in range(page * 30 - 29, min(page * 30, 70) + 1)]
        return httpx.Response(200, json={"results": rows, "next": "more" if page < 3 else None})

    assert [project.id for project in studio_of(answer).projects()] == list(range(1, 71))


def test_label_studio_that_asks_for_patience_is_given_it(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    answers = iter([httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(503)])

    def answer(request):
        return next(answers, httpx.Response(200, json={"id": 1}))

    assert studio_of(answer, retries=2).project(1).id == 1
    assert pauses[0] == 7
    assert pauses[1] < 7


def test_what_does_not_answer_in_time_is_asked_once():
    asked = []

    def answer(request):
        asked.append(request.url.path)
        raise httpx.ReadTimeout("slow")

    with pytest.raises(UnreachableError, match="did not answer in time"):
        studio_of(answer, retries=2).project(1)
    assert len(asked) == 1


def test_reads_are_tried_again_and_imports_are_not(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    asked = []

    def answer(request):
        asked.append(request.url.path)
        return httpx.Response(503, json={"detail": "busy"})

    studio = studio_of(answer, retries=2)
    with pytest.raises(RefusedError):
        studio.model_versions(1)
    with pytest.raises(RefusedError):
        studio.project(1)
    assert len(asked) == 6
    with pytest.raises(RefusedError):
        studio.import_predictions(1, [{"task": 1, "result": []}])
    assert len(asked) == 7


def test_a_revoked_personal_token():
    def answer(request):
        return httpx.Response(401, json={"detail": "Token is blacklisted"})

    with pytest.raises(AccessError, match="refuses the personal access token"):
        studio_of(answer, personal()).whoami()


def test_a_server_that_is_no_label_studio():
    with pytest.raises(LabelStudioError, match="is LABEL_STUDIO_URL the address"):
        studio_of(lambda request: httpx.Response(200, text="hello"), personal()).whoami()


def test_the_path_of_the_address_is_kept_for_tokens_too():
    paths = []

    def answer(request):
        paths.append(request.url.path)
        if request.url.path.endswith("/refresh/"):
            return httpx.Response(200, json={"access": jwt(iat=0, exp=300)})
        return httpx.Response(200, json={"id": 1, "email": "a@example.com"})

    transport = httpx.MockTransport(answer)
    Studio("https://host.example/studio/", personal(), transport=transport).whoami()

    assert all(path.startswith("/studio/api/") for path in paths)


@pytest.mark.parametrize("url", ["", "studio.example", "ftp://studio.example"])
def test_an_address_that_is_none(url):
    with pytest.raises(SettingsError, match="must begin with http"):
        Studio(url, "legacy-token")


def test_eight_threads_share_a_studio(studio, make_project):
    project = make_project(tasks=4)
    gate = threading.Barrier(8)

    def count(_):
        gate.wait()
        return len(list(studio.tasks(project.id, page_size=2)))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, range(8))) == [4] * 8


# What Label Studio sends


@pytest.mark.parametrize(
    ("sent", "number"),
    [
        ("12.1700000000", 12),
        ("12", 12),
        (12, 12),
        (12.5, 12),
        ({"id": 12}, 12),
        (None, None),
        ("", None),
        ("a.b", None),
        (True, None),
        ({}, None),
        ("²", None),
    ],
)
def test_project_numbers(sent, number):
    assert project_number(sent) == number


@pytest.mark.parametrize(
    ("sent", "header", "action", "project"),
    [
        (None, None, "", None),
        ({}, None, "", None),
        ([], "", "", None),
        ({"action": "ANNOTATION_CREATED", "project": {"id": 2}}, None, "ANNOTATION_CREATED", 2),
        ({"action": "TASKS_DELETED"}, "2", "TASKS_DELETED", 2),
        ({"action": "TASKS_DELETED"}, "two", "TASKS_DELETED", None),
        ({"action": "START_TRAINING", "project": {"id": 2}}, "3", "START_TRAINING", 2),
        ({"action": 3, "project": "7.1"}, None, "", 7),
    ],
)
def test_webhooks(sent, header, action, project):
    event = parse_webhook(sent, project_header=header)

    assert (event.action, event.project_id) == (action, project)


@pytest.mark.parametrize("path", sorted(Path(backend.label_studio.__file__).parent.glob("*.py")))
def test_arrows_run_down_only(path):
    """No torch, no vision, no loop: only the SDK, httpx, numpy and the project's plain parts."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    ours = {name for name in imported if name.split(".")[0] == "backend"}
    others = {name.split(".")[0] for name in imported - ours} - sys.stdlib_module_names

    assert others <= {"httpcore", "httpx", "label_studio_sdk", "numpy", "tenacity"}
    plain = (
        "backend.addresses",
        "backend.boxes",
        "backend.detections",
        "backend.errors",
        "backend.label_studio",
        "backend.metrics",
        "backend.settings",
    )
    assert all(name.startswith(plain) for name in ours)
