"""The versions of Label Studio that `make test-versions` was run with, and what differs in each."""

from __future__ import annotations

TESTED: dict[str, str] = {
    "1.16.0": "has legacy tokens only, and takes boxes that do not fit the label config",
    "1.20.0": "takes boxes that do not fit the label config",
    "1.23.2": "",
}
"""The last is the one that `make test` and `make demo` run with."""
