"""People and projects in the real Label Studio, made the way a user would: through its own API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from packaging.version import Version

from backend.label_studio.client import Studio
from backend.label_studio.records import ViewInfo
from backend.label_studio.tabs import TITLE
from demo.studio_server import StudioServer
from tests.person import Person

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="RBC"/>
    <Label value="WBC"/>
  </RectangleLabels>
</View>
"""


@dataclass
class Project:
    id: int
    task_ids: list[int] = field(default_factory=list)


@pytest.fixture(autouse=True)
def _old_enough(request: pytest.FixtureRequest) -> None:
    """Skip what the running Label Studio is too old for: the mark `since` says why."""
    mark = request.node.get_closest_marker("since")
    if mark is None:
        return
    first, reason = mark.args
    server: StudioServer = request.getfixturevalue("label_studio")
    release = httpx.get(f"{server.url}/api/version", timeout=60).json()["release"]
    if Version(release) < Version(first):
        pytest.skip(f"Label Studio {release}: {reason}")


@pytest.fixture(scope="session")
def colleague(label_studio: StudioServer) -> Iterator[Person]:
    person = Person(label_studio.url, label_studio.add_user("colleague@example.com"))
    with person.http:
        yield person


@pytest.fixture
def studio(label_studio: StudioServer) -> Iterator[Studio]:
    with Studio(label_studio.url, label_studio.admin.personal_token) as client:
        yield client


@pytest.fixture
def make_project(owner: Person, studio: Studio) -> Callable[..., Project]:
    def make(tasks: int = 0, config: str = CONFIG, **fields) -> Project:
        body = {"title": "A project", "label_config": config, **fields}
        project = Project(owner.call("POST", "/api/projects/", json=body)["id"])
        if tasks:
            rows = [{"data": {"image": f"https://images.example/{i}.jpg"}} for i in range(tasks)]
            owner.call("POST", f"/api/projects/{project.id}/import", json=rows)
            project.task_ids = [task.id for task in studio.tasks(project.id)]
        return project

    return make


class WebServer:
    """A loopback web server whose answers a test writes: path -> function of the handler."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.body = body
                path = self.path.split("?")[0]
                web.requests.append((self.command, self.path, dict(self.headers)))
                web.answers.get(path, lambda handler: reply(handler, 404, b"no"))(self)

            do_GET = do_POST = _answer  # noqa: N815

            def log_message(self, *args) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a loopback web server that answers with `handler`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def tasks_of_view(studio: Studio, view_id: int, project_id: int) -> list[int]:
    """Ids of the first tasks of a tab, in the order the tab shows them. Locks nothing."""
    return studio._get(
        "/api/tasks/",
        "reading a tab",
        project_id,
        {"project": project_id, "view": view_id, "fields": "task_only", "page_size": 100},
        read=lambda page: [task["id"] for task in page["tasks"]],
    )


def find_tab(studio: Studio, project_id: int) -> ViewInfo | None:
    """The tab "Hardest first", if it is there."""
    return next((view for view in studio.views(project_id) if view.title == TITLE), None)
