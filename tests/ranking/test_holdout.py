"""The hold-out: chance alone decides, and it is dealt evenly."""

from __future__ import annotations

import pytest

from backend.ranking.holdout import deal, is_random_pick, shuffled


def test_nothing_is_dealt_of_nothing() -> None:
    assert deal([], [], 0.15) == []
    assert deal(["a"], [], 0.15) == ["a"]
    assert deal([], ["R"], 0.15) == ["R"]


@pytest.mark.parametrize("share", [0.05, 0.15, 1 / 3, 0.5, 0.9])
def test_any_beginning_of_an_order_holds_the_share(share: float) -> None:
    order = deal(["-"] * 1000, ["R"] * 1000, share)
    for end in range(1, 1000):
        assert abs(order[:end].count("R") - share * end) < 1


def test_dealing_keeps_both_orders_and_loses_nothing() -> None:
    order = deal(list(range(40)), list(range(100, 120)), 0.25)
    assert [x for x in order if x < 100] == list(range(40))
    assert [x for x in order if x >= 100] == list(range(100, 120))


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_the_share_is_about_as_large_as_asked_for(share: float) -> None:
    picked = sum(is_random_pick(7, task_id, share) for task_id in range(10_000))
    assert picked == pytest.approx(10_000 * share, abs=150)


def test_a_larger_share_holds_the_smaller_one_and_projects_differ() -> None:
    small = {i for i in range(2_000) if is_random_pick(7, i, 0.1)}
    large = {i for i in range(2_000) if is_random_pick(7, i, 0.3)}
    other = {i for i in range(2_000) if is_random_pick(8, i, 0.1)}
    assert small < large
    assert len(small & other) < len(small) / 2


def test_a_sequence_belongs_to_the_share_as_a_whole() -> None:
    # One key, one answer: what tells the frames apart does not come in.
    assert len({is_random_pick(7, "line2_seq031", 0.5) for _ in range(10)}) == 1


def test_the_random_order_is_the_same_every_time_and_not_that_of_the_numbers() -> None:
    ids = list(range(50))
    assert shuffled(7, ids) == shuffled(7, ids[::-1])
    assert shuffled(7, ids) != ids
    assert sorted(shuffled(7, ids)) == ids
