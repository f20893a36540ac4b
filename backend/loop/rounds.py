"""One round: list a project's tasks, score what is new, rank the unlabelled, publish the order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import HardestFirstError
from backend.label_studio.client import Studio, TaskRef
from backend.label_studio.label_map import LabelMap
from backend.label_studio.publish import RankedResults, fresh_version, publish
from backend.label_studio.results import to_results
from backend.label_studio.tabs import show_tab
from backend.loop.ranking import RankedTask, RankOptions, load_embeddings, rank_tasks
from backend.loop.scoring import Scorer
from backend.loop.store import Publication, RankRow, ScoreColumns, Store
from backend.settings import Settings

logger = logging.getLogger(__name__)

# (what is done, how much of it is done, how much there is)
Progress = Callable[[str, int, int], None]


@dataclass
class RoundReport:
    """What one round did. `queue` holds the first places, `scores` in it are 0..1, lower = more
    uncertain."""

    project_id: int
    strategy: str
    model_version: str | None
    scored: int
    reused: int
    ranked: int
    skipped: dict[int, str] = field(default_factory=dict)
    queue: list[RankedTask] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self, thumbnails: dict[int, str]) -> dict[str, Any]:
        """The report in the shape that `score --json` prints; `image_id` is the task id."""
        return {
            "project_id": self.project_id,
            "strategy": self.strategy,
            "model_version": self.model_version,
            "scored": self.scored,
            "skipped": [
                {"image_id": task_id, "reason": reason} for task_id, reason in self.skipped.items()
            ],
            "queue": [queue_row(task, thumbnails.get(task.task_id)) for task in self.queue],
        }
