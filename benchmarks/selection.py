"""How fast the diverse pick is, and whether it is the plain greedy pick: prints one JSON line.

    python -m benchmarks.selection [--quick]

Each measurement runs in a process of its own, so that no memory is left over from another:

- `pick`: lazy and plain greedy side by side on the same data, lazy before and after plain. The
  plain one reads the whole matrix once per pick, in float32; candidates that float32 cannot tell
  apart are compared exactly, so that both decide by the same numbers.
- `memory`: the highest resident set of a process that makes the data in place and picks, less
  what it was before the data (imports), over the size of the matrix. 1.0 is the matrix alone.
- `mapped`: `memory` with the matrix in a file that is mapped into memory, written by another
  process; the pages of the file that are resident count.
- `rank`: near-duplicates grouped, then picked.
- `again`: near-duplicates grouped with 1,000 new rows, where the groups of all others are known;
  all compared, then the new ones only, by turns.

Data: `uniform` embeddings have nothing in common; `scenes` are what cameras collect: themes, in
them scenes of very unequal size, in these views from nearly identical to merely related.
Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.diversity import (
    find_representatives,
    gamma_of,
    near_duplicate_groups,
    pick_diverse,
    rank,
)
from backend.selection.near_duplicates import UNREAD
from benchmarks.machine import cpu_model

DIMS = 512
BLOCK = 4096
WEIGHTS = (0.1, 0.4, 0.7, 1.0)
REPEATS = 3
NEW = 1000

Matrix = NDArray[np.float32]


# Data


def uniform(rng: np.random.Generator, rows: int) -> Matrix:
    """(rows, DIMS) unit rows in random directions, made in place."""
    matrix = np.empty((rows, DIMS), dtype=np.float32)
    for start in range(0, rows, BLOCK):
        block = matrix[start : start + BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return matrix


def scenes(rng: np.random.Generator, rows: int) -> Matrix:
    """(rows, DIMS) unit rows: views of rows / 50 scenes, which follow a power law in size."""
    count = max(rows // 50, 1)
    themes = uniform(rng, max(count // 40, 1))
    centres = themes[rng.integers(len(themes), size=count)] + 0.7 * uniform(rng, count)
    centres += 0.8 * uniform(rng, 1)  # encoders leave all images in one cone
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    size = 1 / np.arange(1, count + 1) ** 0.7
    spreads = np.array([0.02, 0.15, 0.5], dtype=np.float32)
    matrix = uniform(rng, rows)
    for start in range(0, rows, BLOCK):
        block = matrix[start : start + BLOCK]
        block *= rng.choice(spreads, size=(len(block), 1))
        block += centres[rng.choice(count, size=len(block), p=size / size.sum())]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return matrix


DATA: dict[str, Callable[[np.random.Generator, int], Matrix]] = {
    "uniform": uniform,
    "scenes": scenes,
}


def pool(data: str, rows: int, labels: int) -> tuple[Matrix, NDArray[np.float64], Matrix | None]:
    """Embeddings and utilities of a pool, and embeddings of labelled images from the same place."""
    rng = np.random.default_rng(0)
    matrix = DATA[data](rng, rows + labels)
    utilities = rng.beta(2, 4, size=rows)
    return matrix[labels:], utilities, matrix[:labels] if labels else None


# The plain algorithm


def on_grid(rows: Matrix) -> NDArray[np.float64]:
    """Unit rows rounded to multiples of 2**-24, between which float64 products are exact."""
    exact = rows.astype(np.float64)
    exact /= np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    gridded: NDArray[np.float64] = np.rint(exact * 2**24) / 2**24
    return gridded


def pick_diverse_plain(
    embeddings: Matrix,
    utilities: NDArray[np.float64],
    n: int,
    *,
    diversity_weight: float,
    labelled: Matrix | None,
) -> list[int]:
    """Pick `n` of unit rows, with every gain computed again after every choice."""
    weights = (utilities ** gamma_of(diversity_weight)).astype(np.float32)
    exact_weights = utilities ** gamma_of(diversity_weight)
    reach = np.full(len(embeddings), 2, dtype=np.float32)
    references = [] if labelled is None else list(on_grid(labelled))
    picks: list[int] = []
    if labelled is None:
        picks.append(int(utilities.argmax()))
    else:
        for start in range(0, len(embeddings), BLOCK):
            block = slice(start, start + BLOCK)
            reach[block] = 1 - (embeddings[block] @ labelled.T).max(axis=1)
    while True:
        if picks:
            reach[picks[-1]] = -1
            references.append(on_grid(embeddings[picks[-1:]])[0])
            np.minimum(reach, 1 - embeddings @ embeddings[picks[-1]], out=reach)
        if len(picks) == n:
            return picks
        gains = weights * reach
        # Far more than float32 products of unit rows are off by.
        rivals = np.flatnonzero(gains >= gains.max() - 1e-4 * weights[gains.argmax()])
        rivals = rivals[reach[rivals] > -1]
        nearest = (on_grid(embeddings[rivals]) @ np.array(references).T).max(axis=1)
        distances = np.where(nearest > 1 - 1e-6, 0, 1 - nearest)
        picks.append(int(rivals[(exact_weights[rivals] * distances).argmax()]))


# Measurements, each in a process of its own


def measure_pick(data: str, rows: int, n: int, labels: int) -> list[dict[str, Any]]:
    """Lazy and plain greedy side by side, for every weight."""
    embeddings, utilities, labelled = pool(data, rows, labels)
    about = {"data": data, "rows": rows, "picks": n, "labelled": labels}
    return [about | compare(embeddings, utilities, n, weight, labelled) for weight in WEIGHTS]


def compare(
    embeddings: Matrix,
    utilities: NDArray[np.float64],
    n: int,
    weight: float,
    labelled: Matrix | None,
) -> dict[str, Any]:
    """Lazy, plain, then lazy again: seconds of both, and whether all picks are the same."""

    def lazy() -> list[int]:
        pick = pick_diverse(embeddings, utilities, n, diversity_weight=weight, labelled=labelled)
        indices: list[int] = pick.indices.tolist()
        return indices

    def plain() -> list[int]:
        return pick_diverse_plain(
            embeddings, utilities, n, diversity_weight=weight, labelled=labelled
        )

    runs = [timed(lazy)]
    plain_seconds, expected = timed(plain)
    runs += [timed(lazy) for _ in range(REPEATS - 1)]
    seconds = statistics.median(took for took, _ in runs)
    return {
        "diversity_weight": weight,
        "lazy_seconds": round(seconds, 3),
        "lazy_runs": [round(took, 3) for took, _ in runs],
        "plain_seconds": round(plain_seconds, 3),
        "ratio": round(plain_seconds / seconds, 1),
        "identical": all(indices == expected for _, indices in runs),
    }


def measure_memory(data: str, rows: int, n: int, labels: int) -> dict[str, Any]:
    """The highest resident set of making the data and picking, over the size of the matrix."""
    before = peak_bytes()
    embeddings, utilities, labelled = pool(data, rows, labels)
    made = peak_bytes()
    seconds, _ = timed(lambda: pick_diverse(embeddings, utilities, n, labelled=labelled))
    size = embeddings.nbytes
    return {
        "data": data,
        "rows": rows,
        "picks": n,
        "labelled": labels,
        "diversity_weight": 0.4,
        "seconds": round(seconds, 3),
        "matrix_mb": round(size / 1e6),
        "data_alone_x": round((made - before) / size, 2),
        "peak_x": round((peak_bytes() - before) / size, 2),
    }


def measure_mapped(data: str, rows: int, n: int, labels: int) -> dict[str, Any]:
    """The highest resident set of picking from a mapped file, over the size of the matrix."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        write = f"import numpy as np; from benchmarks.selection import *; np.save({str(path)!r}, "
        write += f"DATA[{data!r}](np.random.default_rng(0), {rows}))"
        subprocess.run([sys.executable, "-c", write], check=True)
        before = peak_bytes()
        matrix = np.load(path, mmap_mode="r")
        utilities = np.random.default_rng(1).beta(2, 4, size=rows)
        seconds, _ = timed(lambda: pick_diverse(matrix, utilities, n))
    size = matrix.nbytes
    return {
        "data": data,
        "rows": rows,
        "picks": n,
        "labelled": labels,
        "seconds": round(seconds, 3),
        "matrix_mb": round(size / 1e6),
        "peak_x": round((peak_bytes() - before) / size, 2),
        "peak_with_imports_x": round(peak_bytes() / size, 2),
    }


def measure_again(data: str, rows: int, n: int, labels: int) -> dict[str, Any]:
    """Grouping all rows, and grouping them where only `NEW` of them are new."""
    embeddings, utilities, labelled = pool(data, rows + NEW, labels)
    old = np.sort(np.random.default_rng(1).permutation(rows + NEW)[:rows])
    found = find_representatives(embeddings[old], utilities[old], labelled=labelled)
    earlier = np.full(rows + NEW, UNREAD, dtype=np.intp)
    earlier[old] = np.where(found < 0, found, old[found])
    new_labelled = np.zeros(labels, dtype=np.bool_)
    seconds: dict[str, list[float]] = {"all": [], "new": []}
    groups = {}
    for _ in range(REPEATS):
        for side, known in (("all", None), ("new", earlier)):
            took, groups[side] = timed(
                lambda known=known: find_representatives(  # type: ignore[misc]
                    embeddings,
                    utilities,
                    labelled=labelled,
                    earlier=known,
                    new_labelled=None if known is None else new_labelled,
                )
            )
            seconds[side].append(round(took, 2))
    return {
        "data": data,
        "rows": rows,
        "new_rows": NEW,
        "labelled": labels,
        "all_seconds": seconds["all"],
        "new_seconds": seconds["new"],
        "ratio": round(statistics.median(seconds["all"]) / statistics.median(seconds["new"]), 1),
        "identical": bool((groups["all"] == groups["new"]).all()),
    }


def measure_rank(data: str, rows: int, n: int, labels: int) -> dict[str, Any]:
    """Grouping alone, and the whole rank."""
    embeddings, utilities, labelled = pool(data, rows, labels)
    grouping, groups = timed(lambda: near_duplicate_groups(embeddings))
    ranking, _ = timed(lambda: rank(embeddings, utilities, limit=n, labelled=labelled))
    return {
        "data": data,
        "rows": rows,
        "picks": n,
        "labelled": labels,
        "groups": len(np.unique(groups)),
        "group_seconds": round(grouping, 3),
        "rank_seconds": round(ranking, 3),
    }


MEASUREMENTS: dict[str, Callable[[str, int, int, int], Any]] = {
    "pick": measure_pick,
    "memory": measure_memory,
    "mapped": measure_mapped,
    "rank": measure_rank,
    "again": measure_again,
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak_bytes() -> int:
    """The highest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# The report


def apart(kind: str, data: str, rows: int, n: int, labels: int) -> Any:
    """Take one measurement in a new process."""
    print(f"{kind}: {n} of {rows} {data}, {labels} labelled ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.selection", "--only", kind, data]
    command += [str(number) for number in (rows, n, labels)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def machine() -> dict[str, Any]:
    """What the measurements ran on."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def report(*, quick: bool) -> dict[str, Any]:
    """Take all measurements."""
    rows, n, labels, large = (
        (10_000, 100, 200, 50_000) if quick else (200_000, 500, 2000, 1_000_000)
    )
    return {
        "benchmark": "selection",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "quick": quick,
        "machine": machine(),
        "dims": DIMS,
        "pick": [
            result
            for data in DATA
            for known in (0, labels)
            for result in apart("pick", data, rows, n, known)
        ],
        "memory": [apart("memory", data, rows, n, known) for data in DATA for known in (0, labels)],
        "large": [apart("memory", data, large, 2 * n, 0) for data in DATA],
        "mapped": [apart("mapped", data, large, 2 * n, 0) for data in DATA],
        "again": [apart("again", data, rows, n, labels) for data in DATA],
        "rank": [
            apart("rank", data, count, n, labels) for data in DATA for count in (rows // 4, rows)
        ],
    }


def main() -> None:
    """Print the report, or one measurement for the process that asked for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the data")
    parser.add_argument("--only", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        kind, data, *numbers = options.only
        result = MEASUREMENTS[kind](data, *(int(number) for number in numbers))
    else:
        result = report(quick=options.quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
