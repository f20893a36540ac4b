"""Getting many predictions into Label Studio, each exactly once.

Nothing is ever sent a second time unless it is certain that nothing was made of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backend.errors import LabelStudioError, PublishError, RefusedError, UnreachableError
from backend.label_studio.client import Studio

logger = logging.getLogger(__name__)

# Every import makes Label Studio recount all tasks of the project: few large calls. Proxies in
# front of it end requests that are too large (nginx: 200 MB) or too long (often 90 s).
BATCH_ITEMS = 5_000
BATCH_BYTES = 16_000_000

# How long an import that ended without an answer is waited for.
ARRIVAL_S = 60.0


def import_rows(
    studio: Studio,
    project_id: int,
    rows: Sequence[dict[str, Any]],
    version: str,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    there: int = 0,
) -> None:
    """Import all `rows`, which are predictions of `version`, in few large requests.

    Args:
        studio: where to.
        project_id: the project.
        rows: as `Studio.import_predictions` takes them.
        version: their `model_version`.
        on_progress: called with (predictions imported, predictions in all).
        there: predictions of that version that the project has already.

    Raises:
        PublishError: Label Studio made fewer predictions than were sent.
        RefusedError: it refused a request; earlier ones are done.
        UnreachableError: a request ended without an answer and without an effect.
    """
    done = 0
    for batch in _batches(rows):
        _import_batch(studio, project_id, batch, version, there + done)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(rows))


def _batches(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut into requests of at most BATCH_ITEMS rows and about BATCH_BYTES bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        weight = len(json.dumps(row))
        if batch and (len(batch) >= BATCH_ITEMS or size + weight > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += weight
    if batch:
        yield batch


def _import_batch(
    studio: Studio,
    project_id: int,
    batch: Sequence[dict[str, Any]],
    version: str,
    done: int,
) -> None:
    """Import one batch, once, after `done` predictions of that version."""
    try:
        created = studio.import_predictions(project_id, batch)
    except RefusedError as error:
        if error.status == 413 and len(batch) > 1:  # too large for a proxy: nothing was made
            half = len(batch) // 2
            _import_batch(studio, project_id, batch[:half], version, done)
            _import_batch(studio, project_id, batch[half:], version, done + half)
            return
        if error.status < 500 or not _arrived(studio, project_id, version, done + len(batch)):
            raise
        return
    except UnreachableError:
        if not _arrived(studio, project_id, version, done + len(batch)):
            raise
        return
    if created != len(batch):
        raise PublishError(
            f"Label Studio made {created} of {len(batch)} predictions of {version}: it drops those "
            "that do not fit the label config. The old order is still served; `doctor` compares "
            "the label config with the model"
        )


def _arrived(studio: Studio, project_id: int, version: str, expected: int) -> bool:
    """Whether an import that ended without an answer was done all the same.

    Label Studio makes the predictions and then recounts the project's tasks, which may outlast the
    patience of a proxy: the predictions are there, and the answer never comes.
    """
    deadline = time.monotonic() + ARRIVAL_S
    while time.monotonic() < deadline:
        with contextlib.suppress(LabelStudioError):
            if studio.model_versions(project_id).get(version, 0) == expected:
                logger.warning("Label Studio imported a batch without saying so; going on")
                return True
        time.sleep(ARRIVAL_S / 12)
    return False
