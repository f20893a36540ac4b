"""Asks whether locked packages have known vulnerabilities: 1 if any has, 0 if not.

    python .ci/audit.py LOCK

Where the data cannot be had (no way to the internet, a mirror without it), it says so and is 0: a
gate that fails for want of a network would soon be taken out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# PyPI's own data, and Google's, which is had from elsewhere.
SERVICES = ("pypi", "osv")
SERVICE_SECONDS = 240


def ask(lock: str, service: str) -> list[dict[str, Any]] | None:
    """What pip-audit found of each package of the lock file; None: it got no answer."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock]
    # The lock is complete: nothing has to be resolved, and nothing is installed.
    options = ["--no-deps", "--disable-pip", "--vulnerability-service", service, "--timeout", "10"]
    form = ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, *options, *form], capture_output=True, text=True, timeout=SERVICE_SECONDS
        )
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return packages


def main(lock: str) -> int:
    """Audit one lock file; returns the exit status."""
    for service in SERVICES:
        packages = ask(lock, service) or []
        audited = [package for package in packages if "vulns" in package]
        if audited:
            break
    else:
        print(f"audit of {lock}: NOT DONE, no vulnerability data can be had from here")
        return 0
    found = 0
    for package in audited:
        for vulnerability in package["vulns"]:
            found += 1
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            known = " ".join([vulnerability["id"], *vulnerability.get("aliases", [])])
            print(f"{package['name']} {package['version']}: {known}; fixed in {fixed}")
    skipped = [package["name"] for package in packages if "vulns" not in package]
    missing = f"; not known there: {', '.join(skipped)}" if skipped else ""
    print(f"audit of {lock}: {len(audited)} packages, {found} known vulnerabilities{missing}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
