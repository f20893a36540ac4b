"""The report of a replay: report.json (everything), report.md (one page) and its two figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.disk import write_whole
from backend.errors import StoreError
from backend.simulate.analysis import (
    COSTS,
    RANDOM,
    SECONDS_PER_BOX,
    SECONDS_PER_IMAGE,
    TARGETS,
    Analysis,
    ArmResult,
    Cost,
    analyse,
    analyse_otherwise,
)
from backend.simulate.figures import draw_curves, draw_savings
from backend.simulate.records import Run
from backend.simulate.savings import Difference, Need, Saving, claim

# The target at which the savings in other costs are given.
_TOLD = TARGETS.index(0.9)

_EFFORT = f"{SECONDS_PER_IMAGE:g} s an image and {SECONDS_PER_BOX:g} s a box"


@dataclass(frozen=True)
class Facts:
    """What was replayed, as its caller knows it.

    Args:
        name: of the data set.
        pool_images: number of images to pick from.
        test_images: number of images to evaluate on.
        class_boxes: class name to its number of boxes in the pool.
        settings: name to value of what the replay was run with.
        command: the command line.
        date: ISO date.
        machine: processor, cores, GPU: one line.
    """

    name: str
    pool_images: int
    test_images: int
    class_boxes: Mapping[str, int]
    settings: Mapping[str, str | int | float | bool | None]
    command: str
    date: str
    machine: str


def write_report(runs: Sequence[Run], facts: Facts, out: Path, *, cost: Cost) -> Analysis:
    """Write report.json, report.md, curves.png and savings.png into `out`, over older ones.

    Args:
        runs: the records; unfinished ones are named and left out.
        facts: what was replayed.
        out: the replay's folder.
        cost: what labels are counted in.

    Returns:
        What the report shows.

    Raises:
        ScoreError: as `analyse`.
        StoreError: a file cannot be written.
    """
    analysis = analyse(runs, cost=cost, class_boxes=facts.class_boxes)
    others = analyse_otherwise(runs, cost=cost, class_boxes=facts.class_boxes)
    everything = {
        "facts": asdict(facts),
        "targets": TARGETS,
        "analysis": analysis.as_json(),
        "otherwise": {other.cost: other.as_json() for other in others},
        "runs": [run.as_json() for run in sorted(runs, key=lambda run: (run.arm, run.seed))],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        draw_curves(runs, analysis, out / "curves.png")
        draw_savings(analysis, out / "savings.png")
        write_whole(out / "report.json", json.dumps(everything, indent=1).encode())
        write_whole(out / "report.md", as_markdown(analysis, others, facts).encode())
    except OSError as error:
        raise StoreError(
            f"The report cannot be written to {out} ({error.strerror}): name another folder"
        ) from None
    return analysis


def as_markdown(analysis: Analysis, others: Sequence[Analysis], facts: Facts) -> str:
    """One page a person reads.

    Args:
        analysis: what the page shows.
        others: the same runs counted in other costs.
        facts: what was replayed.
    """
    blocks = [
        f"# What active learning saves on {facts.name}",
        _summary(analysis, facts),
        _table(("", ""), _setup(analysis, facts)),
        _reading_guide(),
        *(_target(analysis, i) for i in range(len(TARGETS))),
        _otherwise(analysis, others),
        _areas(analysis),
        _unfinished(analysis),
        "![Learning curves: mAP50 over the cost of labels](curves.png)",
        "![Saving of each arm against random picks](savings.png)",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _summary(analysis: Analysis, facts: Facts) -> str:
    boxes = sum(facts.class_boxes.values())
    seeds = {arm.arm: len(arm.seeds) for arm in analysis.arms}[RANDOM]
    return (
        f"A pool of {facts.pool_images:,} labelled images with {boxes:,} boxes of "
        f"{len(facts.class_boxes)} classes was labelled again in small batches, each arm picking "
        f"its own, and every model was evaluated on the same {facts.test_images:,} test images. "
        f"Trained on the whole pool ({_amount(analysis.full_cost, analysis.cost)}), the detector "
        f"reaches mAP50 {analysis.full_map50:.3f} (mean of {_count(analysis.full_seeds, 'seed')}). "
        f"Random picks were replayed with {_count(seeds, 'seed')}."
    )


def _setup(analysis: Analysis, facts: Facts) -> list[tuple[str, str]]:
    counted: str = analysis.cost
    if counted == "effort":
        counted += f": {_EFFORT}"
    by_count = sorted(facts.class_boxes.items(), key=lambda item: (-item[1], item[0]))
    return [
        ("Labels counted in", counted),
        ("Boxes in the pool", ", ".join(f"{name} {n:,}" for name, n in by_count)),
        ("Settings", ", ".join(f"{name} {value}" for name, value in facts.settings.items())),
        ("Command", f"`{facts.command}`"),
        ("Date", facts.date),
        ("Machine", facts.machine),
    ]


def _reading_guide() -> str:
    return (
        "A saving of 2x means that random picks need twice the labels for the same mAP50. In "
        "brackets: its 95% interval, Student's t on the log ratios of paired seeds. *May be "
        "claimed* is its lower end, cut to one decimal. Targets are shares of the whole pool's "
        "mAP50; labels needed are the geometric mean over seeds. `≥` and `≤`: some run ended "
        "before the target, or began above it, so that only a bound is known. With this many "
        "comparisons about one in forty may look better than it is by chance."
    )


def _target(analysis: Analysis, i: int) -> str:
    level = TARGETS[i] * analysis.full_map50
    title = f"## {TARGETS[i]:.0%} of the whole pool's mAP50 ({level:.3f})"
    header = ("arm", "labels needed", "saving", "may be claimed", "paired seeds")
    return f"{title}\n\n{_table(header, [_target_row(analysis, arm, i) for arm in analysis.arms])}"


def _target_row(analysis: Analysis, arm: ArmResult, i: int) -> tuple[str, ...]:
    result = arm.targets[i]
    need = _need(result.need, analysis.cost)
    if arm.arm == RANDOM:
        return arm.arm, need, "1x", "", str(result.saving.seeds)
    claimed = claim(result.saving)
    return arm.arm, need, _saving(result.saving), claimed, str(result.saving.seeds)


def _otherwise(analysis: Analysis, others: Sequence[Analysis]) -> str:
    counted = [analysis, *others]
    savings = [{arm.arm: _saving(arm.targets[_TOLD].saving) for arm in one.arms} for one in counted]
    rows = [
        (arm.arm, *(by_arm[arm.arm] for by_arm in savings))
        for arm in analysis.arms
        if arm.arm != RANDOM
    ]
    if not rows:
        return ""
    missing = "" if len(counted) == len(COSTS) else " Boxes cannot: some run began without any."
    return (
        f"## {TARGETS[_TOLD]:.0%}, counted otherwise\n\n"
        "Images with more boxes teach more and take longer to label: a saving of images may be a "
        f"smaller one of boxes, and of time. The effort is {_EFFORT}.{missing}\n\n"
        + _table(("arm", *(f"in {one.cost}" for one in counted)), rows)
    )


def _areas(analysis: Analysis) -> str:
    if all(arm.area is None for arm in analysis.arms):
        return "The runs share no range of costs: no area under the curves can be compared."
    first, last = (_amount(end, analysis.cost) for end in analysis.shared)
    header = ["arm", "mAP50", "above random"]
    note = ""
    if analysis.rare_classes:
        header += ["rare-class AP50", "above random"]
        note = f" Rare classes: {', '.join(analysis.rare_classes)}."
    rows = []
    for arm in analysis.arms:
        figures = [f for f in (arm.area, arm.rare) if f is not None]
        cells = (cell for f in figures for cell in _figure(f, arm.arm == RANDOM))
        rows.append((arm.arm, *cells))
    return (
        "## At equal cost\n\n"
        f"Means over the curves from {first} to {last}, the range that all runs share: the "
        f"normalised area under each.{note}\n\n{_table(header, rows)}"
    )


def _unfinished(analysis: Analysis) -> str:
    if not analysis.unfinished:
        return ""
    names = (f"{arm} seed {s} ({_count(n, 'round')})" for arm, s, n in analysis.unfinished)
    return f"Not finished, and not counted: {', '.join(names)}."


def _need(need: Need, cost: Cost) -> str:
    low, high = need.cost.low, need.cost.high
    partly = f" ({need.reached} of {need.seeds} seeds got there)"
    if low == high:
        return _amount(low, cost)
    if not need.reached:
        return f"not reached with {_amount(low, cost)}"
    if math.isfinite(high):
        return f"≤ {_amount(high, cost)}"
    return f"≥ {_amount(low, cost)}{partly}" if low else f"not known{partly}"


def _saving(saving: Saving) -> str:
    """The ratio, or its bound, with what is known of its interval."""
    ratio, interval = saving.ratio, saving.interval
    if ratio.low == ratio.high:
        if math.isinf(interval.high):
            return f"{_times(ratio.low)} (one seed: no interval)"
        return f"{_times(ratio.low)} ({_floor(interval.low)} to {_ceil(interval.high)})"
    if ratio.low > 0:
        end = f" (from {_floor(interval.low)})" if interval.low else ""
        return f"≥ {_times(ratio.low)}{end}"
    if math.isfinite(ratio.high):
        end = f" (up to {_ceil(interval.high)})" if math.isfinite(interval.high) else ""
        return f"≤ {_times(ratio.high)}{end}"
    return "not known" if saving.seeds else "no seed in common with random"


def _figure(figure: Difference, is_random: bool) -> tuple[str, str]:
    if is_random:
        return f"{figure.value:.3f}", ""
    if figure.difference is None:
        return f"{figure.value:.3f}", "no seed in common with random"
    gap = f"{figure.difference:+.3f}"
    if math.isinf(figure.high):
        return f"{figure.value:.3f}", f"{gap} (one seed: no interval)"
    return f"{figure.value:.3f}", f"{gap} ({figure.low:+.3f} to {figure.high:+.3f})"


def _amount(value: float, cost: Cost) -> str:
    if cost == "effort":
        return f"{value / 3600:.1f} h" if value >= 3600 else f"{value / 60:.0f} min"
    return f"{value:,.0f} {cost}"


def _times(ratio: float) -> str:
    return f"{_digits(ratio)}x"


def _digits(ratio: float) -> str:
    """Two decimals below 1, one from there on: what three to five seeds can tell."""
    return f"{ratio:.{_decimals(ratio)}f}"


def _floor(end: float) -> str:
    """The ends of an interval are rounded outwards: it is never printed narrower than it is."""
    unit = 10 ** _decimals(end)
    return _digits(math.floor(end * unit + 1e-9) / unit)


def _ceil(end: float) -> str:
    unit = 10 ** _decimals(end)
    return _digits(math.ceil(end * unit - 1e-9) / unit)


def _decimals(ratio: float) -> int:
    return 2 if ratio < 1 else 1


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells)
