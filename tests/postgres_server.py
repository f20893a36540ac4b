"""Starts a PostgreSQL of its own on a free loopback port, for the tests of the store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from demo.studio_server import free_port


def postgres_bin() -> Path | None:
    """The folder of PostgreSQL's server programs, or None where there is none."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@contextmanager
def running_postgres(programs: Path, folder: Path) -> Iterator[str]:
    """A fresh, running server in `folder`; yields the URL of its database."""
    data = folder / "pg"
    data.mkdir()
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(data, "postgres")
        for parent in [folder, *folder.parents]:
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o011)
        owner = {"user": "postgres", "group": "postgres", "extra_groups": []}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": data, **owner}
    subprocess.run(
        [programs / "initdb", "-D", data / "db", "-U", "test", "-A", "trust", "-N"],
        check=True,
        **quiet,
    )
    port = free_port()
    options = ["-c", "listen_addresses=127.0.0.1", "-k", str(data)]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data / "db", "-p", str(port), *options],
        stderr=subprocess.DEVNULL,
        **quiet,
    )
    try:
        _wait_for(port)
        yield f"postgresql://test@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing of it is needed again
        server.wait(timeout=20)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            # It listens before it is ready: only a session tells.
            psycopg.connect(f"host=127.0.0.1 port={port} user=test dbname=postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start within 30 s")
