"""The few Label Studio calls this project makes, over label-studio-sdk.

Never `GET /api/projects/ID/next`: it locks a task for the caller. Reads are retried; an import is
not, for a repeated import doubles predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.records import (
    BackendInfo,
    PredictionRef,
    ProjectInfo,
    Release,
    TaskRef,
    UserInfo,
    ViewInfo,
    WebhookInfo,
)
from backend.label_studio.task_reading import TaskReading

__all__ = ["UNCERTAINTY_SAMPLING", "ProjectInfo", "Studio", "TaskRef"]

UNCERTAINTY_SAMPLING = "Uncertainty sampling"

# Imports and deletions take milliseconds a prediction, in one request.
LONG_TIMEOUT_S = 900.0
_PROJECTS_A_PAGE = 100


class Studio(TaskReading):
    """The API of one Label Studio, as one account. Thread-safe.

    See `Connection` for its arguments.
    """

    # Who and what

    def whoami(self) -> UserInfo:
        """The account the token belongs to."""
        return self._get(
            "/api/current-user/whoami",
            "asking who the token belongs to",
            read=lambda row: UserInfo(id=row["id"], email=row.get("email") or ""),
        )

    def member_count(self, project_id: int) -> int | None:
        """How many members a project has; None: this edition does not say."""
        path = f"/api/projects/{project_id}/members/"
        try:
            return self._get(path, "reading the members", project_id, read=_count_members)
        except LabelStudioError:  # only Enterprise has this route, and not for every account
            return None

    def release(self) -> Release:
        """Label Studio's version and edition."""
        found = self._get("/api/version", "asking for the version", read=Release.of)
        if found is None:
            raise LabelStudioError(
                f"{self.url} does not tell Label Studio's version: correct LABEL_STUDIO_URL"
            )
        return found

    def now(self) -> datetime:
        """The time by Label Studio's clock, to the second; by ours where it does not say."""
        with self._speaking("asking for the time"):
            said = self._read("/api/version").headers.get("date", "")
        try:
            return parsedate_to_datetime(said).astimezone(timezone.utc)
        except ValueError:
            return datetime.now(timezone.utc)

    def project(self, project_id: int) -> ProjectInfo:
        """One project.

        Raises:
            LabelStudioError: it is not there, or not for this account to see.
        """
        path = f"/api/projects/{project_id}/"
        return self._get(path, "reading the project", project_id, read=ProjectInfo.of)

    def projects(self) -> list[ProjectInfo]:
        """All projects this account sees."""
        found: list[ProjectInfo] = []
        for number in count(1):
            params = {"page": number, "page_size": _PROJECTS_A_PAGE}
            rows, is_last = self._get(
                "/api/projects/",
                "listing projects",
                params=params,
                read=lambda page: ([*map(ProjectInfo.of, page["results"])], not page["next"]),
            )
            found += rows
            if is_last:
                break
        return found

    # Predictions

    def predictions_of(
        self, project_id: int, model_version: str | None = None
    ) -> list[PredictionRef]:
        """All predictions of a project, or those of one version.

        Label Studio sends every prediction with its regions in one answer, about 0.4 ms each:
        fine for tens of thousands, not for millions.
        """
        params = {"project": project_id}
        found = self._get(
            "/api/predictions/",
            "reading predictions",
            project_id,
            params,
            read=lambda rows: [*map(PredictionRef.of, rows)],
        )
        return [p for p in found if model_version is None or p.model_version == model_version]

    def predictions_of_task(self, task_id: int) -> list[PredictionRef]:
        """All predictions of one task, of any version."""
        return self._get(
            "/api/predictions/",
            f"reading task {task_id}",
            params={"task": task_id},
            read=lambda rows: [*map(PredictionRef.of, rows)],
        )

    def import_predictions(self, project_id: int, items: Sequence[Mapping[str, Any]]) -> int:
        """Import predictions in one request and say how many Label Studio made.

        Args:
            project_id: the project.
            items: mappings with `task`, `result`, `score` and `model_version`.

        Raises:
            RefusedError: (400) a task is unknown: then, as a rule, nothing was made at all.
            UnreachableError: the outcome is unknown. Do not send the same items again.
        """
        with self._speaking("importing predictions", project_id):
            made = self._sdk.projects.import_predictions(
                project_id,
                request=[dict(item) for item in items],
                request_options={"max_retries": 0, "timeout_in_seconds": int(LONG_TIMEOUT_S)},
            )
            return int(made.created or 0)

    def create_prediction(self, project_id: int, item: Mapping[str, Any]) -> None:
        """Make one prediction, in the form of `import_predictions`. Sent once.

        Takes as long in a large project as in a small one, and changes the task's `updated_at`.

        Raises:
            RefusedError: (400) the task is unknown, or the result does not fit the label config.
        """
        with self._speaking("making a prediction", project_id):
            body = {**item, "project": project_id}
            self._http.post(f"{self.url}/api/predictions/", json=body).raise_for_status()

    def set_order(
        self, project_id: int, model_version: str, sampling: str = UNCERTAINTY_SAMPLING
    ) -> None:
        """Serve by the predictions of `model_version` from now on: one request, all or nothing.

        Raises:
            RefusedError: (400) there is no prediction of that version.
        """
        with self._speaking("switching the order", project_id):
            self._sdk.projects.update(project_id, model_version=model_version, sampling=sampling)

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Number of predictions by version, most recent version first.

        A version that is set but has no predictions counts 0.
        """
        path = f"/api/projects/{project_id}/model-versions/"
        return self._get(
            path,
            "listing model versions",
            project_id,
            read=lambda answer: {str(name): int(number) for name, number in answer.items()},
        )

    def delete_model_version(self, project_id: int, model_version: str) -> int:
        """Delete all predictions of a version (about 5 ms each) and say how many they were.

        If that version is the project's current one, or the project's current one is a backend's
        title, Label Studio clears the project's `model_version`.
        """
        path = f"/api/projects/{project_id}/model-versions/"
        with self._speaking(f"deleting version {model_version}", project_id):
            response = self._http.request(
                "DELETE",
                f"{self.url}{path}",
                json={"model_version": model_version},
                timeout=LONG_TIMEOUT_S,
            )
            response.raise_for_status()
            return int(response.json().get("deleted_predictions", 0))

    # Backends, webhooks, tabs

    def backends(self, project_id: int, *, refresh: bool = False) -> list[BackendInfo]:
        """The ML backends connected to a project.

        Args:
            project_id: the project.
            refresh: let Label Studio ask each one's `/health` and `/setup` first, which takes
                seconds and stores the `model_version` it answers; otherwise as last known.
        """
        doing = "listing ML backends"
        if refresh:
            return self._get(
                "/api/ml/",
                doing,
                project_id,
                {"project": project_id},
                read=lambda rows: [*map(BackendInfo.of, rows)],
            )
        return self._get(
            f"/api/projects/{project_id}/model-versions/",
            doing,
            project_id,
            {"extended": "true", "include_live_models": "true"},
            read=lambda answer: [*map(BackendInfo.of, answer.get("live") or [])],
        )

    def webhooks(self, project_id: int) -> list[WebhookInfo]:
        """The webhooks of a project."""
        return self._get(
            "/api/webhooks/",
            "listing webhooks",
            project_id,
            {"project": project_id},
            read=lambda rows: [*map(WebhookInfo.of, rows)],
        )

    def create_webhook(self, project_id: int, fields: Mapping[str, Any]) -> WebhookInfo:
        """Make a webhook; `fields` as Label Studio names them. Sent once."""
        return self._webhook("POST", "", {"project": project_id, **fields}, project_id)

    def update_webhook(self, webhook_id: int, fields: Mapping[str, Any]) -> WebhookInfo:
        """Change a webhook. Leaving out `actions` erases them."""
        return self._webhook("PATCH", f"{webhook_id}/", fields)

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete a webhook."""
        with self._speaking("deleting a webhook"):
            self._sdk.webhooks.delete(webhook_id)

    def _webhook(
        self, method: str, path: str, fields: Mapping[str, Any], project_id: int | None = None
    ) -> WebhookInfo:
        with self._speaking("setting up a webhook", project_id):
            address = f"{self.url}/api/webhooks/{path}"
            response = self._http.request(method, address, json=dict(fields))
            response.raise_for_status()
            return WebhookInfo.of(response.json())

    def views(self, project_id: int) -> list[ViewInfo]:
        """The Data Manager tabs of a project."""
        with self._speaking("listing tabs", project_id):
            return [ViewInfo.of(found) for found in self._sdk.views.list(project=project_id)]

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> ViewInfo:
        """Make a tab; `data` holds its `title`, `ordering`, `filters` and looks."""
        with self._speaking("making a tab", project_id):
            return ViewInfo.of(self._sdk.views.create(project=project_id, data=_plain(data)))

    def update_view(self, project_id: int, view_id: int, data: Mapping[str, Any]) -> ViewInfo:
        """Replace a tab's `data`. Leaving out `ordering` erases its ordering."""
        with self._speaking("changing a tab", project_id):
            found = self._sdk.views.update(str(view_id), project=project_id, data=_plain(data))
            return ViewInfo.of(found)

    def delete_view(self, view_id: int) -> None:
        """Delete a tab."""
        with self._speaking("deleting a tab"):
            self._sdk.views.delete(str(view_id))


def _count_members(answer: Any) -> int | None:
    """Of a list of members, or of its first page."""
    rows = answer.get("results") if isinstance(answer, dict) else answer
    return len(rows) if isinstance(rows, list) else None


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy in plain JSON types, so that nobody's mapping is shared or changed."""
    plain: dict[str, Any] = json.loads(json.dumps(data))
    return plain
