"""When to stop: four signals, all shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.learning.curve import draw_curve
from backend.learning.stopping import Advice, advise
from backend.store.rounds import RoundRow


def quality(value: float, spread: float = 0.05) -> dict[str, Any]:
    interval = {"value": value, "low": value - spread, "high": value + spread}
    return {"map50": interval, "map50_95": interval, "per_class": {}, "images": 9, "boxes": 30}


def rounds(*values: float, agreement: float | None = 0.5) -> list[RoundRow]:
    return [
        RoundRow(
            1, n, n, state="judged", labels=40 * n, promoted=True,
            judgement={"new": quality(value), "agreement": agreement},
        )
        for n, value in enumerate(values, start=1)
    ]  # fmt: skip


def said(advice: Advice) -> list[bool | None]:
    return [signal.says_stop for signal in advice.signals]


def test_nothing_can_be_told_before_the_first_round() -> None:
    advice = advise([], target_map50=0.0, accepted=(0, 0))
    assert (advice.colour, said(advice)) == ("red", [None, None, None, None])
    assert all(signal.told for signal in advice.signals)


@pytest.mark.parametrize(
    ("target", "reached", "colour"), [(0.54, True, "green"), (0.58, False, "red")]
)
def test_a_target_is_reached_when_the_lower_end_of_the_interval_is(
    target: float, reached: bool, colour: str
) -> None:
    advice = advise(rounds(0.3, 0.6), target_map50=target, accepted=(0, 0))
    assert advice.signals[0].says_stop is reached
    assert advice.colour == colour
    assert "0.600 (0.550 to 0.650)" in advice.signals[0].told


def test_under_a_point_in_three_rounds_is_no_more_gain() -> None:
    flat = advise(rounds(0.3, 0.6, 0.601, 0.607, 0.609), target_map50=0, accepted=(0, 0))
    rising = advise(rounds(0.3, 0.6, 0.601, 0.607, 0.62), target_map50=0, accepted=(0, 0))
    early = advise(rounds(0.6, 0.6, 0.6), target_map50=0, accepted=(0, 0))
    assert [a.signals[1].says_stop for a in (flat, rising, early)] == [True, False, None]
    assert [a.colour for a in (flat, rising, early)] == ["amber", "red", "red"]


@pytest.mark.parametrize(("kappa", "stable"), [(0.989, False), (0.99, True), (None, None)])
def test_two_models_that_say_the_same_are_stable(kappa: float | None, stable: bool | None) -> None:
    advice = advise(rounds(0.3, agreement=kappa), target_map50=0, accepted=(0, 0))
    assert advice.signals[2].says_stop is stable


@pytest.mark.parametrize(
    ("accepted", "shown", "stop"), [(0, 0, None), (19, 19, None), (94, 100, False), (95, 100, True)]
)
def test_boxes_left_as_they_were(accepted: int, shown: int, stop: bool | None) -> None:
    advice = advise(rounds(0.3), target_map50=0, accepted=(accepted, shown))
    assert advice.signals[3].says_stop is stop


def test_green_without_a_target_needs_all_the_others() -> None:
    flat = rounds(0.6, 0.6, 0.6, 0.6, agreement=1.0)
    assert advise(flat, target_map50=0, accepted=(99, 100)).colour == "green"
    assert advise(flat, target_map50=0, accepted=(50, 100)).colour == "amber"


def test_a_round_that_could_not_be_evaluated_is_no_figure() -> None:
    unjudged = RoundRow(1, 2, 2, state="judged", judgement={"new": None, "agreement": None})
    advice = advise([*rounds(0.6), unjudged], target_map50=0.5, accepted=(0, 0))
    assert said(advice) == [True, None, None, None]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_learning_curve_is_a_picture(count: int, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "made" / "curve.png"
    draw_curve(rounds(*[0.3, 0.4, 0.5, 0.6][:count]), path, target_map50=0.8)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        # Something is drawn, and each dot adds to it.
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
        assert ((31, 111, 180) in colours) is (count > 0)
