"""Removes what is not needed any more: old weights, exports, data sets and checkpoints."""

from __future__ import annotations

from collections.abc import Set

from backend.scoring.model_files import ModelFiles
from backend.settings import Settings
from backend.store.rounds import RoundStore
from backend.store.scores import Store

# How many models can still be promoted, or rolled back to.
KEPT_ROUNDS = 5


def clean_up(settings: Settings, store: Store, project_id: int, *, busy_jobs: Set[int]) -> int:
    """Remove weights and work folders of a project; returns how many files and folders went.

    The weights of the last `KEPT_ROUNDS` rounds and of as many promotions stay, and so do the
    folders of jobs that wait or run. What the others' weights were converted to goes with them.
    """
    from backend.vision.yolo import forget_detector

    rounds = RoundStore(store)
    rows = rounds.rounds(project_id)
    kept = {row.version for row in rows[-KEPT_ROUNDS:]}
    kept |= set(rounds.promoted(project_id)[-KEPT_ROUNDS:])
    for row in rows:
        if row.version not in kept:
            forget_detector(row.content_hash, settings.export_dir)
    files = ModelFiles(settings.trained_dir, project_id)
    return files.clean_up(versions=kept, job_ids=busy_jobs)
