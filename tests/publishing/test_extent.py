"""How much of an order PUBLISH sends."""

from __future__ import annotations

from typing import Literal

import pytest

from backend.publishing.extent import ALL_BELOW, cut_to_extent
from backend.settings import load_settings
from backend.store.scores import RankRow

ORDER = [RankRow(place, 100 + place, 0.5) for place in range(1, ALL_BELOW + 1)]


def sent(
    publish: Literal["auto", "all", "queue"], tasks: int, *, pinned: int = 0, limit: int = 50
) -> tuple[list[int], str]:
    settings = load_settings(publish=publish, queue_limit=limit)
    rows, note = cut_to_extent(ORDER[:tasks], settings, pinned=pinned)
    return [row.rank for row in rows], note


@pytest.mark.parametrize(
    ("publish", "tasks", "count"),
    [
        ("all", ALL_BELOW, ALL_BELOW),
        ("auto", ALL_BELOW - 1, ALL_BELOW - 1),
        ("auto", ALL_BELOW, 50),
        ("queue", ALL_BELOW, 50),
        ("queue", 30, 30),
    ],
)
def test_the_first_places_are_sent(
    publish: Literal["auto", "all", "queue"], tasks: int, count: int
) -> None:
    assert sent(publish, tasks)[0] == list(range(1, count + 1))


def test_pinned_tasks_are_always_sent() -> None:
    assert len(sent("auto", ALL_BELOW, pinned=70)[0]) == 70


def test_auto_says_what_it_leaves_out_and_how_to_send_all() -> None:
    assert sent("auto", ALL_BELOW)[1] == (
        "PUBLISH=auto: of 20,000 tasks the first 50 are published, because 20,000 or more take "
        "Label Studio minutes; PUBLISH=all publishes all"
    )


@pytest.mark.parametrize(
    ("publish", "tasks", "limit"), [("all", 99, 9), ("queue", 99, 9), ("auto", ALL_BELOW, 30_000)]
)
def test_nothing_is_said_where_nothing_is_left_out_unasked(
    publish: Literal["auto", "all", "queue"], tasks: int, limit: int
) -> None:
    assert sent(publish, tasks, limit=limit)[1] == ""
