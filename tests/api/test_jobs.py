"""Jobs over HTTP: asked for, listed, followed, cancelled."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from backend.api.job_feed import JobFeed
from backend.api.prefixes import PREFIXES
from backend.job_kinds import KINDS
from backend.jobs.context import JobContext
from backend.jobs.runner import run_now
from backend.settings import load_settings
from backend.store.job_queue import JobQueue
from backend.store.jobs import Job
from tests.api.server import Server, served
from tests.jobs.conftest import eventually
from tests.label_studio.conftest import CONFIG, WebServer, reply

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
PART = b'--x\r\nContent-Disposition: form-data; name="project_id"%s\r\n\r\n7\r\n--x--\r\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    web = WebServer()
    for project in (21, 22, 23, 24, *(100 + len(prefix) for prefix in PREFIXES)):
        body = json.dumps({"id": project, "title": "Line", "label_config": CONFIG}).encode()
        web.answers[f"/api/projects/{project}/"] = lambda h, body=body: reply(
            h, 200, body, Content_Type="application/json"
        )
    settings = load_settings(
        data_dir=tmp_path_factory.mktemp("data"),
        label_studio_url=web.url,
        label_studio_api_key="legacy-token-of-nobody",
    )
    with served(settings) as running:
        running.swap(feed=JobFeed(running.services.queue, pause=0.05))
        yield running
    web.close()


@pytest.fixture
def queue(server: Server) -> JobQueue:
    return server.services.queue


def one_line(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert "\n" not in detail
    return detail


# --- asking for jobs --------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_form_starts_the_auto_label_job(server: Server, prefix: str) -> None:
    project = 100 + len(prefix)
    sent = {"project_id": project, "tasks": "detect"}
    answer = server.http.post(f"{prefix}/auto", data=sent)
    assert answer.status_code == 202
    job = answer.json()
    assert (job["kind"], job["project_id"], job["state"]) == ("auto-label", project, "queued")
    assert server.http.get(f"{prefix}/jobs/{job['id']}").json() == job
    # Asked again, it is the same one: it waits already.
    assert server.http.post(f"{prefix}/auto", data=sent).json() == job
    waiting = server.services.queue.get(job["id"])
    assert waiting.exclusive == f"{project}:order"


@pytest.mark.parametrize(
    ("body", "kind", "status", "names"),
    [
        (b"", FORM, 422, "project_id"),
        (b"", "", 415, "form"),
        (b"project_id=7", "text/plain", 415, "form"),
        (b"project_id=7&tasks=segment", FORM, 422, "tasks"),
        (b"project_id=7&tasks=", FORM, 422, "tasks"),
        (b"project_id=many", FORM, 422, "project_id"),
        (b"project_id=0", FORM, 422, "project_id"),
        (b"project_id=99999999999999999999", FORM, 422, "project_id"),
        (b"project_id=7&" + b"a=b&" * 200, FORM, 422, FORM),
        (b"\xff\xfe=1", FORM, 422, "project_id"),
        (b"%ff=%fe", FORM, 422, "project_id"),
        (b"[]", "application/json", 422, "body"),
        (b"{", "application/json; charset=utf-8", 422, "body"),
        (b"\xff", "application/json", 422, "body"),
        (b'{"project_id": 7, "tasks": "segment"}', "application/json", 422, "tasks"),
        (b'{"project_id": true}', "application/json", 422, "project_id"),
        (b"", f"{MULTIPART}; boundary=x", 422, "project_id"),
        (b"project_id=7", f"{MULTIPART}; boundary=x", 422, MULTIPART),
        (PART % b"", MULTIPART, 422, MULTIPART),
        (PART % b"", f"{MULTIPART}; boundary=", 422, MULTIPART),
        (PART % b"; filename=a", f"{MULTIPART}; boundary=x", 422, MULTIPART),
    ],
)
def test_a_wrong_body_is_refused_in_one_line(
    server: Server, body: bytes, kind: str, status: int, names: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = server.http.post("/v1/label/auto", content=body, headers=headers)
    assert names in one_line(answer, status)
    assert server.services.queue.list(7) == ()


def test_a_training_is_asked_for_as_json_or_as_a_form(server: Server, queue: JobQueue) -> None:
    sent: list[dict[str, Any]] = [
        {"json": {"project_id": 21}},
        {"data": {"project_id": 21}},
        {"files": {"project_id": (None, "21")}},  # as `curl -F` sends it
    ]
    answers = [server.http.post("/v1/label/train", **body) for body in sent]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert queue.get(answers[0].json()["id"]).payload == {"all_labels": False}
    every = server.http.post("/v1/label/train", data={"project_id": 22, "all_labels": "true"})
    assert queue.get(every.json()["id"]).payload == {"all_labels": True}


@pytest.mark.parametrize("route", ["auto", "train"])
def test_a_project_that_is_not_there_gets_no_job(
    server: Server, queue: JobQueue, route: str
) -> None:
    answer = server.http.post(f"/v1/label/{route}", json={"project_id": 999})
    assert "Project 999 is not in Label Studio" in one_line(answer, 404)
    assert queue.list(999) == ()


def test_a_training_of_another_wish_is_not_passed_off_as_this_one(
    server: Server, queue: JobQueue
) -> None:
    queue.submit("train", 23)
    assert server.http.post("/v1/label/train", json={"project_id": 23}).status_code == 202
    every = server.http.post("/v1/label/train", json={"project_id": 23, "all_labels": True})
    assert "all_labels" in one_line(every, 409)
    assert len(queue.list(23)) == 1


# --- looking up -------------------------------------------------------------------------------


def ids(server: Server, **query: Any) -> list[int]:
    answer = server.http.get("/v1/label/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_jobs_are_listed_newest_first_by_project_state_and_kind(
    server: Server, queue: JobQueue
) -> None:
    assert ids(server, project_id=30) == []
    made = {kind: queue.submit(kind, 30).id for kind in KINDS}
    queue.cancel(made["score"])
    looks = made.pop("poll")
    assert ids(server, project_id=30) == sorted(made.values(), reverse=True)
    assert ids(server, project_id=30, kind="poll") == [looks]
    for kind, job_id in made.items():
        assert ids(server, project_id=30, kind=kind) == [job_id]
    assert ids(server, project_id=30, state="cancelled") == [made["score"]]
    assert ids(server, project_id=30, state=["cancelled", "running"], kind="train") == []
    assert ids(server, project_id=30, limit=2) == sorted(made.values(), reverse=True)[:2]


@pytest.mark.parametrize(
    "query", ["state=asleep", "kind=nap", "limit=0", "limit=501", "project_id=0", "project_id=x"]
)
def test_a_wrong_filter_is_refused(server: Server, query: str) -> None:
    assert query.split("=")[0] in one_line(server.http.get(f"/v1/label/jobs?{query}"), 422)


@pytest.mark.parametrize("call", ["GET jobs/{}", "DELETE jobs/{}", "GET jobs/{}/events"])
def test_an_unknown_job(server: Server, call: str) -> None:
    method, path = call.split()
    for unknown, status in ((2**31 - 1, 404), (2**31, 422), (0, 422), ("x", 422)):
        answer = server.http.request(method, f"/v1/label/{path.format(unknown)}")
        assert one_line(answer, status)


def test_a_key_sees_and_changes_its_own_projects_only(server: Server, queue: JobQueue) -> None:
    mine, foreign = queue.submit("train", 41), queue.submit("train", 42)
    with server.only_for(41):
        assert ids(server) == [mine.id]
        assert ids(server, project_id=41) == [mine.id]
        refused = [
            server.http.get("/v1/label/jobs?project_id=42"),
            server.http.get(f"/v1/label/jobs/{foreign.id}"),
            server.http.get(f"/v1/label/jobs/{foreign.id}/events"),
            server.http.delete(f"/v1/label/jobs/{foreign.id}"),
            server.http.post("/v1/label/auto", data={"project_id": 42}),
            server.http.post("/v1/label/train", data={"project_id": 42}),
            server.http.get("/v1/label/rounds?project_id=42"),
        ]
        for answer in refused:
            assert "42" in one_line(answer, 403)
        assert server.http.get(f"/v1/label/jobs/{mine.id}").status_code == 200
    with server.only_for():
        assert ids(server) == []
    with server.only_for(41, may_write=False):
        assert ids(server) == [mine.id]
        for answer in (
            server.http.delete(f"/v1/label/jobs/{mine.id}"),
            server.http.post("/v1/label/auto", data={"project_id": 41}),
            server.http.post("/v1/label/train", data={"project_id": 41}),
        ):
            one_line(answer, 403)
    assert [job.state for job in queue.list(41)] == ["queued"]
    assert [job.state for job in queue.list(42)] == ["queued"]


# --- cancelling -------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_and_a_finished_one_stays(
    server: Server, queue: JobQueue
) -> None:
    waiting = queue.submit("train", 50)
    answer = server.http.delete(f"/v1/label/jobs/{waiting.id}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    done = run_now(queue, "publish", 50, None, {"publish": lambda context: {"ranked": 3}})
    answer = server.http.delete(f"/v1/label/jobs/{done.id}")
    assert (answer.status_code, answer.json()["state"]) == (200, "done")
    assert answer.json()["result"] == {"ranked": 3}


# --- following --------------------------------------------------------------------------------


def events_of(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


class Step:
    """A job that goes on when it is asked to, on a thread of its own."""

    def __init__(self, queue: JobQueue, project_id: int) -> None:
        self._go = threading.Semaphore(0)
        arguments = (queue, "publish", project_id, None, {"publish": self._run})
        self._thread = threading.Thread(target=run_now, args=arguments)
        self._thread.start()

    def _run(self, context: JobContext) -> dict[str, int]:
        for done in (1, 2):
            assert self._go.acquire(timeout=30)
            context.log(f"step {done}")
            context.progress("ranking", done, 2)
            context.beat()
        assert self._go.acquire(timeout=30)
        return {"ranked": 2}

    def on(self) -> None:
        self._go.release()

    def join(self) -> None:
        self._thread.join()


def test_a_job_is_followed_to_its_end(server: Server, queue: JobQueue) -> None:
    step = Step(queue, 60)
    eventually(lambda: [job.state for job in queue.list(60)] == ["running"], "it runs")
    job_id = queue.list(60)[0].id
    # What a browser sends when it comes back.
    headers = {"Last-Event-ID": "nonsense"}
    path = f"/v1/label/jobs/{job_id}/events"
    with server.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer)
        assert next(events)["state"] == "running"
        for done in (1, 2):
            step.on()
            event = next(event for event in events if event["done"] == done)
            assert (event["doing"], event["total"]) == ("ranking", 2)
            assert event["log"] == [f"step {number}" for number in range(1, done + 1)]
        step.on()
        # The last event, and then the server ends the stream.
        assert [event["state"] for event in events][-1] == "done"
    step.join()
    with server.http.stream("GET", path) as answer:
        assert [event["result"] for event in events_of(answer)] == [{"ranked": 2}]


def test_nothing_is_sent_while_nothing_changes(server: Server, queue: JobQueue) -> None:
    job = queue.submit("train", 61)
    with server.http.stream("GET", f"/v1/label/jobs/{job.id}/events") as answer:
        events = events_of(answer)
        assert next(events)["state"] == "queued"
        looked = Counted(queue)
        with looked:
            eventually(lambda: looked.reads >= 3, "it is looked at again and again")
        queue.cancel(job.id)
        assert [event["state"] for event in events] == ["cancelled"]


class Counted:
    """Counts the reads of a queue while it is open."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._get = queue.get
        self.reads = 0

    def __enter__(self) -> Counted:
        def get(job_id: int) -> Job:
            self.reads += 1
            return self._get(job_id)

        self._queue.get = get  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self._queue.get


