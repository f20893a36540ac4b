"""The kinds of jobs: what each says when it is done, and which never run at the same time.

A kind is an entry here, and the method of `jobs/handlers.py` that has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SCORE = "score"
PUBLISH = "publish"
ASSIGN = "assign"
TRAIN = "train"
AUTO_LABEL = "auto-label"
POLL = "poll"
CLEAN_UP = "clean-up"

_Result = Mapping[str, Any]


@dataclass(frozen=True)
class JobKind:
    """What is to be known of a kind of job.

    Args:
        outcome: from a job's result to a few words for people. A job of an older version may have
            kept less in its result.
        changes_order: at most one such job runs for a project; of the others, one of each kind.
    """

    outcome: Callable[[_Result], str]
    changes_order: bool = False


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


def _polled(result: _Result) -> str:
    begun = [f"{kind} begun" for kind in (TRAIN, PUBLISH) if result.get(kind)]
    waits = [result["waits"]] if result.get("waits") else []
    return "; ".join([f"{result.get('read', 0)} tasks read", *begun, *waits])


def _cleaned(result: _Result) -> str:
    return f"{result.get('files', 0)} files and {result.get('jobs', 0)} old jobs removed"


KINDS: dict[str, JobKind] = {
    SCORE: JobKind(_ordered, changes_order=True),
    PUBLISH: JobKind(_ordered, changes_order=True),
    ASSIGN: JobKind(_assigned, changes_order=True),
    TRAIN: JobKind(_trained),
    AUTO_LABEL: JobKind(_labelled, changes_order=True),
    POLL: JobKind(_polled),
    CLEAN_UP: JobKind(_cleaned),
}


def exclusive_key(kind: str, project_id: int) -> str:
    """The key of which only one job runs at a time: one training, one change of an order.

    >>> exclusive_key("publish", 3), exclusive_key("auto-label", 3), exclusive_key("train", 3)
    ('3:order', '3:order', '3:train')
    """
    changes_order = kind in KINDS and KINDS[kind].changes_order
    return f"{project_id}:{'order' if changes_order else kind}"
