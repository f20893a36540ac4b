"""The weights of trained models, on disk under DATA_DIR.

A .pt file is code. Besides MODEL_DIR this is the only place weights are loaded from, and only
files whose content is what training wrote.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from backend.errors import WeightsError
from backend.vision.weights import content_hash


class ModelFiles:
    """The trained models of one project.

    Args:
        trained_dir: `Settings.trained_dir`.
        project_id: the project.
    """

    def __init__(self, trained_dir: Path, project_id: int) -> None:
        self._folder = trained_dir / str(project_id)

    def work_folder(self, job_id: int) -> Path:
        """Where the training of a job keeps its data set and checkpoints."""
        return self._folder / f"job-{job_id}"

    def keep(self, weights: Path, round_number: int) -> tuple[str, str]:
        """Keep weights under their version; returns the version and the content hash.

        Raises:
            WeightsError: they cannot be copied.
        """
        digest = content_hash(weights)
        version = f"r{round_number}-{digest[:12]}"
        path = self._path(version)
        if not path.exists():
            partial = path.with_suffix(".partial")
            try:
                shutil.copyfile(weights, partial)
                partial.replace(path)
            except OSError as error:
                raise WeightsError(
                    f"The trained weights cannot be kept in {self._folder} ({error.strerror}): "
                    "make room or correct DATA_DIR, and train again"
                ) from None
        return version, digest

    def find(self, version: str, digest: str) -> Path:
        """The weights of a version.

        Raises:
            WeightsError: they are gone, or not what training wrote.
        """
        path = self._path(version)
        if not path.is_file():
            raise WeightsError(
                f"The weights of {version} are not in {self._folder}: every machine needs the same "
                "DATA_DIR; or roll back with `python -m backend rollback`"
            )
        if content_hash(path) != digest:
            raise WeightsError(
                f"The weights of {version} were changed after they were trained, so they are not "
                "loaded: restore the file, or roll back with `python -m backend rollback`"
            )
        return path

    def clean_up(self, *, versions: Iterable[str], job_ids: Iterable[int]) -> int:
        """Remove all weights but those of `versions`, and work folders but those of `job_ids`."""
        kept = {self._path(version) for version in versions}
        kept |= {self.work_folder(job_id) for job_id in job_ids}
        gone = 0
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            gone += 1
        return gone

    def remove(self) -> None:
        """Remove all that is kept of the project."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, version: str) -> Path:
        return self._folder / f"{version}.pt"