def test_listeners_that_went_away_cost_no_reads(server: Server, queue: JobQueue) -> None:
    job = queue.submit("train", 62)
    # Kept: an iterator that is dropped closes its connection, and the listener is gone too soon.
    listeners = []
    with ExitStack() as open_now, Counted(queue) as counted:
        for _ in range(5):
            client = open_now.enter_context(httpx.Client(base_url=server.url, timeout=20))
            path = f"/v1/label/jobs/{job.id}/events"
            answer = open_now.enter_context(client.stream("GET", path))
            listeners.append(events_of(answer))
            assert next(listeners[-1])["state"] == "queued"
        eventually(lambda: counted.reads >= 8, "it is followed")
        open_now.close()

        def is_quiet() -> bool:
            before = counted.reads
            threading.Event().wait(0.3)  # six pauses of the feed
            return counted.reads == before

        eventually(is_quiet, "nobody reads any more")


class Played:
    """A queue that tells of one job: each read finds it further on."""

    def __init__(self, job: Job, steps: int) -> None:
        self.reads = 0
        self._job = job
        self._steps = steps
        self._lock = threading.Lock()

    def get(self, job_id: int) -> Job:
        with self._lock:
            self.reads += 1
            state = "done" if self.reads >= self._steps else "running"
            return replace(self._job, id=job_id, state=state, done=self.reads)


