"""The kinds of jobs, and which of them never run at the same time."""

from __future__ import annotations

SCORE = "score"
PUBLISH = "publish"
ASSIGN = "assign"
TRAIN = "train"
AUTO_LABEL = "auto-label"
POLL = "poll"
CLEAN_UP = "clean-up"
KINDS = (SCORE, PUBLISH, ASSIGN, TRAIN, AUTO_LABEL, POLL, CLEAN_UP)

_CHANGE_THE_ORDER = (SCORE, PUBLISH, ASSIGN, AUTO_LABEL)


def exclusive_key(kind: str, project_id: int) -> str:
    """The key of which only one job runs at a time: one training, one change of an order.

    >>> exclusive_key("publish", 3), exclusive_key("auto-label", 3), exclusive_key("train", 3)
    ('3:order', '3:order', '3:train')
    """
    return f"{project_id}:{'order' if kind in _CHANGE_THE_ORDER else kind}"
