"""The learning curve of a project as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import StoreError
from backend.settings import Settings
from backend.store.rounds import RoundRow
from backend.training.quality import Interval, Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _LINE, _KEPT = "#333333", "#1f6fb4", "#b0b0b0"


def curve_file(settings: Settings, project_id: int) -> Path:
    """Where the picture of a project goes unless somewhere else is asked for."""
    return settings.data_dir / f"learning-curve-{project_id}.png"


def draw_curve(rounds: Sequence[RoundRow], path: Path, *, target_map50: float = 0.0) -> None:
    """mAP50 over labelled images, with its interval, as a PNG.

    Promoted rounds are filled dots joined by a line; those that were not are hollow.

    Args:
        rounds: evaluated rounds; those without figures are left out.
        path: where the PNG goes; a file there is replaced.
        target_map50: drawn as a line; 0: none.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import MaxNLocator

    evaluated = [(row, Quality.from_json(q)) for row in rounds if (q := row.judgement.get("new"))]
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_band(axes, [(row.labels, quality.map50) for row, quality in evaluated if row.promoted])
    for row, quality in evaluated:
        _draw_round(axes, row, quality.map50)
    if target_map50:
        _draw_target(axes, target_map50)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("labelled images trained on")
    axes.set_ylabel("mAP50 on the hold-out")
    axes.set_title("Learning curve (bars: 95% interval; hollow: not promoted)", fontsize=10)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise StoreError(
            f"The learning curve cannot be written to {path} ({error.strerror}): name another file"
        ) from None


def _draw_band(axes: Axes, promoted: Sequence[tuple[int, Interval]]) -> None:
    labels = [count for count, _ in promoted]
    low, high = [x.low for _, x in promoted], [x.high for _, x in promoted]
    axes.fill_between(labels, low, high, color=_LINE, alpha=0.12, linewidth=0)
    axes.plot(labels, [x.value for _, x in promoted], color=_LINE, linewidth=1.8)


def _draw_round(axes: Axes, row: RoundRow, map50: Interval) -> None:
    axes.errorbar(
        row.labels,
        map50.value,
        yerr=[[map50.value - map50.low], [map50.high - map50.value]],
        color=_LINE if row.promoted else _KEPT,
        marker="o",
        markersize=6,
        markerfacecolor=_LINE if row.promoted else "white",
        capsize=3,
        linewidth=1,
    )
    _write(axes, f"r{row.round}", (row.labels, map50.value), "data", (6, -12))


def _draw_target(axes: Axes, target: float) -> None:
    axes.axhline(target, color=_INK, linewidth=1, linestyle="--")
    _write(axes, "target", (1, target), ("axes fraction", "data"), (-34, 3))


def _write(axes: Axes, text: str, at: tuple[float, float], of: Any, shift: tuple[int, int]) -> None:
    axes.annotate(
        text, at, xycoords=of, xytext=shift, textcoords="offset points", fontsize=8, color=_INK
    )
