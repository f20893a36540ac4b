"""The Label Studio ML backend: `HardestFirst`, for label-studio-ml's own servers.

Runs under label-studio-ml 1.0.9 (`HardestFirst(label_config, train_output, **kwargs)`) and under
2.x (`HardestFirst(project_id, label_config)`, made for each request). `backend.server` speaks
the same protocol without label-studio-ml, through the same `Predictor`.
"""

from __future__ import annotations

import logging
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.assembly import shared_predictor, shared_queue
from backend.errors import LabelConfigError
from backend.jobs.events import take_up_event
from backend.label_studio.protocol import project_number

logger = logging.getLogger(__name__)


class HardestFirst(LabelStudioMLBase):  # type: ignore[misc]
    """Pre-annotates tasks with detections; the lowest score is the task to label first."""

    def setup(self) -> None:
        """Tell Label Studio the published version. Called by label-studio-ml 2.x only."""
        project_id = project_number(self.project_id)
        if project_id is not None:
            self.set("model_version", shared_predictor().published_version(project_id))

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any] | list[Any]]:
        """One prediction for each task, in order; see `Predictor.predict`."""
        # Label Studio asks about one project at a time. 2.x knows which; 1.0.9 says so only in
        # the tasks.
        named = [project_number(task.get("project")) for task in tasks if isinstance(task, dict)]
        named.append(project_number(getattr(self, "project_id", None)))
        project_id = next((number for number in named if number is not None), None)
        if project_id is None:
            logger.warning(
                "nothing is predicted for %d tasks: neither they nor the request name a project",
                len(tasks),
            )
            return [[] for _ in tasks]
        try:
            return shared_predictor().predict(project_id, tasks, self.label_config)
        except LabelConfigError as error:
            logger.warning("nothing is predicted for project %s: %s", project_id, error)
            return [[] for _ in tasks]

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Take up an event: the worker (`python -m backend worker`) reads, trains and re-ranks.

        1.0.9 calls `fit((), event=, data=)`, 2.x `fit(event, data)`, by name or not.
        """
        given = [value for value in args if isinstance(value, (str, dict))]
        event = kwargs.get("event") or next((x for x in given if isinstance(x, str)), "")
        data = kwargs.get("data") or next((x for x in given if isinstance(x, dict)), {})
        project_id = project_number(data.get("project"))
        if project_id is not None:
            take_up_event(shared_queue(), event, project_id)
        return {}
