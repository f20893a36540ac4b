"""`/ready` and `/metrics`: what they say from outside, and that neither ever hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.api.probes import Probe
from backend.api.services import Services
from backend.scoring.serving_model import notes_on_model
from backend.server import create_app
from backend.settings import Settings, load_settings
from backend.store.annotations import AnnotationStore, StoredAnnotation
from backend.store.api_keys import KeyStore
from backend.store.census import take_census
from backend.store.scores import Store
from tests.jobs.conftest import eventually
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import MODELS
from tests.postgres_server import postgres_bin, running_postgres
from tests.test_metrics import Figures, read

WHOAMI = "/api/current-user/whoami"


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    me = b'{"id": 1, "email": "me@example.com"}'
    server.answers[WHOAMI] = lambda h: reply(h, 200, me, Content_Type="application/json")
    yield server
    server.close()


@pytest.fixture
def settings(tmp_path: Path, web: WebServer) -> Settings:
    """Without weights, which would take long to load."""
    return load_settings(
        model="missing.pt",
        model_dir=tmp_path,
        data_dir=tmp_path,
        label_studio_url=web.url,
        label_studio_api_key="legacy-token-of-nobody",
    )


def started(settings: Settings) -> TestClient:
    return TestClient(
        create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)
    )


def services_of(client: TestClient) -> Services:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    return services


def checks(client: TestClient, *, status: int = 503) -> dict[str, tuple[bool, str]]:
    """Name of a check -> whether it is well, and the line it tells."""
    answer = client.get("/ready")
    assert answer.status_code == status, answer.text
    body = answer.json()
    found = {check["name"]: (check["ok"], check["detail"]) for check in body["checks"]}
    assert list(found) == ["store", "label_studio", "weights"]
    assert body["ready"] == all(ok for ok, _ in found.values())
    return found


def figures(client: TestClient, **headers: str) -> Figures:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return read(answer.text)


def test_a_server_is_ready_when_store_label_studio_and_models_are(
    settings: Settings, web: WebServer
) -> None:
    models = {name.lower(): value for name, value in MODELS.items()}
    loading = load_settings(**{**settings.model_dump(), **models})
    with started(loading) as client:
        services_of(client).worker.base_detector(timeout=120)
        assert all(ok for ok, _ in checks(client, status=200).values())


def test_models_that_cannot_be_loaded_say_why(settings: Settings) -> None:
    with started(settings) as client:
        found = checks(client)
        assert found["store"][0]
        assert found["label_studio"][0]
        assert found["weights"][0] is False
        assert "MODEL=missing.pt is not in MODEL_DIR" in found["weights"][1]
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "does not take the token"), (403, "does not take the token"), (500, "with an error")],
)
def test_what_is_wrong_with_label_studio_is_told_without_its_address(
    settings: Settings, web: WebServer, status: int, said: str
) -> None:
    web.answers[WHOAMI] = lambda handler: reply(handler, status, b"{}")
    with started(settings) as client:
        ok, detail = checks(client)["label_studio"]
    assert not ok
    assert said in detail
    assert web.url not in detail


def test_many_probes_ask_label_studio_once(settings: Settings, web: WebServer) -> None:
    with started(settings) as client:
        for _ in range(20):
            assert checks(client)["label_studio"][0]
    assert len([path for _, path, _ in web.requests if path.startswith(WHOAMI)]) == 1


def test_ready_answers_while_label_studio_hangs(settings: Settings, web: WebServer) -> None:
    let_go = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        # Dribbles, so that no time-out between two bytes ends it.
        handler.send_response(200)
        handler.end_headers()
        while not let_go.wait(0.2):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    web.answers[WHOAMI] = hang
    with started(settings) as client:
        for _ in range(2):
            found = checks(client)
            assert not let_go.is_set()
            assert found["label_studio"] == (False, "no answer within 2 s: see the log")
            assert found["store"][0]
        let_go.set()


def test_ready_and_metrics_answer_while_the_database_hangs(settings: Settings) -> None:
    with started(settings) as client, ExitStack() as held:
        store = services_of(client).store
        # All its connections are lent out: a request for one waits half a minute.
        for _ in range(15):
            held.enter_context(store.begin())
        ok, detail = checks(client)["store"]
        assert not ok
        assert detail == "no answer within 2 s: see the log"
        census = services_of(client).census
        assert asyncio.run(census.answer(0.5)) is None


def test_ready_says_so_when_the_database_is_gone(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = postgres_bin()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    with ExitStack() as running:
        url = running.enter_context(running_postgres(programs, tmp_path_factory.mktemp("pg")))
        changed = load_settings(**{**settings.model_dump(), "database_url": url})
        with started(changed) as client:
            assert checks(client)["store"][0]
            assert figures(client)["store_up", ()] == 1
            running.close()
            # What was found a moment ago is given out for a second.
            eventually(lambda: not checks(client)["store"][0], "the loss is noticed")
            detail = checks(client)["store"][1]
            assert detail.startswith("the store does not answer: see DATABASE_URL")
            assert "test@" not in detail
            assert client.get("/health").status_code == 200


def test_health_and_ready_ask_for_nothing(settings: Settings) -> None:
    with started(settings) as client:
        KeyStore(services_of(client).store).make("somebody")
        for path in ("/health", "/ready"):
            assert client.get(path).status_code in (200, 503)
            stranger = client.get(path, headers={"X-Forwarded-For": "192.0.2.7"})
            assert stranger.status_code in (200, 503)


def answer_of(task_id: int, annotation_id: int, *, skipped: bool = False) -> StoredAnnotation:
    now = datetime.now(timezone.utc)
    return StoredAnnotation(annotation_id, task_id, 1, skipped, False, None, [], None, now)


def test_metrics_count_jobs_and_answers_of_the_store(settings: Settings) -> None:
    with started(settings) as client:
        services = services_of(client)
        answers = AnnotationStore(services.store)
        answers.replace(3, 7, [answer_of(7, 1), answer_of(7, 2)])
        answers.replace(3, 8, [answer_of(8, 3, skipped=True)])
        answers.replace(4, 9, [answer_of(9, 4)])
        services.queue.submit("poll", 3)
        services.queue.submit("poll", 4)
        services.queue.cancel(services.queue.submit("train", 3).id)
        found = figures(client)
    assert found["store_up", ()] == 1
    assert found["answers", (("project", "3"),)] == 3
    assert found["labelled_tasks", (("project", "3"),)] == 1
    assert found["labelled_tasks", (("project", "4"),)] == 1
    assert found["jobs", (("kind", "poll"), ("state", "queued"))] == 2
    assert found["jobs", (("kind", "train"), ("state", "cancelled"))] == 1
    assert found["jobs", (("kind", "publish"), ("state", "failed"))] == 0
    assert found["images_waiting", ()] == 0


def test_two_apps_of_one_process_tell_their_own_store(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    with started(settings) as one, started(other) as two:
        services_of(one).queue.submit("poll", 3)
        waiting = ("jobs", (("kind", "poll"), ("state", "queued")))
        assert (figures(one)[waiting], figures(two)[waiting]) == (1, 0)


def test_metrics_are_for_this_machine_until_there_is_a_key_and_then_for_keys(
    settings: Settings,
) -> None:
    with started(settings) as client:
        store = services_of(client).store
        AnnotationStore(store).replace(3, 7, [answer_of(7, 1)])
        AnnotationStore(store).replace(4, 8, [answer_of(8, 2)])
        assert client.get("/metrics").status_code == 200
        assert client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 401
        _, all_projects = KeyStore(store).make("prometheus", may_write=False)
        _, one_project = KeyStore(store).make("team", projects=[3], may_write=False)
        # The app knows of no key yet: keys are looked up again within seconds.
        seen = figures(client, Authorization=f"Bearer {all_projects}")
        assert ("answers", (("project", "4"),)) in seen
        seen = figures(client, Authorization=f"Bearer {one_project}")
        assert ("answers", (("project", "3"),)) in seen
        assert ("answers", (("project", "4"),)) not in seen


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_census_of_any_size(tmp_path: Path, count: int) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.sqlite3")
    for task in range(count):
        AnnotationStore(store).replace(3, task, [answer_of(task, task)])
    census = take_census(store)
    store.close()
    assert census.jobs == {}
    assert census.labelled == ({3: count} if count else {})


class TestProbe:
    """One look for all who ask at the same time."""

    @staticmethod
    def ask(probe: Probe[Any], *, times: int = 1, limit: float = 5.0) -> list[Any]:
        async def main() -> list[Any]:
            return [*await asyncio.gather(*(probe.answer(limit) for _ in range(times)))]

        return asyncio.run(main())

    def test_those_who_wait_share_a_look(self) -> None:
        looks: list[int] = []
        probe = Probe("x", lambda: looks.append(1) or len(looks), keep_seconds=60)  # type: ignore[func-returns-value]
        assert self.ask(probe, times=50) == [1] * 50
        assert self.ask(probe) == [1]

    def test_what_is_stale_is_looked_at_again(self) -> None:
        looks: list[int] = []
        probe = Probe("x", lambda: looks.append(1) or len(looks), keep_seconds=0)  # type: ignore[func-returns-value]
        assert [self.ask(probe)[0] for _ in range(3)] == [1, 2, 3]

    @pytest.mark.parametrize("error", [RuntimeError("no"), OSError("no")])
    def test_a_look_that_fails_is_no_answer_and_the_next_one_may_be(self, error: Exception) -> None:
        outcomes: list[Callable[[], int]] = [lambda: 7]

        def look() -> int:
            if outcomes:
                outcomes.pop()
                raise error
            return 7

        probe = Probe("x", look, keep_seconds=0)
        assert self.ask(probe) == [None]
        assert self.ask(probe) == [7]

    def test_one_that_hangs_holds_nobody_and_no_second_begins(self) -> None:
        let_go = threading.Event()
        looks: list[int] = []

        def look() -> int:
            looks.append(1)
            let_go.wait(30)
            return 7

        probe = Probe("x", look, keep_seconds=60)
        assert self.ask(probe, times=3, limit=0.05) == [None] * 3
        assert self.ask(probe, limit=0.05) == [None]
        assert looks == [1]
        let_go.set()
        assert self.ask(probe) == [7]


def test_another_model_than_the_servers_is_announced(settings: Settings) -> None:
    with started(settings) as client:
        store = services_of(client).store
        assert notes_on_model(settings, store) == []
        [note] = notes_on_model(settings.model_copy(update={"model": "other.pt"}), store)
    assert f"the server was last started with MODEL={settings.model}, and this command with" in note
    assert "MODEL=other.pt" in note
