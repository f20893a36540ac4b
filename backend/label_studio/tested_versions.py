"""The versions of Label Studio that `make test-versions` was run with, and what differs."""

from __future__ import annotations

TESTED: dict[str, str] = {
    "1.16.0": "",
    "1.20.0": "",
    "1.23.2": "",
}
