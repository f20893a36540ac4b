"""How many labels an arm saves against random picks, and how sure that is.

A learning curve is read at a target: the cost at which it gets there. Two choices, both made by
simulating curves of a known saving of 2x (21 rounds, seeds differ by 8% in cost, noise of 0.5 to
2 points of mAP50, targets at 70 to 95% of the plateau):

- Curves are noisy, so each is first made monotone by isotonic regression. Its first crossing was
  off by 1 to 3%. That of the running maximum comes too early, by up to 10% near the plateau, and
  by more the slower a curve rises: it would understate savings.
- The interval is Student's t on the log ratios of runs of one seed, paired. It held the truth in
  93 to 96% of cases with 3 and with 5 seeds. Percentiles of a bootstrap over the seeds held it in
  65 to 80% with 3 (never more than 3/4 where the ratios scatter evenly: they cannot leave the range
  of the three ratios) and in 78 to 87% with 5.

A seed whose curve begins above the target, or ends below it, says only that the cost is at most
that of the first round, or at least that of the last: each reading has a lower and an upper bound.
The lower end of an interval is computed from the lower bounds of all seeds, the upper end from the
upper ones; 0 and infinity where there is none.

Costs are positive numbers in one unit (`analysis.Cost`), qualities lie in 0..1, higher = better.
Glossary: R rounds of a run, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.errors import ScoreError

__all__ = ["Bounds", "Curve", "Difference", "Need", "Saving", "claim", "needed", "saving"]

Floats = NDArray[np.float64]

# Two-sided 95% quantiles of Student's t with 1 to 4 degrees of freedom.
_T95 = (12.7062, 4.3027, 3.1824, 2.7764)


@dataclass(frozen=True)
class Bounds:
    """A positive figure known to lie from `low` to `high`; both are the figure where it is known.

    Nothing is known below where `low` is 0, nor above where `high` is infinite.
    """

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """The learning curve of one run.

    Args:
        cost: (R,) of the labels of each round, positive, never falling.
        quality: (R,) of the model trained on them.

    Raises:
        ScoreError: shapes differ, there is no round, a cost is 0 or falls, or a figure is NaN.
    """

    cost: Floats
    quality: Floats

    def __post_init__(self) -> None:
        if self.cost.shape != self.quality.shape or self.cost.ndim != 1 or not len(self.cost):
            raise ScoreError("a learning curve needs one cost and one quality for each round")
        if not (np.isfinite(self.cost).all() and np.isfinite(self.quality).all()):
            raise ScoreError("a learning curve holds NaN or infinity")
        if self.cost[0] <= 0 or (np.diff(self.cost) < 0).any():
            raise ScoreError(
                "the costs of a learning curve must be positive and never fall: where the first "
                "images hold no box, count images, or begin with more of them"
            )

    def reading(self, target: float) -> Bounds:
        """The cost at which the curve reaches `target`.

        The first crossing of the isotonic regression (Ayer et al., 1955, "An empirical
        distribution function for sampling with incomplete information"), linear between rounds.
        """
        rising = isotonic(self.quality)
        if target < rising[0]:
            return Bounds(0.0, float(self.cost[0]))
        if target > rising[-1]:
            return Bounds(float(self.cost[-1]), math.inf)
        after = int(np.searchsorted(rising, target))
        around = slice(max(0, after - 1), after + 1)
        cost = float(np.interp(target, rising[around], self.cost[around]))
        return Bounds(cost, cost)

    def mean(self, low: float, high: float) -> float:
        """Mean quality over the costs from `low` to `high`, linear between rounds.

        The area under the curve, normalised. The rounds themselves count, not the regression: an
        area averages noise by itself.
        """
        inside = (self.cost > low) & (self.cost < high)
        cost = np.concatenate([[low], self.cost[inside], [high]])
        ends = np.interp([low, high], self.cost, self.quality)
        quality = np.concatenate([ends[:1], self.quality[inside], ends[1:]])
        steps = (quality[1:] + quality[:-1]) / 2 * np.diff(cost)
        return float(steps.sum() / (high - low))


@dataclass(frozen=True)
class Need:
    """What an arm needs to reach a target.

    Args:
        cost: geometric mean over seeds.
        reached: how many seeds got there.
        seeds: of how many.
    """

    cost: Bounds
    reached: int
    seeds: int


@dataclass(frozen=True)
class Saving:
    """How many times the arm's cost random picks need for the same quality.

    Args:
        ratio: geometric mean over the seeds that both have, higher = better, 1: no saving.
        interval: 95% interval of it; 0 to infinity where fewer than two seeds speak of it.
        seeds: number of seeds that both have.
    """

    ratio: Bounds
    interval: Bounds
    seeds: int


@dataclass(frozen=True)
class Difference:
    """The mean of a figure over seeds, and how far it lies above that of random picks.

    Args:
        value: mean over the arm's seeds.
        difference: mean of arm minus random over the seeds that both have; None: there is none.
        low, high: ends of its 95% interval, infinite where fewer than two seeds speak of it.
        seeds: number of seeds that both have.
    """

    value: float
    difference: float | None
    low: float
    high: float
    seeds: int


def isotonic(values: Floats) -> Floats:
    """(R,) the nearest sequence that never falls, by least squares: pools adjacent violators.

    >>> isotonic(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        mean, size = value, 1
        while means and means[-1] >= mean:
            before, count = means.pop(), sizes.pop()
            mean = (before * count + mean * size) / (count + size)
            size += count
        means.append(mean)
        sizes.append(size)
    return np.repeat(means, sizes)


def needed(curves: Mapping[int, Curve], target: float) -> Need:
    """What one arm needs to reach `target`.

    Args:
        curves: seed to curve, at least one.
        target: a quality.
    """
    readings = [curves[seed].reading(target) for seed in sorted(curves)]
    reached = sum(math.isfinite(reading.high) for reading in readings)
    return Need(_exp(_log(readings).mean(axis=0)), reached, len(readings))


def saving(arm: Mapping[int, Curve], random: Mapping[int, Curve], target: float) -> Saving:
    """What an arm saves against random picks in reaching `target`.

    Args:
        arm, random: seed to curve. Seeds that only one of them has do not count.
        target: a quality.
    """
    seeds = sorted(arm.keys() & random.keys())
    if not seeds:
        return Saving(Bounds(0.0, math.inf), Bounds(0.0, math.inf), 0)
    ours = _log([arm[seed].reading(target) for seed in seeds])
    theirs = _log([random[seed].reading(target) for seed in seeds])
    # The ratio is lowest where random needs the least and the arm the most.
    ratios = theirs - ours[:, ::-1]
    ends = (_interval(ratios[:, 0])[0], _interval(ratios[:, 1])[1])
    return Saving(_exp(ratios.mean(axis=0)), _exp(ends), len(seeds))


def claim(saving: Saving) -> str:
    """What may be said of a saving: no more than the lower end of its interval supports.

    Returns:
        "N x", N the lower end cut to one decimal, from 1.1 on; "at least as good" from 1 on;
        "worse" where the upper end lies below 1; "none" otherwise.

    >>> claim(Saving(Bounds(2.6, 2.6), Bounds(2.19, 3.1), 5))
    '2.1x'
    """
    low = math.floor(saving.interval.low * 10 + 1e-9) / 10
    if low >= 1.1:
        return f"{low:g}x"
    if low >= 1:
        return "at least as good"
    return "worse" if saving.interval.high < 1 else "none"


def difference(arm: Mapping[int, float], random: Mapping[int, float]) -> Difference:
    """How far a figure of an arm lies above that of random picks.

    Args:
        arm, random: seed to figure; `arm` holds at least one. Seeds that only one of them has do
            not count for the difference.
    """
    value = float(np.mean([arm[seed] for seed in sorted(arm)]))
    seeds = sorted(arm.keys() & random.keys())
    if not seeds:
        return Difference(value, None, -math.inf, math.inf, 0)
    gaps = np.array([arm[seed] - random[seed] for seed in seeds])
    return Difference(value, float(gaps.mean()), *_interval(gaps), len(seeds))


def _interval(samples: Floats) -> tuple[float, float]:
    """Student's 95% interval of the mean of (S,) samples; infinite where it says nothing."""
    if len(samples) < 2 or not np.isfinite(samples).all():
        return -math.inf, math.inf
    mean = float(samples.mean())
    half = _t95(len(samples) - 1) * float(samples.std(ddof=1)) / math.sqrt(len(samples))
    return mean - half, mean + half


def _t95(freedom: int) -> float:
    """Two-sided 95% quantile of Student's t; from 5 degrees of freedom on within 0.003.

    By the expansion of Abramowitz and Stegun (1964), 26.7.5.
    """
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _log(readings: Sequence[Bounds]) -> Floats:
    """(S, 2) logarithms of the bounds."""
    with np.errstate(divide="ignore"):
        return np.log([[reading.low, reading.high] for reading in readings])


def _exp(bounds: ArrayLike) -> Bounds:
    low, high = np.exp(np.asarray(bounds, dtype=float)).tolist()
    return Bounds(low, high)
