"""What the documents say of savings is what the kept results say."""

from __future__ import annotations

import json
import re

import pytest

from backend.simulate.analysis import analyse, analyse_otherwise
from backend.simulate.records import parse_run
from backend.simulate.report import Facts, as_markdown
from tests.test_docs import README, ROOT, cells

RESULTS = ROOT / "benchmarks" / "results"
SAVINGS = (ROOT / "docs" / "savings.md").read_text()
POOLS = sorted(folder.name for folder in RESULTS.iterdir() if folder.is_dir())


def table(pool: str, title: str) -> dict[str, list[str]]:
    """Arm -> the further cells of its row in a table of a pool's report."""
    report = (RESULTS / pool / "report.md").read_text()
    section = report.partition(f"\n## {title}")[2].partition("\n## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[2:]}


def at_90_percent(pool: str) -> dict[str, list[str]]:
    return table(pool, "90% of the whole pool")


def test_every_pool_was_replayed_with_enough_arms_and_seeds() -> None:
    assert POOLS == ["A", "B", "C", "bccd"]
    for pool in POOLS:
        found = at_90_percent(pool)
        for arm in ("random", "random_deduplicated", "entropy", "diverse_uncertainty"):
            assert int(found[arm][3]) >= (5 if pool == "C" else 3), (pool, arm)


@pytest.mark.parametrize("pool", POOLS)
def test_a_kept_report_is_what_its_runs_say(pool: str) -> None:
    kept = json.loads((RESULTS / pool / "report.json").read_text())
    facts = Facts(**kept["facts"])
    runs = [parse_run(run) for run in kept["runs"]]
    analysis = analyse(runs, cost="images", class_boxes=facts.class_boxes)
    others = analyse_otherwise(runs, cost="images", class_boxes=facts.class_boxes)
    assert (RESULTS / pool / "report.md").read_text() == as_markdown(analysis, others, facts)


@pytest.mark.parametrize("pool", POOLS)
def test_the_table_of_savings_is_that_of_the_reports(pool: str) -> None:
    rows = [cells(line) for line in SAVINGS.splitlines() if line.startswith(f"| {pool} |")]
    (row,) = rows
    found = at_90_percent(pool)
    needed, saving, claimed, seeds = found["diverse_uncertainty"]
    images, boxes, effort = table(pool, "90%, counted otherwise")["diverse_uncertainty"]
    assert saving == images
    assert row[1:] == [found["random"][0], needed, saving, claimed, boxes, effort, seeds]


def test_the_readme_claims_no_more_than_the_results() -> None:
    claims = set(re.findall(r"\b(\d+(?:\.\d+)?x)\b", README))
    allowed = {at_90_percent(pool)["diverse_uncertainty"][2] for pool in POOLS}
    for pool in POOLS:
        *_, effort = table(pool, "90%, counted otherwise")["diverse_uncertainty"]
        lower_end = re.search(r"\((?:from )?([\d.]+)", effort)
        allowed |= {f"{lower_end[1]}x"} if lower_end else set()
    assert claims <= allowed
