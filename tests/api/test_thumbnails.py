"""Thumbnails over HTTP, of images that a web server on loopback gives out as Label Studio does."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.api.prefixes import PREFIXES
from backend.detections import Detections
from backend.images.cache import ImageCache
from backend.images.source import ImageSource
from backend.scoring.thumbnails import FRESH_S, Thumbnails
from backend.settings import load_settings
from backend.store.scores import ScoredTask, Store
from backend.uncertainty import MEASURES
from demo.studio_server import StudioServer
from tests.api.server import Server, served
from tests.label_studio.conftest import CONFIG, WebServer, reply
from tests.person import Person

_numbers = count(1)


def picture(width: int, height: int, form: str = "JPEG", colour: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, form)
    return buffer.getvalue()


def scored(task_id: int, uri: str, *, image_hash: str = "a" * 64) -> ScoredTask:
    nothing = Detections(np.zeros((0, 4)), np.zeros((0, 2)), 0.0, (8, 8))
    return ScoredTask(task_id, uri, image_hash, "detector", nothing, dict.fromkeys(MEASURES, 0.5))


@dataclass
class Gallery:
    """A server of thumbnails, and where its images come from."""

    server: Server
    web: WebServer

    def add(
        self, answer: bytes | Callable[[BaseHTTPRequestHandler], None], *, project: int = 1
    ) -> int:
        """A new scored task, whose image is answered so."""
        task_id = next(_numbers)
        uri = f"/data/upload/{project}/{task_id}.jpg"
        give = answer if callable(answer) else lambda h: reply(h, 200, answer)
        self.web.answers[uri] = give
        self.server.services.store.save_scores(project, [scored(task_id, uri)])
        return task_id

    def get(self, task_id: object, **headers: str) -> httpx.Response:
        return self.server.http.get(f"/v1/label/thumbnail/{task_id}", headers=headers)

    def fetched(self, task_id: int) -> int:
        return sum(path.endswith(f"/{task_id}.jpg") for _, path, _ in self.web.requests)

    def refusal(self, task_id: object, status: int) -> str:
        answer = self.get(task_id)
        assert answer.status_code == status, answer.text
        detail = answer.json()["detail"]
        assert isinstance(detail, str)
        assert "\n" not in detail
        return detail


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    web = WebServer()
    settings = load_settings(
        data_dir=tmp_path_factory.mktemp("data"),
        label_studio_url=web.url,
        label_studio_api_key="legacy-token-of-nobody",
    )
    with served(settings) as server:
        yield Gallery(server, web)
    web.close()


@pytest.mark.parametrize(("task", "status"), [(2**31 - 1, 404), (2**31, 422), (0, 422), ("x", 422)])
def test_a_task_that_was_never_scored(gallery: Gallery, task: object, status: int) -> None:
    assert gallery.refusal(task, status)


@pytest.mark.parametrize(
    ("size", "form", "shown"),
    [
        ((8, 8), "PNG", (8, 8)),  # none is made larger
        ((256, 1), "PNG", (256, 1)),
        ((1200, 900), "JPEG", (256, 192)),
        ((300, 1500), "PNG", (51, 256)),
    ],
)
def test_it_is_a_small_jpeg(
    gallery: Gallery, size: tuple[int, int], form: str, shown: tuple[int, int]
) -> None:
    task = gallery.add(picture(*size, form))
    answer = gallery.get(task)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private, max-age=")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", shown)


def test_it_is_made_once_and_the_same_under_both_prefixes(gallery: Gallery) -> None:
    task = gallery.add(picture(640, 480))
    answers = [
        gallery.server.http.get(f"{prefix}/thumbnail/{task}") for prefix in PREFIXES for _ in "ab"
    ]
    assert len({(answer.content, answer.headers["etag"]) for answer in answers}) == 1
    assert gallery.fetched(task) == 1


def test_what_a_browser_has_is_not_sent_again(gallery: Gallery) -> None:
    task = gallery.add(picture(640, 480))
    tag = gallery.get(task).headers["etag"]
    assert tag.startswith('"')  # a strong one
    for names in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = gallery.get(task, **{"If-None-Match": names})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
        assert "private" in answer.headers["cache-control"]
    for names in ("", '"other"', tag.strip('"')):
        assert gallery.get(task, **{"If-None-Match": names}).status_code == 200


def test_pictures_that_differ_have_other_tags(gallery: Gallery) -> None:
    colours = [gallery.add(picture(64, 64, colour=colour)) for colour in ("red", "green")]
    assert len({gallery.get(task).headers["etag"] for task in colours}) == 2


def test_a_key_sees_its_own_projects_only(gallery: Gallery) -> None:
    foreign = gallery.add(picture(64, 64), project=2)
    with gallery.server.only_for(1):
        assert "project 2" in gallery.refusal(foreign, 403)
        assert gallery.fetched(foreign) == 0
    assert gallery.get(foreign).status_code == 200
    with gallery.server.only_for(1):
        # In memory by now, and refused all the same, also to who knows its tag.
        assert gallery.refusal(foreign, 403)
        assert gallery.get(foreign, **{"If-None-Match": "*"}).status_code == 403
    with gallery.server.only_for(2):
        assert gallery.get(foreign).status_code == 200


@pytest.mark.parametrize("answer", [b"no image at all", picture(640, 480)[:500]])
def test_an_image_that_cannot_be_read(gallery: Gallery, answer: bytes) -> None:
    task = gallery.add(answer)
    assert f"task {task}" in gallery.refusal(task, 502)


def test_an_image_that_label_studio_does_not_give(gallery: Gallery) -> None:
    gone = gallery.add(lambda handler: reply(handler, 404, b"no"))
    assert "is not there" in gallery.refusal(gone, 502)
    failing = gallery.add(lambda handler: reply(handler, 503, b"later"))
    assert gallery.refusal(failing, 502)
    assert gallery.fetched(failing) == 1  # a page does not wait for retries
    gallery.web.answers[f"/data/upload/1/{failing}.jpg"] = lambda h: reply(h, 200, picture(9, 9))
    assert gallery.get(failing).status_code == 200


def test_an_image_that_takes_too_long_is_there_when_asked_again(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.api.routes.thumbnails.LIMIT_S", 0.2)
    given = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        given.wait(4)
        reply(handler, 200, picture(64, 64))

    task = gallery.add(slow)
    assert "0.2 s" in gallery.refusal(task, 504)
    given.set()
    monkeypatch.undo()
    assert gallery.get(task).status_code == 200
    assert gallery.fetched(task) == 1


def test_many_who_ask_at_once_make_one_fetch(gallery: Gallery) -> None:
    everybody = threading.Barrier(8)
    given = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        given.wait(4)
        reply(handler, 200, picture(64, 64))

    task = gallery.add(slow)

    def ask(_: int) -> int:
        everybody.wait(10)
        return gallery.get(task).status_code

    with ThreadPoolExecutor(8) as askers:
        answers = askers.map(ask, range(8))
        threading.Event().wait(0.3)
        given.set()
        assert set(answers) == {200}
    assert gallery.fetched(task) == 1


def test_an_upload_to_the_real_label_studio(label_studio: StudioServer, tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path,
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.admin.personal_token,
    )
    owner = Person(label_studio.url, label_studio.admin)
    with owner.http, served(settings) as server:
        project = owner.call(
            "POST", "/api/projects/", json={"title": "Cells", "label_config": CONFIG}
        )
        files = {"file": ("a b.png", picture(500, 250, "PNG"), "image/png")}
        owner.call("POST", f"/api/projects/{project['id']}/import", files=files)
        (task,) = owner.call("GET", f"/api/tasks/?project={project['id']}")["tasks"]
        row = scored(task["id"], task["data"]["image"])
        server.services.store.save_scores(project["id"], [row])
        answer = server.http.get(f"/v1/label/thumbnail/{task['id']}")
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (256, 128)


def test_label_studio_down_is_told_in_one_line(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path,
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="legacy-token-of-nobody",
    )
    with served(settings) as server:
        server.services.store.save_scores(1, [scored(5, "/data/upload/1/5.jpg")])
        answer = server.http.get("/v1/label/thumbnail/5")
        assert answer.status_code == 504
        assert "LABEL_STUDIO_URL" in answer.json()["detail"]


# --- what is kept -----------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shelf:
    """Thumbnails beside a store, by a clock of their own."""

    store: Store
    web: WebServer
    folder: Path

    def open(self, clock: Clock, memory_bytes: int = 1_000_000) -> Thumbnails:
        source = ImageSource(self.web.url, None)
        cache = ImageCache(self.folder, 1_000_000)
        return Thumbnails(self.store, source, cache, memory_bytes=memory_bytes, clock=clock)

    def score(self, task_id: int, image_hash: str) -> None:
        uri = f"/data/upload/1/{task_id}.jpg"
        self.store.save_scores(1, [scored(task_id, uri, image_hash=image_hash)])


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    store, web = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}"), WebServer()
    yield Shelf(store, web, tmp_path / "thumbnails")
    web.close()
    store.close()


def test_it_outlives_the_server(shelf: Shelf) -> None:
    shelf.web.answers["/data/upload/1/1.jpg"] = lambda h: reply(h, 200, picture(64, 64))
    shelf.score(1, "a")
    first = shelf.open(Clock())
    image = first.find(1)
    assert image is not None
    assert first.kept(image) is None
    made = first.make(image).result()
    first.close()
    shelf.web.answers.clear()
    second = shelf.open(Clock())
    assert second.recent(1) is None
    assert second.kept(image) == made
    assert second.recent(1) == made
    second.close()


def test_one_from_memory_is_checked_again_after_a_while(shelf: Shelf) -> None:
    clock = Clock()
    shelf.web.answers["/data/upload/1/1.jpg"] = lambda h: reply(h, 200, picture(64, 64))
    shelf.score(1, "a")
    thumbnails = shelf.open(clock)
    image = thumbnails.find(1)
    assert image is not None
    thumbnails.make(image).result()
    clock.now += FRESH_S
    assert thumbnails.recent(1) is not None
    clock.now += 1
    assert thumbnails.recent(1) is None
    # It is current: checked, it is recent once more.
    assert thumbnails.kept(image) is not None
    assert thumbnails.recent(1) is not None
    # The task was scored again, with another image behind its address.
    shelf.score(1, "b")
    clock.now += FRESH_S + 1
    changed = thumbnails.find(1)
    assert changed is not None
    assert changed.image_hash == "b"
    assert thumbnails.kept(changed) is None
    thumbnails.close()


def test_the_latest_scoring_says_what_a_task_shows(shelf: Shelf) -> None:
    thumbnails = shelf.open(Clock())
    for detector, uri in (("new", "/b.jpg"), ("base", "/a.jpg"), ("new", "/c.jpg")):
        row = scored(3, uri)
        shelf.store.save_scores(1, [ScoredTask(**{**vars(row), "detector": detector})])
        found = thumbnails.find(3)
        assert found is not None
        assert found.image_uri == uri
    thumbnails.close()


def test_memory_holds_the_last_used_ones_up_to_its_bound(shelf: Shelf) -> None:
    for task in (1, 2, 3):
        shelf.web.answers[f"/data/upload/1/{task}.jpg"] = lambda h: reply(h, 200, picture(64, 64))
        shelf.score(task, "a")
    size = len(_jpeg_of(shelf))
    thumbnails = shelf.open(Clock(), memory_bytes=2 * size)
    for task in (1, 2):
        image = thumbnails.find(task)
        assert image is not None
        thumbnails.make(image).result()
    assert thumbnails.recent(1) is not None  # used last from now on
    image = thumbnails.find(3)
    assert image is not None
    thumbnails.make(image).result()
    assert [thumbnails.recent(task) is not None for task in (1, 2, 3)] == [True, False, True]
    thumbnails.close()


def _jpeg_of(shelf: Shelf) -> bytes:
    thumbnails = shelf.open(Clock())
    image = thumbnails.find(1)
    assert image is not None
    made = thumbnails.make(image).result()
    thumbnails.close()
    return made.jpeg


def test_a_fetch_that_nobody_waits_for_any_more_is_not_begun(shelf: Shelf) -> None:
    clock, given = Clock(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        given.wait(4)
        reply(handler, 200, picture(64, 64))

    for task in range(1, 21):
        shelf.web.answers[f"/data/upload/1/{task}.jpg"] = slow
        shelf.score(task, str(task))
    thumbnails = shelf.open(clock)
    found = [thumbnails.find(task) for task in range(1, 21)]
    asked = [thumbnails.make(image) for image in found if image is not None]
    clock.now += 3600
    given.set()
    ended = [one.exception(timeout=30) for one in asked]
    given_up = [error for error in ended if isinstance(error, TimeoutError)]
    assert len(given_up) >= 10
    assert len(shelf.web.requests) <= 20 - len(given_up)
    thumbnails.close()
