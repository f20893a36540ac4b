"""How fast the REST API answers, and what the server takes up: prints one JSON line.

    python -m benchmarks.api [--tasks N] [--data uniform|scenes]

The store is filled without a model and the server has none: it runs in a process of its own, as
`python -m backend serve` does, and is asked over HTTP from this one, on the same cores.

- `fill`: seconds of the order that a worker makes once, near-duplicates included.
- `score_batch`: the last order, limit 50. `first` is the first request after the start.
- `ranked_anew`: another diversity weight. `first` reads all embeddings from the store.
- `thumbnails`: requests a second; see `benchmarks.thumbnails`.
- `server_mb`: the server's resident set at the start, after the last order was asked for, after
  re-ranking, and at its highest.

Data: see `benchmarks.selection`. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend.settings import load_settings
from benchmarks.machine import machine, progress
from benchmarks.scored_store import PROJECT, fill
from benchmarks.selection import DATA, timed
from benchmarks.thumbnails import measure_thumbnails, studio_of_pictures

REQUESTS = 500
CLIENTS = (1, 8, 64)
WEIGHTS = (0.1, 0.2, 0.6, 0.8, 1.0)
START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A server of its own process.

    Args:
        process: what runs it; it has one child, which answers.
        http: asks it.
    """

    process: subprocess.Popen[bytes]
    http: httpx.Client

    def get(self, path: str, **params: Any) -> httpx.Response:
        """Ask for a path under the API's prefix.

        Raises:
            HTTPStatusError: it was refused.
        """
        return self.http.get(f"/v1/label/{path}", params=params).raise_for_status()

    def resident_mb(self) -> dict[str, int]:
        """The resident set of the process that answers, now and at its highest."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pid = children.read_text().split()[0]
        found = {}
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                found[name] = round(int(value.split()[0]) / 1024)
        return {"now": found["VmRSS"], "peak": found["VmHWM"]}


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[Server]:
    """Start our server and wait until it answers; it ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "backend", "serve", "--port", str(port)]
    with started(command, port, environment) as server:
        yield server


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str], port: int, environment: dict[str, str], folder: Path | None = None
) -> Iterator[Server]:
    """Start a server in a folder and wait until its /health answers; it ends with the block."""
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    limits = httpx.Limits(max_connections=max(CLIENTS))
    try:
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address, timeout=120, limits=limits) as http:
            wait_for(http, "/health")
            yield Server(process, http)
    finally:
        process.terminate()
        process.wait(30)


def wait_for(http: httpx.Client, path: str) -> None:
    """Until a server answers there."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            http.get(path).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def measure_score_batch(server: Server) -> dict[str, Any]:
    """The last order again and again, by one client and by several at once."""

    def ask(_turn: int) -> float:
        return timed(lambda: server.get("score-batch", project_id=PROJECT, limit=50))[0]

    found: dict[str, Any] = {"first_ms": milliseconds(ask(0))}
    for clients in CLIENTS:
        with ThreadPoolExecutor(clients) as pool:
            whole, seconds = timed(lambda pool=pool: list(pool.map(ask, range(REQUESTS))))  # type: ignore[misc]
        found[f"clients_{clients}"] = {
            **percentiles(seconds),
            "requests_per_second": round(REQUESTS / whole),
        }
    return found


def measure_ranking_anew(server: Server) -> dict[str, Any]:
    """Other diversity weights, one after the other; then the last of them once more."""

    def ask(weight: float) -> float:
        params = {"project_id": PROJECT, "limit": 50, "diversity_weight": weight}
        return timed(lambda: server.get("score-batch", **params))[0]

    seconds = [ask(weight) for weight in WEIGHTS]
    return {
        "first_seconds": round(seconds[0], 2),
        "seconds": [round(value, 2) for value in seconds[1:]],
        "again_ms": milliseconds(ask(WEIGHTS[-1])),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of answers, in milliseconds."""
    middle, late = np.percentile(seconds, [50, 99])
    return {"p50_ms": milliseconds(middle), "p99_ms": milliseconds(late)}


def milliseconds(seconds: float) -> float:
    """To a tenth."""
    return round(1000 * float(seconds), 1)


def report(tasks: int, data: str) -> dict[str, Any]:
    """Take all measurements."""
    with tempfile.TemporaryDirectory() as folder, studio_of_pictures() as studio:
        environment = {
            "LABEL_STUDIO_URL": studio,
            "LABEL_STUDIO_API_KEY": "token",
            "DATA_DIR": folder,
            "MODEL_DIR": folder,
            "MODEL": "none.pt",
            "LOG_LEVEL": "ERROR",
            "API_RATE": "1000000/second",
        }
        progress(f"filling a store with {tasks} tasks of {data} ...")
        settings = load_settings(data_dir=Path(folder))
        whole, ordering = timed(lambda: fill(settings, tasks, data))
        progress(f"filled in {whole:.0f} s; asking the server ...")
        with serving(environment) as server:
            resident = {"start": server.resident_mb()["now"]}
            score_batch = measure_score_batch(server)
            resident["last_order"] = server.resident_mb()["now"]
            ranked_anew = measure_ranking_anew(server)
            after = server.resident_mb()
            resident.update(ranked_anew=after["now"], peak=after["peak"])
            thumbnails = measure_thumbnails(str(server.http.base_url))
    return {
        "benchmark": "api",
        **machine(),
        "tasks": tasks,
        "data": data,
        "fill": {"order_seconds": round(ordering, 1)},
        "score_batch": score_batch,
        "ranked_anew": ranked_anew,
        "thumbnails": thumbnails,
        "server_mb": resident,
    }


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--data", choices=sorted(DATA), default="uniform")
    options = parser.parse_args()
    print(json.dumps(report(options.tasks, options.data)))


if __name__ == "__main__":
    main()
