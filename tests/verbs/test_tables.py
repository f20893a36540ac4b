"""What `rounds` and `jobs` print: whole at 80 columns, with what people look for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from backend.learning.edit_stats import Savings
from backend.learning.report import RoundsReport
from backend.learning.stopping import advise
from backend.publishing.live_queue import OrderReport
from backend.store.jobs import CANCELLED, DONE, FAILED, RUNNING, Job
from backend.store.rounds import RoundRow
from backend.verbs import jobs, learning, ordering

FIGURE = {"value": 0.612, "low": 0.55, "high": 0.67}
QUALITY = {
    "map50": FIGURE,
    "map50_95": FIGURE,
    "per_class": {"bolt": FIGURE},
    "images": 31,
    "boxes": 300,
}
NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def row(number: int, *, promoted: bool, reason: str, evaluated: bool = True) -> RoundRow:
    return RoundRow(
        *(12, number, number),
        state="judged",
        version=f"r{number}-12fb64f76626",
        labels=1234,
        judged_on=31,
        judgement={"new": QUALITY} if evaluated else {},
        promoted=promoted,
        reason=reason,
        seconds=3600,
    )


def test_rounds_fit_into_80_columns_with_version_and_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = (
        row(1, promoted=True, reason="mAP50 0.612 instead of 0.5"),
        row(2, promoted=False, reason="not evaluated: too few", evaluated=False),
    )
    report = RoundsReport(
        12,
        rows[0].version,
        rows,
        (Savings(), Savings()),
        Savings(),
        advise(rows, target_map50=0, accepted=(0, 0)),
    )

    learning._print_report(report)

    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(len(line) for line in lines if line[:1] in "┃│┏└") <= 80
    [figures] = [line for line in lines if line.startswith("│ r1-12fb64f76626 ")]
    assert "0.612 (0.55-0.67)" in figures
    assert "r1-12fb64f76626 promoted: mAP50 0.612 instead of 0.5" in lines
    assert "r2-12fb64f76626 not promoted: not evaluated: too few" in lines
    colour = report.advice.colour
    assert f"{colour}: {report.advice.told}" in lines
    assert "[/" not in printed


@pytest.fixture
def job() -> Job:
    return Job(
        *(7, 12, "train", DONE, {}, "12:train", 1, False, "", 0, 0, None, {}, {}, "", ()),
        *(NOW, NOW, NOW, NOW),
    )


@pytest.mark.parametrize(
    ("kind", "result", "said"),
    [
        ("score", {"scored": 3, "ranked": 240, "skipped": 2}, "3 scored, 240 ranked, 2 skipped"),
        ("publish", {"scored": 0, "ranked": 240, "skipped": 0}, "0 scored, 240 ranked"),
        ("assign", {"put_first": 5, "ranked": 240}, "5 put first of 240"),
        (
            "train",
            {"version": "r2-ab", "promoted": False, "reason": "worse"},
            "r2-ab not promoted: worse",
        ),
        ("train", {"version": "r1-ab", "promoted": True}, "r1-ab promoted"),
        ("auto-label", {"prelabelled": 9, "skipped": 1}, "9 pre-annotated, 1 skipped"),
        ("poll", {"read": 4, "train": True, "publish": False}, "4 tasks read; train begun"),
        ("poll", {"read": 0, "waits": "too few"}, "0 tasks read; too few"),
        ("clean-up", {"files": 3, "jobs": 20}, "3 files and 20 old jobs removed"),
    ],
)
def test_what_came_of_a_job(job: Job, kind: str, result: Mapping[str, Any], said: str) -> None:
    assert jobs.outcome(replace(job, kind=kind, result=result)) == said


def test_jobs_that_did_not_end_well(job: Job) -> None:
    assert jobs.outcome(replace(job, state=FAILED, error="no GPU")) == "no GPU"
    assert jobs.outcome(replace(job, state=CANCELLED)) == "stopped on request"
    running = replace(job, state=RUNNING, doing="training", seconds_left=61.0)
    assert jobs.outcome(running) == "training, about 61 s left"
    assert jobs.outcome(replace(job, result={})) == ""  # an older version kept none


def test_the_table_of_jobs_fits(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    reason = {"version": "r2-12fb64f76626", "promoted": False, "reason": "mAP50 is lower by 0.012"}
    jobs._print_jobs([replace(job, id=10_000, result=reason)], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "r2-12fb64f76626" in "".join(lines)


def test_many_tasks_that_are_skipped_are_a_few_lines_with_the_likely_cause(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = OrderReport(project_id=12, strategy="entropy", scored_by="base")
    report.skipped = dict.fromkeys(range(240), "404")
    ordering.print_order_notes(report)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert "skipped 230 more tasks" in lines[-1]
    assert "LABEL_STUDIO_PUBLIC_URL" in lines[-1]
