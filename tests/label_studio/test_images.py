"""Fetching images: from the real Label Studio, and from servers that misbehave."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest

from backend.errors import AccessError, ImageError, UnreachableError
from backend.images.cache import ImageCache
from backend.images.source import ImageSource
from backend.label_studio.auth import TokenAuth
from backend.label_studio.records import TaskRef
from demo.studio_server import free_port
from tests.label_studio.conftest import reply

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
STUDIO = "http://studio.example"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("backend.images.http._pause", lambda state: 0.0)


@pytest.fixture(params=["personal", "legacy"])
def token(request, label_studio):
    if request.param == "personal":
        yield label_studio.admin.personal_token
        return
    label_studio.allow_legacy_tokens(True)
    yield label_studio.admin.legacy_token
    label_studio.allow_legacy_tokens(False)


@pytest.fixture
def real_source(label_studio, token):
    with contextlib.closing(
        ImageSource(label_studio.url, TokenAuth(label_studio.url, token), retries=0)
    ) as source:
        yield source


def upload(owner, project, name="a b.png"):
    path = f"/api/projects/{project.id}/import"
    owner.call("POST", path, files={"file": (name, PNG, "image/png")})


def test_an_upload(real_source, studio, make_project, owner):
    project = make_project()
    upload(owner, project)
    task = next(studio.tasks(project.id))

    assert task.data["image"].startswith("/data/upload/")
    assert real_source.fetch_task(task, "image") == PNG


def test_a_local_file(real_source, label_studio, make_project, owner):
    folder = label_studio.files_root / "set 1"
    folder.mkdir(exist_ok=True)
    (folder / "ä+b.png").write_bytes(PNG)
    project = make_project()
    storage = {"project": project.id, "path": str(folder), "use_blob_urls": True}
    owner.call("POST", "/api/storages/localfiles/", json=storage)

    uri = f"/data/local-files/?d={quote('set 1/ä+b.png')}"

    assert real_source.fetch(uri) == PNG
    with pytest.raises(ImageError, match="is not there"):
        real_source.fetch("/data/local-files/?d=set%201/none.png")


def test_an_absolute_address_of_label_studio_gets_the_token(
    real_source, studio, make_project, owner, label_studio
):
    project = make_project()
    upload(owner, project)
    task = next(studio.tasks(project.id))

    assert real_source.fetch(label_studio.url + task.data["image"]) == PNG


def test_an_upload_label_studio_does_not_know(real_source):
    with pytest.raises(ImageError, match="the upload is gone"):
        real_source.fetch("/data/upload/1/none.png")


def test_a_cloud_image_without_a_storage(real_source, make_project):
    task_id = make_project(tasks=1).task_ids[0]
    with pytest.raises(ImageError, match="is not there"):
        real_source.fetch("s3://bucket/a.png", task_id=task_id)


def test_a_dead_token_is_no_fault_of_the_image(label_studio, make_project, studio, owner):
    project = make_project()
    upload(owner, project)
    uri = next(studio.tasks(project.id)).data["image"]
    wrong = label_studio.admin.personal_token[:-4] + "AAAA"
    source = ImageSource(label_studio.url, TokenAuth(label_studio.url, wrong))
    with contextlib.closing(source), pytest.raises(AccessError, match="personal access token"):
        source.fetch(uri)


def source_of(answer, **options):
    """A source whose requests go to `answer(request)`."""
    options = {"retries": 2, **options}
    auth = TokenAuth(STUDIO, "legacy-token-0123456789")
    return ImageSource(STUDIO, auth, transport=httpx.MockTransport(answer), **options)


def test_cloud_images_go_through_the_resolver_and_the_token_stays_home():
    seen = {}

    def answer(request):
        seen[request.url.host] = request.headers.get("authorization")
        if request.url.host == "studio.example":
            assert request.url.path == "/tasks/7/resolve/"
            coded = request.url.params["fileuri"]
            assert base64.urlsafe_b64decode(coded).decode() == "s3://bucket/ä b.png"
            return httpx.Response(303, headers={"location": "https://bucket.example/x?sig=1"})
        return httpx.Response(200, content=PNG)

    assert source_of(answer).fetch("s3://bucket/ä b.png", task_id=7) == PNG
    assert seen == {"studio.example": "Token legacy-token-0123456789", "bucket.example": None}


@pytest.mark.parametrize(
    "uri",
    [
        "http://other.example/a.png",
        "https://studio.example/a.png",
        "http://studio.example:8080/a.png",
        "http://studio.example.evil.example/a.png",
        "http://studio.example@evil.example/a.png",
    ],
)
def test_the_token_never_goes_elsewhere(uri):
    def answer(request):
        assert "legacy-token" not in request.headers.get("authorization", "")
        return httpx.Response(200, content=PNG)

    assert source_of(answer).fetch(uri) == PNG


def test_the_path_of_label_studios_address_is_kept():
    def answer(request):
        assert str(request.url) == "https://host.example/studio/data/upload/1/a.png"
        return httpx.Response(200, content=PNG)

    source = ImageSource(
        "https://host.example/studio/", None, transport=httpx.MockTransport(answer)
    )
    assert source.fetch("/data/upload/1/a.png") == PNG
    assert source.fetch("/studio/data/upload/1/a.png") == PNG


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_recovers(status):
    answers = [httpx.Response(status), httpx.Response(200, content=PNG)]

    assert source_of(lambda request: answers.pop(0)).fetch("http://x.example/a.png") == PNG


def test_a_server_that_does_not_recover():
    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(503)

    with pytest.raises(ImageError, match=r"not given out \(503\)"):
        source_of(answer).fetch("http://x.example/a.png?secret=1")
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(404), r"http://x.example/a.png is not there \(404\)"),
        (httpx.Response(403), "wants credentials"),
        (httpx.Response(418), "not given out"),
        (httpx.Response(200, content=b""), "is empty"),
        (httpx.Response(200, html="<html>log in</html>"), "web page"),
        (httpx.Response(302, headers={"location": "http://x.example/a.png"}), "in circles"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(response, message):
    asked = []

    def answer(request):
        asked.append(request)
        return response

    with pytest.raises(ImageError, match=message) as caught:
        source_of(answer).fetch("http://x.example/a.png?signature=secret")
    assert "secret" not in str(caught.value)
    assert response.status_code == 302 or len(asked) == 1


def test_too_large_is_noticed_early_and_late():
    announced = httpx.Response(200, headers={"content-length": "5000"}, content=b"")
    with pytest.raises(ImageError, match="larger than"):
        source_of(lambda request: announced, max_bytes=100).fetch("http://x.example/a.png")

    silent = httpx.Response(200, stream=Dripping())
    with pytest.raises(ImageError, match="larger than"):
        source_of(lambda request: silent, max_bytes=100).fetch("http://x.example/a.png")


class Dripping(httpx.SyncByteStream):
    def __iter__(self):
        for _ in range(1000):
            yield b"x" * 10


def test_a_server_that_hangs(web):
    wait = threading.Event()
    web.answers["/slow.png"] = lambda handler: wait.wait(5)
    source = ImageSource(STUDIO, None, timeout=0.2, retries=0, allowed_hosts="127.0.0.1")
    with contextlib.closing(source), pytest.raises(ImageError, match="did not come within"):
        source.fetch(f"{web.url}/slow.png")
    wait.set()


def test_a_body_cut_short_is_tried_again(web):
    tries = []

    def cut(handler):
        tries.append(1)
        if len(tries) > 1:
            return reply(handler, 200, PNG)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(PNG)))
        handler.end_headers()
        handler.wfile.write(PNG[:10])
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    web.answers["/cut.png"] = cut
    with contextlib.closing(ImageSource(STUDIO, None, allowed_hosts="127.0.0.1")) as source:
        assert source.fetch(f"{web.url}/cut.png") == PNG
    assert len(tries) == 2


def test_no_server_at_all():
    source = ImageSource(STUDIO, None, retries=1, allowed_hosts="127.0.0.1")
    with contextlib.closing(source), pytest.raises(ImageError, match="cannot be fetched"):
        source.fetch("http://127.0.0.1:9/a.png")


def test_data_uris():
    source = source_of(lambda request: pytest.fail("no request is needed"))
    coded = base64.b64encode(PNG).decode()

    assert source.fetch(f"data:image/png;base64,{coded}") == PNG
    assert source.fetch(f"data:image/png;base64,{quote(coded)}") == PNG
    assert source.fetch("data:text/plain,a%20b") == b"a b"
    for bad in ("data:image/png;base64,%%%", "data:image/png;base64,"):
        with pytest.raises(ImageError, match="data: image"):
            source.fetch(bad)


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "ftp://x/a.png", "a.png", "", "C:\\a.png"])
def test_addresses_that_are_none(uri):
    with pytest.raises(ImageError, match="no address this backend can fetch"):
        source_of(lambda request: pytest.fail("no request")).fetch(uri)


@pytest.mark.parametrize("data", [{}, {"image": None}, {"image": ["a"]}, {"image": " "}])
def test_a_task_without_its_image(data):
    with pytest.raises(ImageError, match="Task 5 has no image in 'image'"):
        source_of(lambda request: pytest.fail("no request")).fetch_task(TaskRef(5, data), "image")


def test_local_files_from_disk_stay_below_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a b.png").write_bytes(PNG)
    (root / "empty.png").touch()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    source = source_of(lambda request: pytest.fail("no request"), local_files_root=str(root))

    assert source.fetch("/data/local-files/?d=in/a%20b.png") == PNG
    assert source.fetch(f"{STUDIO}/data/local-files/?d=/in/a%20b.png") == PNG
    for outside in ("../secret.png", "in/../../secret.png", "link.png", "%2e%2e/secret.png"):
        with pytest.raises(ImageError, match="leads out of"):
            source.fetch(f"/data/local-files/?d={outside}")
    with pytest.raises(ImageError, match="cannot be read below"):
        source.fetch("/data/local-files/?d=in/none.png")
    with pytest.raises(ImageError, match="empty file"):
        source.fetch("/data/local-files/?d=empty.png")


def test_eight_threads_share_connections_and_the_cache(web, tmp_path):
    for i in range(16):
        body = PNG + bytes([i])
        web.answers[f"/{i}.png"] = lambda handler, body=body: reply(handler, 200, body)
    cache = ImageCache(tmp_path, 10_000)
    with contextlib.closing(
        ImageSource(STUDIO, None, cache=cache, allowed_hosts="127.0.0.1")
    ) as source:
        uris = [f"{web.url}/{i}.png" for i in range(16)]
        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(source.fetch, uris))
            second = list(pool.map(source.fetch, uris))

    assert first == second == [PNG + bytes([i]) for i in range(16)]
    assert len(web.requests) == 16


# The cache by itself


def test_the_least_recently_used_go_first(tmp_path):
    cache = ImageCache(tmp_path, 1000)
    for age, key in enumerate("abc"):
        cache.put(key, key.encode() * 300)
        os.utime(cache._path(key), (1000 + age, 1000 + age))
    assert cache.get("a") is not None  # used now: the newest

    cache.put("d", b"d" * 300)

    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]


def test_what_does_not_fit_or_is_empty_is_not_kept(tmp_path):
    cache = ImageCache(tmp_path, 100)
    cache.put("large", b"x" * 101)
    cache.put("empty", b"")
    assert cache.get("large") is None
    assert cache.get("empty") is None
    nothing = ImageCache(tmp_path / "none", 0)
    nothing.put("a", b"a")
    assert nothing.get("a") is None
    assert not (tmp_path / "none").exists()


def test_an_entry_without_bytes_is_a_miss(tmp_path):
    cache = ImageCache(tmp_path, 100)
    cache.put("a", b"a")
    cache._path("a").write_bytes(b"")
    assert cache.get("a") is None


def test_a_disk_that_cannot_be_written_costs_only_the_cache(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = ImageCache(blocked, 100)

    with caplog.at_level(logging.WARNING):
        cache.put("a", b"a")
        cache.put("b", b"b")

    assert cache.get("a") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_many_writers_stay_within_the_limit_and_read_whole_entries(tmp_path):
    limit = 50_000
    caches = [ImageCache(tmp_path, limit) for _ in range(2)]  # as two processes would

    def work(i):
        cache = caches[i % 2]
        key = str(i % 40)
        cache.put(key, key.encode() * 1000)
        found = cache.get(str((i * 7) % 40))
        return found is None or found == str((i * 7) % 40).encode() * 1000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))
    caches[0].put("last", b"x" * 1000)
    caches[0]._evict()
    kept = [path for path in tmp_path.glob("*/*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= limit
    assert not [path for path in kept if path.name.endswith(".part")]


def test_label_studio_that_is_down_stops_the_run_instead_of_failing_every_image():
    url = f"http://127.0.0.1:{free_port()}"
    with contextlib.closing(ImageSource(url, TokenAuth(url, "legacy"), retries=1)) as source:
        with pytest.raises(UnreachableError, match="start it, or correct LABEL_STUDIO_URL"):
            source.fetch("/data/upload/1/a.jpg")
        # Another server that is down costs only its own images.
        with pytest.raises(ImageError):
            source.fetch(f"{url.replace('127.0.0.1', '127.0.0.2')}/a.jpg")
