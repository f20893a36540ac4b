"""What an engine is: it runs a scorer over tasks, somewhere, and reports what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from backend.label_studio.records import TaskRef
from backend.scoring.scorer import Scorer, ScoringReport


class Engine(Protocol):
    """Scores and embeds those of `tasks` that are not stored yet, as `Scorer.score` does."""

    def __call__(
        self,
        scorer: Scorer,
        project_id: int,
        tasks: Sequence[TaskRef],
        /,
        *,
        label_config: str,
        on_progress: Callable[[int, int], None],
    ) -> ScoringReport:
        """Score; all that was scored is in the store, also where this raises.

        Args:
            scorer: the one that serves the project; other machines must have the same models.
            project_id: the project.
            tasks: its tasks.
            label_config: names the image in a task's data.
            on_progress: called with (done, total), in tasks.

        Raises:
            EngineError: the engine is missing, cannot be used here, or failed.
            HardestFirstError: as `Scorer.score`.
        """


embedded: Engine = Scorer.score
"""In this process."""
