"""Removes what no one will ask for again: old weights, their data sets and checkpoints."""

from __future__ import annotations

from collections.abc import Set

from backend.loop.model_files import ModelFiles
from backend.loop.round_store import RoundStore
from backend.loop.store import Store
from backend.settings import Settings

# How many models can still be promoted, or rolled back to.
KEPT_ROUNDS = 5


def clean_up(settings: Settings, store: Store, project_id: int, *, busy_jobs: Set[int]) -> int:
    """Remove weights and work folders of a project; returns how many files and folders went.

    The weights of the last `KEPT_ROUNDS` rounds and of as many promotions stay, and so do the
    folders of jobs that wait or run.
    """
    rounds = RoundStore(store)
    kept = {row.version for row in rounds.rounds(project_id)[-KEPT_ROUNDS:]}
    kept |= set(rounds.promoted(project_id)[-KEPT_ROUNDS:])
    files = ModelFiles(settings.trained_dir, project_id)
    return files.clean_up(versions=kept, job_ids=busy_jobs)
