"""The audit of dependencies: what fails the gate, and what is only said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "not found"}
BAD = {
    "name": "jinja2",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.1.6"]}],
}


@pytest.mark.parametrize(
    ("packages", "status", "line"),
    [
        (None, 0, "NOT DONE, no vulnerability data can be had from here"),
        ([], 0, "NOT DONE"),
        ([UNKNOWN], 0, "NOT DONE"),
        ([CLEAN], 0, "1 packages, 0 known vulnerabilities"),
        ([CLEAN, UNKNOWN], 0, "not known there: torch"),
        ([CLEAN, BAD, UNKNOWN], 1, "jinja2 2.0: PYSEC-1 CVE-1; fixed in 3.1.6"),
    ],
)
def test_findings_fail_the_gate_and_missing_data_is_said(
    tmp_path: Path, packages: list[dict[str, Any]] | None, status: int, line: str
) -> None:
    answer = "no route to host" if packages is None else json.dumps({"dependencies": packages})
    (tmp_path / "pip_audit.py").write_text(f"print({answer!r})")
    done = subprocess.run(
        [sys.executable, str(AUDIT), "requirements.lock"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert line in done.stdout
