"""Publishing an order: what makes "Label All Tasks" serve the hardest images first.

An order is a set of predictions under a version of its own, with scores that rise with the rank.
It is imported and checked beside the old one; then one request switches `model_version` and
`sampling` together. Until that moment annotators are served the old order, after it the new one,
and a crash anywhere leaves one or the other. `remove_versions` deletes what is no longer needed.

Steps, in order: `imported`, `checked`, `switched`, `confirmed`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError, PublishError, RefusedError
from backend.label_studio.client import UNCERTAINTY_SAMPLING, Studio
from backend.label_studio.importing import import_rows
from backend.label_studio.transport import one_line
from backend.label_studio.versions import fresh_version, is_ours

__all__ = [
    "OrderedTask",
    "Published",
    "fresh_version",
    "is_order_live",
    "publish",
    "rank_score",
    "remove_versions",
    "restore_order",
]

logger = logging.getLogger(__name__)

# Reading all predictions back costs about 0.4 ms each; above this many, a sample is read instead.
READ_BACK_LIMIT = 20_000
SAMPLE = 12

ATTEMPTS = 3


@dataclass(frozen=True)
class OrderedTask:
    """One task of an order: its place is its place in the sequence.

    Args:
        task_id: the task.
        result: the boxes annotators are shown, as `results.to_results` makes them; may be empty.
    """

    task_id: int
    result: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Published:
    """What a publish did.

    Args:
        version: the version that is now live.
        count: tasks in its order.
        replaced: the project's `model_version` until then; "" for none.
        vanished: tasks left out because they were deleted in Label Studio meanwhile.
    """

    version: str
    count: int
    replaced: str = ""
    vanished: tuple[int, ...] = ()


def rank_score(rank: int, count: int) -> float:
    """The prediction score of a rank: (rank + 0.5) / count, in 0..1, lower = served earlier.

    >>> rank_score(0, 2), rank_score(1, 2)
    (0.25, 0.75)
    """
    return (rank + 0.5) / count


def publish(
    studio: Studio,
    project_id: int,
    items: Sequence[OrderedTask],
    *,
    version: str,
    on_progress: Callable[[int, int], None] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    before_import: Callable[[str, Sequence[OrderedTask]], None] = lambda version, items: None,
    before_switch: Callable[[str, str], None] = lambda version, replaced: None,
) -> Published:
    """Make Label Studio serve `items` in their order.

    Tasks deleted in Label Studio meanwhile are left out; tasks annotated meanwhile do no harm.

    Args:
        studio: where to.
        project_id: the project.
        items: the order, hardest first, each task once.
        version: a name from `fresh_version`.
        on_progress: called with (predictions imported, predictions in all).
        on_step: called with the name of each step when it is done.
        before_import: called with the version and the tasks that are about to be sent; more than
            once where tasks are deleted meanwhile.
        before_switch: called with the version that is about to be switched to and the one that is
            served until then; where it raises, nothing is switched.

    Raises:
        PublishError: nothing was switched, the old order is still served; or the switch could not
            be confirmed, which the message says.
        LabelStudioError: Label Studio is down or refuses the account; nothing was switched.
    """
    _check_arguments(items, version)
    name, wanted, vanished = _import_existing(
        studio, project_id, items, version, on_progress, on_step, before_import
    )
    replaced = studio.project(project_id).model_version
    before_switch(name, replaced)
    _switch(studio, project_id, name, on_step)
    return Published(version=name, count=len(wanted), replaced=replaced, vanished=tuple(vanished))


def remove_versions(
    studio: Studio, project_id: int, versions: Sequence[str], *, hold: Callable[[], None]
) -> list[str]:
    """Delete these versions, but never the one that is served at that moment.

    Failures of Label Studio are logged and leave a version for the next time.

    Args:
        studio: where.
        project_id: the project.
        versions: of orders or of queues.
        hold: called before each deletion; where it raises, nothing more is deleted.

    Returns:
        What was deleted.
    """
    removed = []
    for name in versions:
        hold()
        try:
            if studio.project(project_id).model_version == name:
                continue
            studio.delete_model_version(project_id, name)
        except LabelStudioError as error:
            logger.warning("Version %s stays for now: %s", name, one_line(error))
        else:
            removed.append(name)
    return removed


def is_order_live(studio: Studio, project_id: int, version: str) -> bool:
    """Whether annotators of the project are served by the order `version` right now.

    False too when the project's `model_version` holds a backend's title: connecting a backend
    sets it so, and then the sampler matches nothing. `restore_order` repairs it.
    """
    project = studio.project(project_id)
    return project.model_version == version and project.sampling == UNCERTAINTY_SAMPLING


def restore_order(studio: Studio, project_id: int, version: str) -> bool:
    """Switch back to our order `version` where a backend's title, or nothing, took its place.

    Another version, or another sampling, that was set on purpose is left alone.

    Returns:
        Whether the order is live now.
    """
    project = studio.project(project_id)
    current = project.model_version
    if current not in ("", version):
        titles = {backend.title for backend in studio.backends(project_id)}
        if current not in titles:
            return False
    elif current == version:
        return project.sampling == UNCERTAINTY_SAMPLING
    try:
        studio.set_order(project_id, version)
    except RefusedError:
        return False
    return True


def _check_arguments(items: Sequence[OrderedTask], version: str) -> None:
    if not is_ours(version):
        raise PublishError(f"Version {version!r} must come from fresh_version()")
    if not items:
        raise PublishError("There is nothing to publish: no unlabelled task was ranked")
    twice = [task for task, times in Counter(i.task_id for i in items).items() if times > 1]
    if twice:
        raise PublishError(f"Task {twice[0]} is ranked twice: rank every task once")


def _import_existing(
    studio: Studio,
    project_id: int,
    items: Sequence[OrderedTask],
    version: str,
    on_progress: Callable[[int, int], None] | None,
    on_step: Callable[[str], None],
    before_import: Callable[[str, Sequence[OrderedTask]], None],
) -> tuple[str, list[OrderedTask], list[int]]:
    """Import and check; once more without the tasks that turn out to be deleted.

    Returns:
        The version that is complete, its items, and the deleted tasks.
    """
    wanted = list(items)
    vanished: list[int] = []
    for attempt in range(1, ATTEMPTS + 1):
        name = version if attempt == 1 else f"{version}-try{attempt}"
        before_import(name, wanted)
        gone = _import_and_check(studio, project_id, wanted, name, on_progress, on_step)
        if not gone:
            return name, wanted, vanished
        vanished += sorted(gone)
        wanted = [item for item in wanted if item.task_id not in gone]
        if not wanted:
            raise PublishError(
                f"All tasks of the order were deleted from project {project_id}: rank it again"
            )
        logger.warning(
            "%d ranked tasks were deleted in Label Studio; publishing again without them", len(gone)
        )
    raise PublishError(
        f"Tasks of project {project_id} keep being deleted while an order is published; the old "
        "order is still served: publish again when the deletions are over"
    )


def _import_and_check(
    studio: Studio,
    project_id: int,
    items: Sequence[OrderedTask],
    version: str,
    on_progress: Callable[[int, int], None] | None,
    on_step: Callable[[str], None],
) -> set[int]:
    """Import `items` as `version` and check them; returns the tasks that no longer exist."""
    if studio.model_versions(project_id).get(version, 0):
        raise PublishError(f"Version {version} exists already: take a new one from fresh_version()")
    rows = _rows(items, version)
    try:
        import_rows(studio, project_id, rows, version, on_progress)
    except RefusedError as error:
        gone = _gone(studio, project_id, items) if error.status == 400 else set()
        if gone:
            return gone
        raise PublishError(f"The old order is still served. {error}") from None
    on_step("imported")
    gone = _check(studio, project_id, rows, version)
    if not gone:
        on_step("checked")
    return gone


def _rows(items: Sequence[OrderedTask], version: str) -> list[dict[str, Any]]:
    return [
        {
            "task": item.task_id,
            "result": list(item.result),
            "score": rank_score(rank, len(items)),
            "model_version": version,
        }
        for rank, item in enumerate(items)
    ]


def _gone(studio: Studio, project_id: int, items: Sequence[OrderedTask]) -> set[int]:
    """The ranked tasks that are no longer in the project."""
    there = {task.id for task in studio.tasks(project_id)}
    return {item.task_id for item in items} - there


def _check(
    studio: Studio, project_id: int, rows: Sequence[Mapping[str, Any]], version: str
) -> set[int]:
    """Read the import back: the right number, once a task, with the scores sent.

    Returns the tasks that vanished after their prediction was made, and with it.
    """
    counts = studio.model_versions(project_id)
    if counts.get(version, 0) != len(rows):
        there = {task.id for task in studio.tasks(project_id)}
        gone = {int(row["task"]) for row in rows} - there
        if gone and counts.get(version, 0) == len(rows) - len(gone):
            return gone
        raise PublishError(
            f"Label Studio holds {counts.get(version, 0)} predictions of {version} instead of "
            f"{len(rows)}. The old order is still served: publish again"
        )
    if sum(counts.values()) <= READ_BACK_LIMIT:
        found = studio.predictions_of(project_id, version)
        expected = {int(row["task"]): float(row["score"]) for row in rows}
    else:
        step = max(1, len(rows) // SAMPLE)
        some = [*rows[:3], *rows[::step], *rows[-1:]]
        expected = {int(row["task"]): float(row["score"]) for row in some}
        found = [
            prediction
            for task_id in expected
            for prediction in studio.predictions_of_task(task_id)
            if prediction.model_version == version
        ]
    seen = {prediction.task_id: prediction.score for prediction in found}
    wrong = [t for t, score in expected.items() if not _same_score(seen.get(t), score)]
    if wrong or len(found) != len(expected):
        raise PublishError(
            f"Label Studio gave back another order than was sent as {version} (task "
            f"{wrong[0] if wrong else 'twice'}). The old order is still served: publish again"
        )
    return set()


def _same_score(seen: float | None, sent: float) -> bool:
    return seen is not None and abs(seen - sent) <= 1e-12


def _switch(studio: Studio, project_id: int, version: str, on_step: Callable[[str], None]) -> None:
    try:
        studio.set_order(project_id, version)
    except RefusedError as error:
        raise PublishError(f"The old order is still served. {error}") from None
    on_step("switched")
    if not is_order_live(studio, project_id, version):
        project = studio.project(project_id)
        raise PublishError(
            f"Project {project_id} was switched to {version}, but now has model version "
            f"{project.model_version!r} and {project.sampling!r}: someone changed it just "
            "now; publish again"
        )
    on_step("confirmed")
