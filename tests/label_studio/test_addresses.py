"""What may be fetched from where: each locked door refusing, with the line a user sees."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.addresses import AllowedHosts, is_public
from backend.errors import ImageError
from backend.images.source import ImageSource
from backend.label_studio.auth import TokenAuth
from tests.label_studio.conftest import WebServer, reply

STUDIO = "http://studio.example"
REMEDY = "ALLOWED_IMAGE_HOSTS"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.images.http._pause", lambda state: 0.0)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextlib.contextmanager
def source(allowed: str = "", **options: Any) -> Iterator[ImageSource]:
    opened = ImageSource(
        options.pop("url", STUDIO),
        options.pop("auth", None),
        allowed_hosts=allowed,
        **{"retries": 0, "timeout": 5.0, **options},
    )
    with contextlib.closing(opened):
        yield opened


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Host name -> the addresses of each look-up, one after the other."""
    answers: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in answers:
            return real(host, port, *rest, **options)
        found = answers[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%2",
        "fec0::1",
        "ff02::1",
    ],
)
def test_special_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "223.255.255.255", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("text", "host", "address", "allowed"),
    [
        ("", "a.example", "8.8.8.8", True),
        ("", "a.example", "10.0.0.1", False),
        (" minio.lan , 10.1.0.0/16", "MinIO.lan", "192.168.0.9", True),
        ("minio.lan,10.1.0.0/16", "x.minio.lan", "192.168.0.9", False),
        ("minio.lan,10.1.0.0/16", "x", "10.1.2.3", True),
        ("minio.lan,10.1.0.0/16", "x", "10.2.0.1", False),
        ("[::1]", "x", "::1", True),
        ("127.0.0.1", "x", "::ffff:127.0.0.1", False),
    ],
)
def test_what_the_setting_allows(text: str, host: str, address: str, allowed: bool) -> None:
    assert AllowedHosts.parse(text).allows(host, address) is allowed


@pytest.mark.parametrize("text", ["http://minio", "minio:9000", "10.0.0.1/8", "10.0.0.300", "a b"])
def test_a_malformed_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no host name, IP address or network"):
        AllowedHosts.parse(text)


# Fetching


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0",
     "169.254.169.254", "10.0.0.1"],
)  # fmt: skip
def test_private_hosts_are_not_fetched_from_in_whatever_writing(web: WebServer, host: str) -> None:
    port = web.url.rpartition(":")[2]
    with source() as images, pytest.raises(ImageError) as caught:
        images.fetch(f"http://{host}:{port}/a.png?X-Amz-Signature=open-sesame")
    named = host.strip("[]")
    assert f"{named} has a private or reserved address" in str(caught.value)
    assert f"add {named} to {REMEDY}" in str(caught.value)
    assert "open-sesame" not in str(caught.value)
    assert web.requests == []


def test_the_setting_opens_the_door(web: WebServer) -> None:
    web.answers["/a.png"] = lambda handler: reply(handler, 200, b"pixels")
    for allowed in ("127.0.0.1", "localhost", "127.0.0.0/8"):
        host = "localhost" if allowed == "localhost" else "127.0.0.1"
        with source(allowed) as images:
            assert images.fetch(web.url.replace("127.0.0.1", host) + "/a.png") == b"pixels"


def test_a_name_is_looked_up_once_and_what_was_checked_is_what_is_connected_to(
    web: WebServer, names: dict[str, list[list[str]]]
) -> None:
    web.answers["/a.png"] = lambda handler: reply(handler, 200, b"pixels")
    port = web.url.rpartition(":")[2]
    # A second look-up would find nothing in the list, and fail; refused addresses are passed over.
    names["images.example"] = [["10.0.0.1", "127.0.0.1"]]
    with source("127.0.0.1") as images:
        assert images.fetch(f"http://images.example:{port}/a.png") == b"pixels"
    assert web.requests[0][2]["Host"] == f"images.example:{port}"


def test_a_public_name_that_turns_private_is_refused_at_the_next_connection(
    web: WebServer, names: dict[str, list[list[str]]]
) -> None:
    web.answers["/a.png"] = lambda h: reply(h, 200, b"pixels", Connection="close")
    port = web.url.rpartition(":")[2]
    names["images.example"] = [["127.0.0.1"], ["169.254.169.254"]]
    with source("127.0.0.1") as images:
        images.fetch(f"http://images.example:{port}/a.png")
        with pytest.raises(ImageError, match="private or reserved"):
            images.fetch(f"http://images.example:{port}/a.png?again")