def test_many_listeners_share_the_reads(queue: JobQueue) -> None:
    played = Played(queue.submit("train", 63), steps=4)
    feed = JobFeed(cast(JobQueue, played), pause=0.2)

    async def listen() -> list[int]:
        return [job.done async for job in feed.follow(9)]

    async def all_listen() -> list[list[int]]:
        return await asyncio.gather(*(listen() for _ in range(50)))

    heard = asyncio.run(all_listen())
    # A listener that comes late to a read may miss it, but never the end.
    assert all(seen[-1] >= 4 for seen in heard)
    assert played.reads < 10


def test_another_estimate_of_the_time_left_is_no_news(queue: JobQueue) -> None:
    class Estimating(Played):
        def get(self, job_id: int) -> Job:
            found = super().get(job_id)
            return replace(found, done=3, seconds_left=float(self.reads))

    played = Estimating(queue.submit("train", 64), steps=4)
    feed = JobFeed(cast(JobQueue, played), pause=0.01)

    async def listen() -> list[str]:
        return [job.state async for job in feed.follow(9)]

    assert asyncio.run(listen()) == ["running", "done"]


# --- rounds -----------------------------------------------------------------------------------


def test_rounds_while_label_studio_is_down(server: Server) -> None:
    reachable = server.services.settings
    server.swap(settings=reachable.model_copy(update={"label_studio_url": "http://127.0.0.1:9"}))
    line = one_line(server.http.get("/v1/label/rounds?project_id=1"), 504)
    server.swap(settings=reachable)
    assert "LABEL_STUDIO_URL" in line


def test_rounds_of_no_project(server: Server) -> None:
    assert "project_id" in one_line(server.http.get("/v1/label/rounds"), 422)


def test_what_is_documented_is_what_is_answered(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    for prefix in PREFIXES:
        stream = document["paths"][f"{prefix}/jobs/{{job_id}}/events"]["get"]["responses"]
        assert list(stream["200"]["content"]) == ["text/event-stream"]
        assert list(stream["404"]["content"]) == ["application/json"]
        form = document["paths"][f"{prefix}/auto"]["post"]["requestBody"]["content"]
        assert {FORM, MULTIPART, "application/json"} == set(form)
    named = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(named) == len(set(named))
