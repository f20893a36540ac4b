"""A Label Studio with faults, and many clients that ask the backend for everything at once."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from tests.label_studio.conftest import reply

Fault = Literal["none", "slow", "failing", "away"]
SLOW_S = 10.0
RETRY_AFTER_S = 2
# Of calls that have no limit of their own, what a client of ours would wait.
CLIENT_S = 100.0


class FaultyStudio:
    """Serves pictures and projects over HTTP, if at all.

    Args:
        pictures: JPEG files; upload number n is one of these, in turn.
        config: the label config of every project.
    """

    def __init__(self, pictures: list[bytes], config: str) -> None:
        self.fault: Fault = "none"
        self._turn = itertools.count()
        studio = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fault = studio.fault
                if fault == "away":  # connections that were kept break off, new ones are refused
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(SLOW_S)
                if fault == "failing" and next(studio._turn) % 2:
                    reply(self, 429, b"{}", Retry_After=str(RETRY_AFTER_S))
                elif fault == "failing":
                    reply(self, 500, b"<h1>Server Error</h1>")
                elif self.path.startswith("/data/upload/"):
                    number = int(self.path.rpartition("/")[2].removesuffix(".jpg"))
                    reply(self, 200, pictures[number % len(pictures)], Content_Type="image/jpeg")
                else:
                    project = int(self.path.split("/")[3])
                    about = {"id": project, "title": "Line", "label_config": config}
                    body = json.dumps(about).encode()
                    reply(self, 200, body, Content_Type="application/json")

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: Any) -> None:
                """A client that no longer waits for a slow answer is no error."""

        self._make = lambda port: Server(("127.0.0.1", port), Handler, bind_and_activate=False)
        self._bind(0)
        self._start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _bind(self, port: int) -> None:
        self._server = self._make(port)
        self._server.server_bind()

    def _start(self) -> None:
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def having(self, fault: Fault) -> Iterator[None]:
        """With a fault for as long as the block lasts."""
        self.fault = fault
        if fault == "away":
            self.close()
            self._bind(self._server.server_port)  # without listening: the port stays ours
        try:
            yield
        finally:
            self.fault = "none"
            if fault == "away":
                self._start()


@dataclass
class Answers:
    """What came back, by what was asked."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def note(self, name: str, started: float, status: int) -> None:
        self.seconds[name].append(time.monotonic() - started)
        self.statuses[name].append(status)

    def __str__(self) -> str:
        return "\n".join(
            f"  {name:<12} {len(found):4d}  median {statistics.median(found):6.2f} s  "
            f"longest {max(found):6.2f} s  {counted(self.statuses[name])}"
            for name, found in sorted(self.seconds.items())
        )


def counted(statuses: list[int]) -> str:
    return ", ".join(f"{statuses.count(s)} x {s}" for s in sorted(set(statuses)))


Step = Callable[[httpx.Client, Answers], None]


def storm(url: str, clients: list[list[Step]]) -> Answers:
    """Let all clients begin at once; each takes its steps one after the other."""
    answers = Answers()
    barrier = threading.Barrier(len(clients))

    def run(steps: list[Step]) -> None:
        # Nothing to verify: making 64 TLS contexts would take longer than the wave.
        with httpx.Client(base_url=url, timeout=CLIENT_S, verify=False) as http:
            barrier.wait()
            for step in steps:
                step(http, answers)

    over = threading.Event()
    with ThreadPoolExecutor(len(clients) + 1) as pool:
        probing = pool.submit(_probe, url, over, answers)
        running = [pool.submit(run, steps) for steps in clients]
        try:
            for future in running:
                future.result()
        finally:
            over.set()
        probing.result()
    return answers


def _probe(url: str, over: threading.Event, answers: Answers) -> None:
    """Ask for /health as Label Studio does before every prediction: each on a new connection."""
    while not over.wait(0.25):
        connection = HTTPConnection(urlsplit(url).netloc, timeout=CLIENT_S)
        started = time.monotonic()
        connection.request("GET", "/health")
        answers.note("health", started, connection.getresponse().status)
        connection.close()
