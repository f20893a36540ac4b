"""Starts a Redis of its own on a free loopback port, for the tests of the queue."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis, RedisError

from demo.studio_server import free_port


def redis_program() -> Path | None:
    """The server's program, or None where there is none."""
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


@contextmanager
def running_redis(program: Path, folder: Path, password: str) -> Iterator[str]:
    """A fresh, running server that keeps nothing on disk; yields its URL."""
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "dir": str(folder),
        "requirepass": password,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    server = subprocess.Popen(
        [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    try:
        _wait_for(url)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with Redis.from_url(url) as client:
                client.ping()
            return
        except RedisError:
            time.sleep(0.1)
    raise RuntimeError("Redis did not start within 30 s")