def test_redirects_are_checked_like_any_address(web: WebServer) -> None:
    port = web.url.rpartition(":")[2]

    def to(location: str) -> Callable[[Any], None]:
        return lambda handler: reply(handler, 302, b"", Location=location)

    web.answers["/private"] = to(f"http://127.0.0.2:{port}/secret")
    web.answers["/metadata"] = to("http://169.254.169.254/latest/meta-data/")
    web.answers["/file"] = to("file:///etc/passwd")
    web.answers["/ftp"] = to("ftp://ftp.example/a.png")
    web.answers["/nonsense"] = to("http://a:b:c/")
    web.answers["/circle"] = to("/circle")
    with source("127.0.0.1") as images:
        for path, line in {
            "/private": "127.0.0.2 has a private",
            "/metadata": "169.254.169.254 has a private",
            "/file": "not http or https",
            "/ftp": "not http or https",
            "/nonsense": "is malformed",
            "/circle": "redirects more than 5 times, or in circles",
        }.items():
            with pytest.raises(ImageError, match=line):
                images.fetch(f"{web.url}{path}")


def test_label_studio_itself_needs_no_permission(web: WebServer) -> None:
    web.answers["/data/upload/1/a.png"] = lambda handler: reply(handler, 200, b"pixels")
    with source(url=web.url) as images:
        assert images.fetch("/data/upload/1/a.png") == b"pixels"


def test_another_port_of_label_studios_host_is_another_host(web: WebServer) -> None:
    with source(url="http://127.0.0.1:9") as images, pytest.raises(ImageError, match=REMEDY):
        images.fetch(f"{web.url}/a.png")


def test_a_cloud_image_follows_its_presigned_address_and_takes_no_token_there(
    web: WebServer,
) -> None:
    bucket = WebServer()
    bucket.answers["/b/a.png"] = lambda handler: reply(handler, 200, b"pixels")
    web.answers["/tasks/7/resolve/"] = lambda handler: reply(
        handler, 303, b"", Location=f"{bucket.url}/b/a.png?X-Amz-Signature=open-sesame"
    )
    auth = TokenAuth(web.url, "legacy-token-0123456789")
    with contextlib.closing(bucket):
        with source(url=web.url, auth=auth) as images, pytest.raises(ImageError) as caught:
            images.fetch("s3://b/a.png", task_id=7)
        assert REMEDY in str(caught.value)
        assert "sesame" not in str(caught.value)
        with source("127.0.0.1", url=web.url, auth=auth) as images:
            assert images.fetch("s3://b/a.png", task_id=7) == b"pixels"
        assert "Authorization" in web.requests[0][2]
        assert "Authorization" not in bucket.requests[0][2]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/data/upload/1/a.png", True),
        ("/api/projects/1/next", False),
        ("/%61pi/projects/1/next", False),
        ("/data/../api/projects/1/next", False),
        ("/data/%2e%2e/api/projects/1/next", False),
        ("/static/samples/a.png", False),
    ],
)
def test_the_token_is_shown_for_files_only(path: str, sent: bool) -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append("authorization" in request.headers)
        return httpx.Response(200, content=b"pixels")

    auth = TokenAuth(STUDIO, "legacy-token-0123456789")
    with source(auth=auth, transport=httpx.MockTransport(answer)) as images:
        images.fetch(path)
    assert seen == [sent]


def test_a_redirect_from_http_to_https_loses_the_token() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "http":
            return httpx.Response(301, headers={"location": f"https://{request.url.host}/data/a"})
        assert "authorization" not in request.headers
        return httpx.Response(200, content=b"pixels")

    auth = TokenAuth(STUDIO, "legacy-token-0123456789")
    with source(auth=auth, transport=httpx.MockTransport(answer)) as images:
        assert images.fetch("/data/upload/1/a.png") == b"pixels"


