"""What a verb of the command line imports, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLOW = {"alembic", "cv2", "lxml", "open_clip", "openvino", "pandas", "redis", "torch"} | {
    "huggingface_hub",
    "label_studio_ml",
    "ultralytics",
}
"""Packages that take long to import, and that only verbs that run models or jobs need."""

REPORT = """
import atexit, sys
atexit.register(lambda: print("imported", *{m.split(".")[0] for m in sys.modules}, file=sys.stderr))
from backend.cli import main
main()
"""


def imported(*arguments: object, environment: dict[str, str]) -> set[str]:
    """The installed packages that were imported by the time the verb ended."""
    answer = subprocess.run(
        [sys.executable, "-c", REPORT, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("imported "), answer.stderr
    return set(last.split()[1:]) & set(packages_distributions())
