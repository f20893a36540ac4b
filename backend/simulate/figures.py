"""The two figures of a replay: learning curves, and what each arm saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.disk import write_whole
from backend.simulate.analysis import RANDOM, TARGETS, Analysis, TargetResult, learning_curves
from backend.simulate.arms import DEFAULT
from backend.simulate.records import Run
from backend.simulate.savings import Curve, Saving

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _RANDOM, _GRID = "#333333", "#777777", "#e6e6e6"

# Okabe and Ito's colours for all kinds of sight, without black and the pale yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--")
_Style = tuple[str, str]

# What an axis counts, and how much cost one of it is.
_UNITS = {
    "images": ("labelled images", 1),
    "boxes": ("labelled boxes", 1),
    "effort": ("hours of labelling", 3600),
}


def draw_curves(runs: Sequence[Run], analysis: Analysis, path: Path) -> None:
    """mAP50 over cost, one line an arm: the mean over its seeds, in a band from lowest to highest.

    The cost axis is logarithmic, so that a saving of 2x is the same step everywhere. Only random
    and the default, or where it was not replayed the best arm (by area), have their band filled
    and lie on top: ten bands would hide the lines.

    Args:
        runs: the records; unfinished ones are left out.
        analysis: of these runs.
        path: where the PNG goes; a file there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    figure = _figure(9.5, 5)
    axes = figure.add_subplot()
    curves = learning_curves(runs, analysis.cost)
    styles = _styles(analysis)
    name, unit = _UNITS[analysis.cost]
    arms = [result.arm for result in analysis.arms]
    stressed = DEFAULT if DEFAULT in arms else next((arm for arm in arms if arm != RANDOM), RANDOM)
    for result in analysis.arms:
        _draw_arm(
            axes,
            list(curves[result.arm].values()),
            label=result.arm,
            unit=unit,
            style=styles[result.arm],
            stressed=result.arm in (RANDOM, stressed),
        )
    axes.axhline(analysis.full_map50, color=_INK, linewidth=1, linestyle="--")
    axes.annotate(
        f"whole pool: {analysis.full_map50:.3f}",
        (1, analysis.full_map50),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_INK,
    )
    _log_axis(axes)
    low, high = axes.get_ylim()
    # From 0, the curves of a pool that is learned early would lie on each other.
    axes.set_ylim(max(0, math.floor(low * 10) / 10), min(1, max(high, analysis.full_map50 * 1.08)))
    axes.set_xlabel(name)
    axes.set_ylabel("mAP50 on the test set")
    axes.set_title("Learning curves (line: mean; band: all seeds)", fontsize=10)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    _save(figure, path)


def draw_savings(analysis: Analysis, path: Path) -> None:
    """One panel a target: a dot with its 95% interval for each arm, on a log axis around 1x.

    An arrow marks a bound: the saving is that or more, or that or less.

    Args:
        analysis: what the replay showed.
        path: where the PNG goes; a file there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    arms = [result for result in analysis.arms if result.arm != RANDOM]
    figure = _figure(11, 1.5 + 0.3 * max(1, len(arms)))
    # Else the last tick of a panel runs into the first of the next.
    figure.set_layout_engine("constrained", wspace=0.04)
    panels = figure.subplots(1, len(TARGETS), sharex=True, sharey=True, squeeze=False)[0]
    styles = _styles(analysis)
    ends = _ends([target.saving for result in arms for target in result.targets])
    for i, axes in enumerate(panels):
        axes.axvline(1, color=_RANDOM, linewidth=1)
        for row, result in enumerate(arms):
            _draw_saving(axes, row, result.targets[i], styles[result.arm][0], ends)
        axes.set_title(f"{TARGETS[i]:.0%} of full mAP50", fontsize=9)
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
    _label_savings(panels[0], ends)
    panels[0].set_yticks(range(len(arms)), [result.arm for result in arms], fontsize=8)
    panels[0].set_ylim(max(1, len(arms)) - 0.5, -0.5)
    figure.supxlabel(
        f"{_UNITS[analysis.cost][0]} that random picks need ÷ those of the arm, at equal mAP50 "
        "(line: 95% interval; arrow: this or beyond)",
        fontsize=9,
    )
    _save(figure, path)


def _draw_arm(
    axes: Axes,
    curves: Sequence[Curve],
    *,
    label: str,
    unit: float,
    style: _Style,
    stressed: bool,
) -> None:
    first = max(curve.cost[0] for curve in curves)
    last = min(curve.cost[-1] for curve in curves)
    costs = np.unique(np.concatenate([curve.cost for curve in curves]))
    costs = costs[(costs >= first) & (costs <= last)]
    values = np.array([np.interp(costs, curve.cost, curve.quality) for curve in curves])
    colour, dashes = style
    if stressed:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(costs / unit, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        costs / unit,
        values.mean(axis=0),
        color=colour,
        linestyle=dashes,
        linewidth=2.2 if stressed else 1.4,
        marker="o" if len(costs) == 1 else "",
        markersize=4,
        label=label,
        zorder=3 if stressed else 2,
    )


def _draw_saving(
    axes: Axes, row: int, result: TargetResult, colour: str, ends: tuple[float, float]
) -> None:
    ratio, interval = result.saving.ratio, result.saving.interval
    if ratio.low == 0 and math.isinf(ratio.high):
        said = "not known" if result.need.reached else "not reached"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(1, row, said, ha="center", va="center", fontsize=7, color=_RANDOM, bbox=box)
        return
    dot = ratio.low or ratio.high
    low, high = max(interval.low, ends[0]), min(interval.high, ends[1])
    if ratio.low == ratio.high:
        axes.plot([low, high], [row, row], color=colour, linewidth=1.6)
        axes.plot(dot, row, "o", color=colour, markersize=5)
        return
    # Towards the known end there is an interval; the other way, an arrow.
    known, way = (low, 1.45) if ratio.low else (high, 1 / 1.45)
    axes.plot([known, dot], [row, row], color=colour, linewidth=1.6)
    axes.plot(dot, row, "o", color=colour, markerfacecolor="white", markersize=5)
    axes.annotate(
        "", (dot * way, row), (dot, row), arrowprops={"arrowstyle": "->", "color": colour}
    )


def _ends(savings: Sequence[Saving]) -> tuple[float, float]:
    """The range of savings that is drawn: intervals may leave it by being more than 2x wide."""
    seen = [0.7, 1.5]
    for saving in savings:
        dot = saving.ratio.low or saving.ratio.high
        if math.isfinite(dot):
            seen += [max(saving.interval.low, dot / 2), min(saving.interval.high, dot * 2), dot]
    return min(seen) / 1.1, max(seen) * 1.1


def _styles(analysis: Analysis) -> dict[str, _Style]:
    """Colour and dashes by name: the same in all reports of the same arms."""
    styles: dict[str, _Style] = {RANDOM: (_RANDOM, ":")}
    for place, arm in enumerate(sorted(r.arm for r in analysis.arms if r.arm != RANDOM)):
        turn, colour = divmod(place, len(_COLOURS))
        styles[arm] = _COLOURS[colour], _DASHES[turn % len(_DASHES)]
    return styles


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def _log_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label_savings(axes: Axes, ends: tuple[float, float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(*ends)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
