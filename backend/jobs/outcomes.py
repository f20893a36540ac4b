"""What came of a job, in a few words for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backend.jobs.kinds import ASSIGN, AUTO_LABEL, CLEAN_UP, POLL, PUBLISH, SCORE, TRAIN
from backend.jobs.records import CANCELLED, DONE, RUNNING, Job

_Result = Mapping[str, Any]


def outcome(job: Job) -> str:
    """One line: what a finished job did, what a running one is at, why one failed."""
    if job.error:
        return job.error
    if job.state == RUNNING:
        left = "" if job.seconds_left is None else f", about {job.seconds_left:.0f} s left"
        return f"{job.doing}{left}"
    if job.state == CANCELLED:
        return "stopped on request"
    # A job of an older version may have kept less.
    return OUTCOMES[job.kind](job.result) if job.state == DONE and job.result else ""


def _skipped(result: _Result) -> str:
    return f", {result['skipped']} skipped" if result.get("skipped") else ""


def _ordered(result: _Result) -> str:
    return f"{result.get('scored', 0)} scored, {result.get('ranked', 0)} ranked{_skipped(result)}"


def _assigned(result: _Result) -> str:
    return f"{result.get('put_first', 0)} put first of {result.get('ranked', 0)}"


def _trained(result: _Result) -> str:
    promoted = "promoted" if result.get("promoted") else "not promoted"
    return f"{result.get('version')} {promoted}: {result.get('reason', '')}".rstrip(": ")


def _labelled(result: _Result) -> str:
    return f"{result.get('prelabelled', 0)} pre-annotated{_skipped(result)}"


def _looked(result: _Result) -> str:
    begun = [kind for kind in (TRAIN, PUBLISH) if result.get(kind)]
    parts = [
        f"{result.get('read', 0)} tasks read",
        *(f"{kind} begun" for kind in begun),
        *([result["waits"]] if result.get("waits") else []),
    ]
    return "; ".join(parts)


def _cleaned(result: _Result) -> str:
    return f"{result.get('files', 0)} files and {result.get('jobs', 0)} old jobs removed"


OUTCOMES: dict[str, Callable[[_Result], str]] = {
    SCORE: _ordered,
    PUBLISH: _ordered,
    ASSIGN: _assigned,
    TRAIN: _trained,
    AUTO_LABEL: _labelled,
    POLL: _looked,
    CLEAN_UP: _cleaned,
}
