"""A Label Studio that people open at another address than this backend does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from backend.errors import ImageError
from backend.images.source import ImageSource
from backend.label_studio.client import Studio
from backend.settings import load_settings
from demo.studio_server import StudioServer, free_port, running_studio
from tests.label_studio.conftest import CONFIG
from tests.person import Person

PIXEL = b"\x89PNG\r\n\x1a\n as far as Label Studio looks"


@pytest.fixture(scope="module")
def public_url() -> str:
    """Nothing listens there: this backend must do without it."""
    return f"http://127.0.0.1:{free_port()}/studio"


@pytest.fixture(scope="module")
def studio_in_a_path(
    public_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StudioServer]:
    folder = tmp_path_factory.mktemp("studio-in-a-path")
    with running_studio(folder, settings={"HOST": public_url}) as server:
        yield server


def test_images_come_from_the_inside_and_links_lead_outside(
    studio_in_a_path: StudioServer, public_url: str
) -> None:
    inside = studio_in_a_path.url
    person = Person(inside, studio_in_a_path.admin)
    with person.http:
        body = {"title": "In a path", "label_config": CONFIG}
        project = person.call("POST", "/api/projects/", json=body)["id"]
        upload = {"file": ("a.png", PIXEL, "image/png")}
        person.call("POST", f"/api/projects/{project}/import", files=upload)
        listed = person.call("GET", f"/api/tasks/?project={project}&fields=all")
        uri = listed["tasks"][0]["data"]["image"]
        token = person.account.personal_token
    settings = load_settings(
        label_studio_url=inside,
        label_studio_public_url=public_url,
        label_studio_api_key=token,
        image_cache_mb=0,
    )
    path = uri[uri.index("/data/upload/") :]
    with closing(ImageSource.from_settings(settings)) as source:
        for written in (uri, path, f"/studio{path}", f"/elsewhere{path}", public_url + path):
            assert source.fetch(written, task_id=1) == PIXEL, written
        # Another host is never taken for Label Studio, whatever its paths look like.
        with pytest.raises(ImageError, match=r"images\.example"):
            source.fetch(f"http://images.example.invalid{path}")
    with Studio.from_settings(settings) as studio:
        assert studio.project(project).title == "In a path"
        assert studio.public_url == public_url
    without = settings.model_copy(update={"label_studio_public_url": ""})
    with (
        closing(ImageSource.from_settings(without, retries=0)) as source,
        pytest.raises(ImageError),
    ):
        source.fetch(public_url + path)


def test_the_public_address_is_asked_for_nothing_and_gets_no_token(public_url: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=json.dumps({"access": "x"}))

    source = ImageSource(
        "http://inside:8080",
        None,
        public_url="https://studio.example/ls",
        transport=httpx.MockTransport(answer),
    )
    for uri in (
        "https://studio.example/ls/data/upload/1/a.png",
        "https://studio.example/ls/data/local-files/?d=a/b.png",
        "https://studio.example/other/a.png",
        "https://studio.example.evil/ls/data/upload/1/a.png",
    ):
        source.fetch(uri)
    source.close()
    assert [str(request.url) for request in asked] == [
        "http://inside:8080/data/upload/1/a.png",
        "http://inside:8080/data/local-files/?d=a/b.png",
        "https://studio.example/other/a.png",
        "https://studio.example.evil/ls/data/upload/1/a.png",
    ]
