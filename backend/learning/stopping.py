"""When to stop labelling: four signals, each shown, and the advice they add up to.

Two of them are published stopping rules: the gain of the last rounds, and the agreement of
successive models (Bloodgood and Vijay-Shanker 2009, "A method for stopping active learning based
on stabilizing predictions", which proposes kappa 0.99).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backend.store.rounds import RoundRow
from backend.training.quality import Quality

LEAST_GAIN = 0.01
GAIN_ROUNDS = 3
STABLE_KAPPA = 0.99
ACCEPTED_SHARE = 0.95
# With fewer boxes shown, the share of accepted ones says nothing.
FEWEST_SHOWN = 20

Colour = Literal["green", "amber", "red"]


@dataclass(frozen=True)
class Signal:
    """One reason to stop, or not.

    Args:
        name: what is measured.
        says_stop: whether it speaks for stopping; None: too little is known yet.
        told: the measurement in one line, for people.
    """

    name: str
    says_stop: bool | None
    told: str


@dataclass(frozen=True)
class Advice:
    """Whether to keep labelling.

    Args:
        colour: green: stop; amber: soon, look at the signals; red: keep labelling.
        told: the same in words.
        signals: what it is based on.
    """

    colour: Colour
    told: str
    signals: tuple[Signal, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "colour": self.colour,
            "told": self.told,
            "signals": [signal.__dict__ for signal in self.signals],
        }


def advise(rounds: Sequence[RoundRow], *, target_map50: float, accepted: tuple[int, int]) -> Advice:
    """Advice after the rounds so far.

    Green when the target is reached, or when all the other signals say stop; amber when any
    does; red otherwise.

    Args:
        rounds: the evaluated rounds of a project, first one first.
        target_map50: the mAP50 to reach; 0: none was set.
        accepted: boxes of pre-annotations that annotators left as they were since the last round,
            and boxes shown to them.
    """
    evaluated = [(row, Quality.from_json(q)) for row in rounds if (q := row.judgement.get("new"))]
    qualities = [quality for _, quality in evaluated]
    target = _target(qualities, target_map50)
    others = (_gain(qualities), _agreement(rounds), _accepted(*accepted))
    signals = (target, *others)
    if target.says_stop or all(signal.says_stop for signal in others):
        return Advice("green", "stop: more labels would hardly help", signals)
    if any(signal.says_stop for signal in others):
        return Advice("amber", "soon: look at the signals", signals)
    return Advice("red", "go on labelling", signals)


def _target(qualities: Sequence[Quality], target: float) -> Signal:
    name = "target reached"
    if not target:
        return Signal(name, None, "no target is set (TARGET_MAP50)")
    if not qualities:
        return Signal(name, None, f"target {target:.2f}; no round was evaluated yet")
    last = qualities[-1].map50
    seen = f"mAP50 {last.value:.3f} ({last.low:.3f} to {last.high:.3f}), target {target:.2f}"
    if last.low >= target:
        return Signal(name, True, seen)
    note = ": reached, but not for sure" if last.value >= target else ""
    return Signal(name, False, seen + note)


def _gain(qualities: Sequence[Quality]) -> Signal:
    name = "no more gain"
    if len(qualities) <= GAIN_ROUNDS:
        return Signal(
            name, None, f"{len(qualities)} evaluated rounds; {GAIN_ROUNDS + 1} are needed to tell"
        )
    gain = qualities[-1].map50.value - qualities[-1 - GAIN_ROUNDS].map50.value
    told = f"mAP50 {100 * gain:+.1f} points in {GAIN_ROUNDS} rounds (under +1 says stop)"
    return Signal(name, gain < LEAST_GAIN, told)


def _agreement(rounds: Sequence[RoundRow]) -> Signal:
    name = "stable predictions"
    known = [row.judgement.get("agreement") for row in rounds]
    if not known or known[-1] is None:
        return Signal(name, None, "no two models were compared yet")
    told = f"kappa {known[-1]:.3f} with the model before (from {STABLE_KAPPA} on says stop)"
    return Signal(name, known[-1] >= STABLE_KAPPA, told)


def _accepted(accepted: int, shown: int) -> Signal:
    name = "boxes accepted unedited"
    if shown < FEWEST_SHOWN:
        return Signal(name, None, f"{shown} boxes were shown; {FEWEST_SHOWN} are needed to tell")
    told = f"{accepted} of {shown} boxes ({accepted / shown:.0%}; from 95% on says stop)"
    return Signal(name, accepted / shown >= ACCEPTED_SHARE, told)
