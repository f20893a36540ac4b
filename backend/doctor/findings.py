"""What is found in the set-up: one thing each, and the one thing to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]

TASKS = "tasks"
"""The check of whether there is anything to rank."""

ORDER = "order"
"""The check of whether Label Studio serves the published order."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Args:
        check: what, in a word or two.
        level: "ok", "warn" (works, but not as well as it could) or "fail".
        message: what was found, one line.
        remedy: the one thing to do; "" where there is nothing to do.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", message)


def warn(check: str, message: str, remedy: str) -> Finding:
    """Works, but not as well as it could."""
    return Finding(check, "warn", message, remedy)


def fail(check: str, message: str, remedy: str) -> Finding:
    """Does not work."""
    return Finding(check, "fail", message, remedy)


def failed(check: str, error: Exception) -> Finding:
    """Our errors read "what is wrong: what to do": split at the last colon that is no address."""
    message, separator, remedy = str(error).rpartition(": ")
    return Finding(check, "fail", message, remedy) if separator else Finding(check, "fail", remedy)


def next_step(findings: Sequence[Finding]) -> str:
    """The one thing to do next; "" where there is nothing to do.

    What fails comes first; then what an order needs, and the order, which all of this is for.
    """
    due = [finding for finding in findings if finding.remedy]
    due.sort(key=lambda found: (found.level != "fail", found.check not in (TASKS, ORDER)))
    return due[0].remedy if due else ""
