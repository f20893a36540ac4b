"""What no one will ask for again goes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from backend.loop.cleaning import KEPT_ROUNDS, clean_up
from backend.loop.model_files import ModelFiles
from backend.loop.round_store import RoundStore
from backend.loop.store import Store
from backend.settings import load_settings


def test_the_newest_rounds_and_the_promoted_ones_stay(store: Store, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    assert clean_up(settings, store, 3, busy_jobs=set()) == 0
    rounds, files = RoundStore(store), ModelFiles(settings.trained_dir, 3)
    for job in range(1, KEPT_ROUNDS + 4):
        weights = files.work_folder(job) / "weights.pt"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights %d" % job)
        row = rounds.begin(3, job)
        version, digest = files.keep(weights, row.round)
        row = replace(row, state="judged", version=version, content_hash=digest)
        rounds.close(replace(row, promoted=job == 1))
    busy = {KEPT_ROUNDS + 3}
    # Rounds 2 and 3, and all work folders but the busy one.
    assert clean_up(settings, store, 3, busy_jobs=busy) == 2 + KEPT_ROUNDS + 2
    for row in rounds.rounds(3):
        is_there = (settings.trained_dir / "3" / f"{row.version}.pt").exists()
        assert is_there is (row.round not in (2, 3))
    assert files.work_folder(KEPT_ROUNDS + 3).exists()
    assert clean_up(settings, store, 3, busy_jobs=busy) == 0
