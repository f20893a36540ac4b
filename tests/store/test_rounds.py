"""Rounds, promotions and answers in a real SQLite and a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from backend.errors import HardestFirstError, WeightsError
from backend.scoring.model_files import ModelFiles
from backend.store.annotations import AnnotationStore, StoredAnnotation
from backend.store.rounds import RoundRow, RoundStore
from backend.store.scores import Store


@pytest.fixture
def rounds(store: Store) -> RoundStore:
    return RoundStore(store)


@pytest.fixture
def answers(store: Store) -> AnnotationStore:
    return AnnotationStore(store)


def evaluated(rounds: RoundStore, job_id: int, *, promoted: bool, project: int = 3) -> RoundRow:
    row = rounds.begin(project, job_id)
    row = replace(
        row, state="judged", version=f"r{row.round}-abc", detector=f"d{row.round}",
        promoted=promoted, judgement={"agreement": 0.5},
    )  # fmt: skip
    rounds.close(row)
    return row


def test_a_project_begins_with_the_base_weights(rounds: RoundStore) -> None:
    assert rounds.rounds(3) == []
    assert rounds.serving(3) is None
    with pytest.raises(HardestFirstError, match="nothing to roll back to"):
        rounds.roll_back(3)


def test_a_repeated_job_goes_on_with_its_own_round(rounds: RoundStore) -> None:
    first = rounds.begin(3, job_id=11)
    assert rounds.begin(3, job_id=11) == first
    assert rounds.rounds(3) == []
    # It came to nothing; its number is free for the next training.
    assert rounds.begin(3, job_id=12).round == first.round == 1


def test_a_round_and_its_promotion_are_kept_once(rounds: RoundStore) -> None:
    row = evaluated(rounds, 11, promoted=True)
    rounds.close(row)  # the attempt before was killed right after it
    assert rounds.rounds(3) == [row]
    assert rounds.serving(3) == row
    assert rounds.promoted(3) == [row.version]
    assert rounds.serving(4) is None


def test_a_round_that_is_not_promoted_serves_when_somebody_says_so(rounds: RoundStore) -> None:
    first = evaluated(rounds, 11, promoted=True)
    second = evaluated(rounds, 12, promoted=False)
    assert rounds.serving(3) == first
    rounds.promote(3, second.version)
    assert rounds.serving(3) == second
    with pytest.raises(HardestFirstError, match="already"):
        rounds.promote(3, second.version)
    with pytest.raises(HardestFirstError, match="it has base, r1-abc, r2-abc"):
        rounds.promote(3, "r9-xyz")


def test_rolling_back_goes_step_by_step_to_the_base_weights(rounds: RoundStore) -> None:
    for job in (11, 12):
        evaluated(rounds, job, promoted=True)
    assert rounds.roll_back(3) == ("r2-abc", "r1-abc")
    assert rounds.roll_back(3) == ("r1-abc", "base")
    assert rounds.serving(3) is None
    rounds.promote(3, "r2-abc")
    assert rounds.roll_back(3) == ("r2-abc", "base")


def answer(annotation_id: int, task_id: int, *, skipped: bool = False) -> StoredAnnotation:
    return StoredAnnotation(
        annotation_id=annotation_id, task_id=task_id, annotator=1, was_cancelled=skipped,
        ground_truth=False, lead_time=2.5, result=[{"id": "a"}], shown=[{"id": "b"}],
        updated_at=datetime(2026, 11, 22, tzinfo=timezone.utc),
    )  # fmt: skip


def test_answers_are_replaced_task_by_task(answers: AnnotationStore) -> None:
    assert answers.by_task(3) == {}
    answers.replace(3, 7, [answer(1, 7), answer(2, 7, skipped=True)])
    answers.replace(3, 8, [answer(3, 8, skipped=True)])
    answers.replace(4, 9, [answer(4, 9)])
    assert answers.by_task(3) == {
        7: [answer(1, 7), answer(2, 7, skipped=True)],
        8: [answer(3, 8, skipped=True)],
    }
    assert answers.answered_tasks(3) == {7}
    answers.replace(3, 7, [])
    assert answers.answered_tasks(3) == set()
    assert answers.forget_absent(3, [7]) == 1
    assert answers.by_task(3) == {}
    assert answers.answered_tasks(4) == {9}


def test_a_task_stays_held_out(answers: AnnotationStore) -> None:
    answers.hold_out(3, [1, 2])
    answers.hold_out(3, [2, 3])
    answers.hold_out(3, [])
    assert answers.held_out(3) == {1, 2, 3}
    assert answers.held_out(4) == set()


def test_a_watched_project_is_due_until_it_was_polled(answers: AnnotationStore) -> None:
    now = datetime.now(timezone.utc)
    assert answers.due(now) == []
    answers.watch(3)
    answers.watch(3)
    assert answers.due(now) == [3]
    answers.polled(3)
    assert answers.due(now) == []
    assert answers.due(now + timedelta(minutes=1)) == [3]
    assert answers.read_until(3) is None
    answers.set_read_until(3, now)
    assert answers.read_until(3) == now


def test_a_kept_value_is_the_first_one(answers: AnnotationStore) -> None:
    assert answers.kept("secret", fresh="one") == "one"
    assert answers.kept("secret", fresh="two") == "one"


def test_trained_weights_are_loaded_only_as_they_were_written(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path / "trained", 3)
    made = files.work_folder(11) / "weights.pt"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"weights")
    version, digest = files.keep(made, 1)
    assert version == f"r1-{digest[:12]}"
    assert files.keep(made, 1) == (version, digest)
    assert files.find(version, digest).read_bytes() == b"weights"
    files.find(version, digest).write_bytes(b"other code")
    with pytest.raises(WeightsError, match="were changed after they were trained"):
        files.find(version, digest)
    assert files.clean_up(versions=[], job_ids=[11]) == 1
    with pytest.raises(WeightsError, match="roll back"):
        files.find(version, digest)
    assert made.exists()
    assert files.clean_up(versions=[], job_ids=[]) == 1
    assert not made.exists()
