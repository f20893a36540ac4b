"""The hold-out: tasks picked at random, on which models are evaluated and never trained.

Images that were picked because a model is bad at them would bias its evaluation. So a fixed share
of the tasks, picked by a hash of their key alone, is never ranked: these tasks are dealt into the
order at even distances, in random order. The labelled ones among them are, at any time, a random
sample of the pool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def is_random_pick(project_id: int, key: object, share: float) -> bool:
    """Whether a task belongs to the hold-out.

    Args:
        project_id: its project.
        key: the task's number, or the name of its sequence: images of one sequence go together,
            for a model that was trained on one of them has seen them all.
        share: 0..1; tasks that belong to a share belong to every larger one too.
    """
    return _chance("share", project_id, key) < share


def shuffled(project_id: int, task_ids: Sequence[int]) -> list[int]:
    """These tasks in a random order that is the same every time."""
    return sorted(task_ids, key=lambda task_id: _chance("order", project_id, task_id))


def deal(ranked: Sequence[Item], random: Sequence[Item], share: float) -> list[Item]:
    """One order of both, in which any beginning holds `share` of `random`, rounded down.

    >>> deal(["a", "b", "c", "d"], ["R", "S"], 0.34)
    ['a', 'b', 'R', 'c', 'd', 'S']
    """
    order: list[Item] = []
    first, second = list(reversed(ranked)), list(reversed(random))
    while first and second:
        place = len(order)
        # The small addend keeps 3 * (1 / 3) from falling short of 1.
        is_due = int((place + 1) * share + 1e-9) > int(place * share + 1e-9)
        order.append((second if is_due else first).pop())
    return [*order, *reversed(first), *reversed(second)]


def _chance(salt: str, project_id: int, key: object) -> float:
    """Uniform in 0..1, the same for the same arguments on every machine."""
    digest = hashlib.sha256(f"{salt} {project_id} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
