"""Which process holds the lease of a job, and whether that process is gone.

A process is named by its machine, its number and the moment it started. The machine is the boot
and the process namespace, not the host name: two containers may share a host name, and both have
a process 1. The start is counted in ticks since the boot, which no change of the clock moves.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_UNKNOWN = "unknown"


def new_owner() -> str:
    """A name for one claim of a job by this process, at most 120 characters."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_start(pid) or _UNKNOWN} {secrets.token_hex(4)}"


def is_gone(owner: str) -> bool:
    """Whether `owner` was a process of this machine that has ended.

    False also where that cannot be known: on another machine, or without Linux' /proc.
    """
    machine, pid, start, _ = owner.split(" ")
    if machine == _UNKNOWN or machine != _machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # alive, or its number is now another account's
        return False
    return _start(int(pid)) != start


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return _UNKNOWN
    return f"{boot}/{namespace}"


def _start(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None when it ended (see proc(5))."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, start = after_name[0], after_name[19]
    return None if state in ("Z", "X") else start
