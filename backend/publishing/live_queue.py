"""The published order: what Label Studio serves next, as rows to print."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.errors import OrderError
from backend.images.source import browser_url
from backend.label_studio.client import Studio
from backend.label_studio.records import ProjectInfo
from backend.ranking.order import RankedTask
from backend.scoring.serving_model import model_behind
from backend.store.annotations import AnnotationStore
from backend.store.rounds import BASE, RoundStore
from backend.store.scores import Store
from backend.store.sent_versions import SentVersions


@dataclass
class OrderReport:
    """What was scored, ranked and published.

    `queue` holds the first places; the scores in it are 0..1, lower = more uncertain.
    `image_urls` says, by task id, where a browser finds the image. `label_config` is a hash of
    the config that it was made under, `last_task` the newest task in it, `scored_by` the version
    of the model whose scores these are: of a round, or "base".
    """

    project_id: int
    strategy: str
    scored_by: str
    scored: int = 0
    reused: int = 0
    ranked: int = 0
    label_config: str = ""
    last_task: int = 0
    model_version: str | None = None
    skipped: dict[int, str] = field(default_factory=dict)
    queue: list[RankedTask] = field(default_factory=list)
    image_urls: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def queue_rows(self) -> list[dict[str, Any]]:
        """The queue as `--json` prints it; `image_id` is the task id."""
        return [
            {
                "rank": task.rank,
                "image_id": task.task_id,
                "uncertainty_score": round(task.uncertainty_score, 6),
                "scores": {k: round(v, 6) for k, v in task.scores.items()},
                "picked_at_random": task.picked_at_random,
                "thumbnail": self.image_urls.get(task.task_id),
            }
            for task in self.queue
        ]

    def counts(self) -> dict[str, Any]:
        """What is worth keeping of the report when the queue has moved on."""
        return {
            "model_version": self.model_version,
            "strategy": self.strategy,
            "scored": self.scored,
            "skipped": len(self.skipped),
            "ranked": self.ranked,
            "label_config": self.label_config,
            "last_task": self.last_task,
        }

    def as_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "project_id": self.project_id,
            "strategy": self.strategy,
            "scored_by": self.scored_by,
            "model_version": self.model_version,
            "scored": self.scored,
            "skipped": [
                {"image_id": task_id, "reason": reason} for task_id, reason in self.skipped.items()
            ],
            "queue": self.queue_rows(),
        }


def adopt_published(store: Store, project: ProjectInfo) -> None:
    """Mark live what Label Studio serves, in case the run that published it died right after."""
    served = store.publication(project.id, project.model_version)
    if served is not None and served.state not in ("live", "shown"):
        store.mark_live(project.id, served.model_version)


def published_queue(studio: Studio, store: Store, project_id: int, limit: int) -> OrderReport:
    """What Label Studio serves next: the published order, less what is labelled by now.

    A pinned image that was never scored has a rank, and no row.

    Raises:
        OrderError: nothing is published for this project.
    """
    project = studio.project(project_id)
    adopt_published(store, project)
    live = store.publication(project_id)
    if live is None:
        raise OrderError(
            f"Project {project_id} has no published order: "
            f"run `python -m backend score {project_id}` first."
        )
    every_task = list(studio.tasks(project_id))
    unlabelled = {task.id for task in every_task if not task.is_labeled}
    ranks = store.ranks(live.model_version)
    open_ranks = [row for row in ranks if row.task_id in unlabelled][:limit]
    scored = store.scored_tasks(project_id, live.detector, [row.task_id for row in open_ranks])
    by_chance = AnnotationStore(store).held_out(project_id)
    queue = [
        RankedTask(
            row.rank,
            row.task_id,
            row.uncertainty_score,
            scored[row.task_id].scores,
            picked_at_random=row.task_id in by_chance,
        )
        for row in open_ranks
        if row.task_id in scored
    ]
    report = OrderReport(
        project_id=project_id,
        strategy=live.strategy,
        scored_by=model_behind(store, project_id, live.detector),
        ranked=live.ranked,
        label_config=config_hash(project.label_config),
        last_task=max((task.id for task in every_task), default=0),
        model_version=live.model_version,
        queue=queue,
        image_urls=image_urls(studio, {task_id: row.image_uri for task_id, row in scored.items()}),
    )
    stranger = SentVersions(store, project_id).stranger(project.model_version)
    if stranger:
        report.warnings.append(stranger)
    elif project.model_version != live.model_version:
        report.warnings.append(
            f"Label Studio serves {project.model_version or 'no version'!r} instead of this order: "
            f"run `python -m backend doctor {project_id}`"
        )
    serving = RoundStore(store).serving(project_id)
    serves = BASE if serving is None else serving.version
    if serves != report.scored_by:
        report.warnings.append(
            f"This order is of {report.scored_by}, and {serves} serves by now: the worker makes "
            f"a new one, or `python -m backend score {project_id}` does"
        )
    return report


def config_hash(label_config: str) -> str:
    """The same for the same label config."""
    return hashlib.sha256(label_config.encode()).hexdigest()[:12]


def image_urls(studio: Studio, addresses: Mapping[int, str]) -> dict[int, str]:
    """Task id -> where a browser that is logged in to Label Studio finds its image.

    Args:
        studio: Label Studio.
        addresses: task id -> the image's address as in the task's data.
    """
    return {
        task_id: browser_url(studio.public_url, task_id, address)
        for task_id, address in addresses.items()
    }
