"""Thumbnails for `benchmarks.api`: where their images come from, and clients that ask for them."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.selection import timed

PICTURES = 200
REQUESTS = 4000
CLIENTS = (1, 8, 64)
_SIZE = (1280, 960)


@contextmanager
def studio_of_pictures() -> Iterator[str]:
    """The address of a server that gives one noisy photograph under every path."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    photograph = buffer.getvalue()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(photograph)))
            self.end_headers()
            self.wfile.write(photograph)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def measure_thumbnails(url: str) -> dict[str, Any]:
    """Requests a second that the server at `url` answers over connections that are kept open.

    `made` is each picture's first request: fetched, decoded, scaled. `warm` gives pictures from
    memory. `unchanged` is asked with their ETag. `health` is what the server and these clients
    reach with next to no work: the ceiling.
    """
    paths = [f"/v1/label/thumbnail/{task}" for task in range(1, PICTURES + 1)]
    again = [paths[turn % PICTURES] for turn in range(REQUESTS)]
    tags = {"If-None-Match": "*"}
    found: dict[str, Any] = {"made": _rate(url, paths, 8, {}, 200)}
    for clients in CLIENTS:
        found[f"clients_{clients}"] = {
            "warm": _rate(url, again, clients, {}, 200),
            "unchanged": _rate(url, again, clients, tags, 304),
            "health": _rate(url, ["/health"] * REQUESTS, clients, {}, 200),
        }
    return found


def _rate(
    url: str, paths: Sequence[str], clients: int, headers: dict[str, str], status: int
) -> int:
    """Requests a second of so many clients, each with one connection."""
    host = urlsplit(url).netloc
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    requests = [f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode() for path in paths]

    async def ask_all() -> None:
        await asyncio.gather(*(_ask(url, requests[i::clients], status) for i in range(clients)))

    seconds, _ = timed(lambda: asyncio.run(ask_all()))
    return round(len(paths) / seconds)


async def _ask(url: str, requests: Sequence[bytes], status: int) -> None:
    # Not httpx: on the same cores it takes more of them than the server does.
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").lower().split("\r\n")
        if first.split()[1] != str(status):
            raise RuntimeError(f"{request.decode().splitlines()[0]}: {first}")
        lengths = [line for line in rest if line.startswith("content-length:")]
        if lengths:
            await reader.readexactly(int(lengths[0].partition(":")[2]))
    writer.close()
    await writer.wait_closed()
