"""Which jobs are due in which situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from backend.jobs.due import Situation, publish_is_due, training_is_due
from backend.settings import load_settings

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SETTLED = Situation(answered=60, answered_when_trained=40, open_ranks=50, ranked=60, unlabelled=50)


@pytest.mark.parametrize(
    ("situation", "due"),
    [
        (Situation(), False),
        (Situation(answered=49), False),
        (Situation(answered=50), True),
        (Situation(answered=90, answered_when_trained=50), False),
        (Situation(answered=100, answered_when_trained=50), True),
        (Situation(answered=100, trains=True), False),
    ],
)
def test_a_training_is_due_after_enough_new_answers(situation: Situation, due: bool) -> None:
    assert training_is_due(situation, load_settings(train_after=50)) is due


def test_no_training_is_due_by_itself_when_it_is_switched_off() -> None:
    assert not training_is_due(Situation(answered=1_000), load_settings(train_after=0))


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({}, False),
        ({"new_tasks": 1}, True),
        ({"order_is_stale": True}, True),
        # PUBLISH=queue: a fifth of the order is left, and more tasks wait behind it.
        ({"open_ranks": 12, "ranked": 60, "unlabelled": 500}, True),
        ({"open_ranks": 13, "ranked": 60, "unlabelled": 500}, False),
        ({"open_ranks": 0, "ranked": 60, "unlabelled": 500}, True),
        # Nothing waits behind the order, or nobody has answered yet: a new one would be the same.
        ({"open_ranks": 10, "ranked": 60, "unlabelled": 10}, False),
        ({"open_ranks": 4, "ranked": 4, "unlabelled": 500}, False),
        # An order is being made already; its end has the project looked at again.
        ({"order_is_stale": True, "publishes": True}, False),
        # All is labelled.
        ({"order_is_stale": True, "unlabelled": 0}, False),
    ],
)
def test_the_queue_is_made_anew_when_it_has_to_be(change: dict[str, int], due: bool) -> None:
    assert publish_is_due(replace(SETTLED, **change), NOW) is due


@pytest.mark.parametrize(
    ("failures", "minutes", "due"),
    [(0, 0, True), (1, 0.5, False), (1, 1, True), (3, 3, False), (3, 4, True), (40, 60, True)],
)
def test_what_failed_is_tried_again_after_a_growing_pause(
    failures: int, minutes: float, due: bool
) -> None:
    last = NOW - timedelta(minutes=minutes) if failures else None
    situation = replace(SETTLED, new_tasks=1, failures=(failures, last))
    assert publish_is_due(situation, NOW) is due
