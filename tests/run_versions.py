"""`make test-versions`: what hangs on Label Studio's version, with each of several versions.

Each is installed in an environment of its own under `var/label-studio`, which stays for the next
run: those in `tested_versions.TESTED`, and the newest release.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from backend.doctor.tested_versions import TESTED

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / "var" / "label-studio"
NEWEST = "newest"
FILES = [
    f"tests/label_studio/test_{name}.py"
    for name in ("client", "publish", "served_order", "webhooks", "backends", "doctor")
]


def main() -> int:
    """Run all; the exit status is 1 where one failed or the newest is not among the tested."""
    results = [(installed(name), name) for name in (*TESTED, NEWEST)]
    failed = 0
    for version, name in dict(results).items():
        print(f"--- Label Studio {version}", flush=True)
        program = ENVIRONMENTS / name / "bin" / "label-studio"
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rs", "-n", "2", "--dist", "loadfile", *FILES],
            cwd=ROOT,
            env={**os.environ, "LABEL_STUDIO_BIN": str(program)},
            check=False,
        ).returncode
        failed += status != 0
    newest = results[-1][0]
    if newest not in TESTED:
        print(f"Label Studio {newest} is new: add it to backend/doctor/tested_versions.py")
    return int(failed > 0 or newest not in TESTED)


def installed(name: str) -> str:
    """Make or update the environment of a version; returns the version that is in it."""
    folder = ENVIRONMENTS / name
    uv = ROOT / ".venv" / "bin" / "uv"
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    wanted = ["--upgrade", "label-studio"] if name == NEWEST else [f"label-studio=={name}"]
    install = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *wanted]
    subprocess.run(install, check=True)
    [site] = folder.glob("lib/python*/site-packages")
    [found] = distributions(name="label-studio", path=[str(site)])
    return found.version


if __name__ == "__main__":
    sys.exit(main())
