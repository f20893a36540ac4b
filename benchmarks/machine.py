"""What a benchmark says of where and when it ran, and how it shows progress."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path


def machine() -> dict[str, object]:
    """Processor, cores and date."""
    return {
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.system()},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def cpu_model() -> str:
    """The processor's name, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def progress(line: str) -> None:
    """Say on stderr how far it is: stdout is for the JSON line."""
    print(line, file=sys.stderr, flush=True)
