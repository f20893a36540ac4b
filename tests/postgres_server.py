"""Starts a PostgreSQL of its own on a free loopback port, for the tests of the store."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    as_owner: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(data, "postgres")
        for parent in [folder, *folder.parents]:
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o011)
        as_owner = ["runuser", "-u", "postgres", "--"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": data}
    subprocess.run(
        [*as_owner, programs / "initdb", "-D", data / "db", "-U", "test", "-A", "trust", "-N"],
        **quiet,
    )
    port = free_port()
    server = subprocess.Popen(
        [
            *as_owner,
            programs / "postgres",
            "-D",
            data / "db",
            "-p",
            str(port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-k",
            str(data),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=data,
    )
    try:
        _wait_for(port)
        yield f"postgresql://test@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(
            [*as_owner, programs / "pg_ctl", "-D", data / "db", "-m", "immediate", "stop"], **quiet
        )
        server.wait(timeout=20)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start within 30 s")