def test_a_proxy_of_the_environment_is_not_asked_for_others_images(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = WebServer()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    with contextlib.closing(proxy), source() as images:
        with pytest.raises(ImageError, match=REMEDY):
            images.fetch(f"{web.url}/a.png")
        assert proxy.requests == []
        # Label Studio is reached through it, as for all other calls.
        with pytest.raises(ImageError, match="is not there"):
            images.fetch("/data/upload/1/a.png")
        assert proxy.requests[0][1] == f"{STUDIO}/data/upload/1/a.png"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https_is_held_against_the_name_and_not_the_address(
    tmp_path: Path, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=images.example", "-addext",
         "subjectAltName=DNS:images.example", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    web = WebServer()
    web._server.socket = context.wrap_socket(web._server.socket, server_side=True)
    web.answers["/a.png"] = lambda handler: reply(handler, 200, b"pixels")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names["images.example"] = [["127.0.0.1"]]
    names["other.example"] = [["127.0.0.1"]]
    port = web.url.rpartition(":")[2]
    with contextlib.closing(web), source("127.0.0.1") as images:
        assert images.fetch(f"https://images.example:{port}/a.png") == b"pixels"
        with pytest.raises(ImageError, match="certificate"):
            images.fetch(f"https://other.example:{port}/a.png")
    assert asked == ["images.example", "other.example"]


# Size and time


class Drip:
    """A server that sends a head at once, and then a few bytes at a time, for 6 s."""

    def __init__(self, head: bytes, drop: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._head, self._drop = head, drop
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    client.recv(65536)
                    client.sendall(self._head)
                    for _ in range(300 if self._drop else 0):
                        client.sendall(self._drop)
                        time.sleep(0.02)
                    if not self._drop:
                        client.recv(1)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_a_drip_ends_when_the_whole_took_too_long(head: bytes, drop: bytes) -> None:
    with (
        contextlib.closing(Drip(head, drop)) as server,
        source("127.0.0.1", timeout=0.1) as images,
        pytest.raises(ImageError, match="did not come whole within 1 s"),
    ):
        images.fetch(f"{server.url}/a.png")


def test_the_body_of_a_redirect_is_not_waited_for(web: WebServer) -> None:
    web.answers["/a.png"] = lambda handler: reply(handler, 200, b"pixels")
    head = f"HTTP/1.1 302 Found\r\nLocation: {web.url}/a.png\r\nContent-Length: 999999\r\n\r\n"
    with (
        contextlib.closing(Drip(head.encode(), b"")) as server,
        source("127.0.0.1", timeout=1.0) as images,
    ):
        assert images.fetch(f"{server.url}/a.png") == b"pixels"


def test_what_unpacks_to_too_much_is_refused(web: WebServer) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    web.answers["/gzip"] = lambda h: reply(h, 200, bomb, Content_Encoding="gzip")
    web.answers["/nested"] = lambda h: reply(h, 200, bomb, Content_Encoding="gzip, gzip")
    web.answers["/small"] = lambda h: reply(h, 200, gzip.compress(b"p"), Content_Encoding="gzip")
    web.answers["/damaged"] = lambda h: reply(h, 200, b"no gzip", Content_Encoding="gzip")
    with source("127.0.0.1", max_bytes=1_000_000) as images:
        tracemalloc.start()
        with pytest.raises(ImageError, match="larger than 1 MB"):
            images.fetch(f"{web.url}/gzip")
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 10_000_000
        with pytest.raises(ImageError, match=r"comes packed \(gzip, gzip\)"):
            images.fetch(f"{web.url}/nested")
        with pytest.raises(ImageError, match="is damaged"):
            images.fetch(f"{web.url}/damaged")
        assert images.fetch(f"{web.url}/small") == b"p"
    assert web.requests[0][2]["Accept-Encoding"] == "identity"


# Addresses that are none, and files


@pytest.mark.parametrize(
    "uri",
    ["http://[abc/a.png", "http://a:99999999/a", "http://a\0b/a.png", "http://\ud800/a.png",
     "s3://b/\udfff.png", "http:///a.png", "data:image/png;base64,\ud800", "data:,\ud800"],
)  # fmt: skip
def test_malformed_addresses_are_one_line(uri: str) -> None:
    with source() as images, pytest.raises(ImageError) as caught:
        images.fetch(uri, task_id=1)
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ("../secret.png", "leads out of LOCAL_FILES_ROOT"),
        ("/../secret.png", "leads out of LOCAL_FILES_ROOT"),
        ("..%2Fsecret.png", "leads out of LOCAL_FILES_ROOT"),
        ("%2e%2e/secret.png", "leads out of LOCAL_FILES_ROOT"),
        ("folder/secret.png", "leads out of LOCAL_FILES_ROOT"),
        ("%252e%252e/secret.png", "cannot be read"),
        ("{absolute}", "cannot be read"),
        ("a%00.png", "malformed"),
        ("circle", "malformed|cannot be read"),
        ("x" * 5000, "malformed|cannot be read"),
        ("pipe", "is no file"),
        ("", "is no file"),
    ],
)
def test_files_stay_inside_the_document_root(tmp_path: Path, wanted: str, line: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    os.mkfifo(root / "pipe")
    wanted = wanted.replace("{absolute}", str(tmp_path / "secret.png"))
    with source(local_files_root=str(root)) as images, pytest.raises(ImageError, match=line):
        images.fetch(f"/data/local-files/?d={wanted}")
