"""Two that publish to one project at once, on the real Label Studio, stopped by real signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

import httpx
import pytest
from sqlalchemy import update

from backend.label_studio.client import Studio
from backend.store import tables
from backend.store.job_claims import requeued
from tests.label_studio.conftest import reply, serving
from tests.loop.conftest import Command
from tests.person import Person

pytestmark = pytest.mark.timeout(600)

MakeProject = Callable[..., tuple[int, list[int]]]


@contextmanager
def relay(target: str, before_clean_up: Callable[[], None]) -> Iterator[str]:
    """The address of a proxy to Label Studio.

    `before_clean_up` runs once, when a publisher has switched and asks what there is to delete.
    """
    state = {"switched": False}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("authorization", "content-type")
            }
            if state["switched"] and self.path.endswith("/model-versions/"):
                state["switched"] = False
                before_clean_up()
            answer = httpx.request(
                self.command, target + self.path, content=body, headers=headers, timeout=60
            )
            if self.command == "PATCH" and b"model_version" in body:
                state["switched"] = True
            kind = answer.headers.get("content-type", "application/json")
            reply(self, answer.status_code, answer.content, Content_Type=kind)

        do_GET = do_POST = do_PATCH = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


def assert_is_served(studio: Studio, owner: Person, project: int, queue: list[int]) -> None:
    live = studio.project(project).model_version
    assert studio.model_versions(project)[live] > 0
    task = owner.next_task(project)
    assert task is not None
    assert (task["id"], task["predictions"][0]["model_version"]) == (queue[0], live)


def test_a_sleeper_deletes_nothing_once_others_went_on(
    command: Command, environment: dict[str, str], make_project: MakeProject, owner: Person
) -> None:
    project, _ = make_project()
    url = environment["LABEL_STUDIO_URL"]
    stopped, go_on = Event(), Event()

    def stop() -> None:
        os.kill(sleeper.pid, signal.SIGSTOP)
        stopped.set()
        go_on.wait(240)

    with relay(url, stop) as slow:
        sleeper = Command({**environment, "LABEL_STUDIO_URL": slow}).start("score", project)
        assert stopped.wait(240)
        # What a worker does when a job sent no heartbeat for longer than its lease.
        with command.store.begin() as connection:
            connection.execute(update(tables.jobs).values(requeued()))
        command.json("score", project)
        last = command.json("score", project, "--strategy", "entropy")
        go_on.set()
        os.kill(sleeper.pid, signal.SIGCONT)
        _, errors = sleeper.communicate(timeout=120)

    with Studio(url, environment["LABEL_STUDIO_API_KEY"]) as studio:
        assert studio.project(project).model_version == last["model_version"]
        assert_is_served(studio, owner, project, [row["image_id"] for row in last["queue"]])
    assert "went to another process, because this one was stopped" in " ".join(errors.split())
    assert "Traceback" not in errors


def test_two_data_dirs_leave_each_other_s_order_alone(
    command: Command,
    environment: dict[str, str],
    make_project: MakeProject,
    owner: Person,
    tmp_path: Path,
) -> None:
    project, _ = make_project()
    url = environment["LABEL_STUDIO_URL"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "exports").symlink_to(command.data_dir / "exports")
    other = Command({**environment, "DATA_DIR": str(elsewhere)})
    stopped, go_on = Event(), Event()

    def stop() -> None:
        os.kill(first.pid, signal.SIGSTOP)
        stopped.set()
        go_on.wait(240)

    with relay(url, stop) as slow:
        first = Command({**environment, "LABEL_STUDIO_URL": slow}).start("score", project)
        assert stopped.wait(240)
        output, said = other.run("score", project, "--json")
        go_on.set()
        os.kill(first.pid, signal.SIGCONT)
        first.communicate(timeout=120)

    assert "another installation publishes to the project too" in said
    with Studio(url, environment["LABEL_STUDIO_API_KEY"]) as studio:
        live = studio.project(project).model_version
        assert live in output
        assert len(studio.model_versions(project)) == 2
        order = other.json("queue", project)["queue"]
        assert_is_served(studio, owner, project, [row["image_id"] for row in order])
    _, said = command.run("queue", project)
    assert f"was served by the order {live}" in said
    output, _ = command.run("doctor", project)
    assert f"was served by the order {live}, which this store did not publish" in output
