"""The Label Studio ML backend: `HardestFirst`, for label-studio-ml's own servers.

Runs under label-studio-ml 1.0.9 (`HardestFirst(label_config, train_output, **kwargs)`) and under
2.x (`HardestFirst(project_id, label_config)`, made anew for each request). `backend.server` speaks
the same protocol without label-studio-ml, through the same `Predictor`.
"""

from __future__ import annotations

from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.jobs.assembly import shared_queue, take_up_event
from backend.label_studio.protocol import project_number
from backend.loop.assembly import shared_predictor


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
        # Label Studio asks about one project at a time; 1.0.9 tells which only through the tasks.
        project_id = project_number(tasks[0].get("project")) if tasks else None
        if project_id is None:
            return [[] for _ in tasks]
        return shared_predictor().predict(project_id, tasks, self.label_config)

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Take up an event: the worker (`python -m backend worker`) reads, trains and ranks anew.

        1.0.9 calls `fit((), event=, data=)`, 2.x `fit(event, data)`, by name or not.
        """
        given = [value for value in args if isinstance(value, (str, dict))]
        event = kwargs.get("event") or next((x for x in given if isinstance(x, str)), "")
        data = kwargs.get("data") or next((x for x in given if isinstance(x, dict)), {})
        project_id = project_number(data.get("project"))
        if project_id is not None:
            take_up_event(shared_queue(), event, project_id)
        return {}
