"""Reading what Label Studio sends to an ML backend: forgiving, for nothing in it is promised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What changes the labels, the pool or the config; every other action is noise to this backend.
ANNOTATION_ACTIONS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED"}
)
TASK_ACTIONS = frozenset({"TASKS_CREATED", "TASKS_DELETED"})


@dataclass(frozen=True)
class WebhookEvent:
    """One webhook call.

    Args:
        action: its name, such as `ANNOTATION_CREATED`; "" when there is none.
        project_id: the project; None: the call does not tell (its payload may be switched off).
        task_ids: the tasks it is about, as far as it tells.
    """

    action: str
    project_id: int | None = None
    task_ids: tuple[int, ...] = ()


def project_number(value: object) -> int | None:
    """The project's number from "ID.TIMESTAMP", a number, or a project; None: it holds none.

    >>> project_number("12.1700000000"), project_number(7), project_number("")
    (12, 7, None)
    """
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    head = str(value).split(".", 1)[0] if isinstance(value, (str, float)) else ""
    return int(head) if head.isascii() and head.isdigit() else None


def parse_extra_params(value: object) -> dict[str, Any]:
    """The extra parameters of a backend's connection, which come as a dict, as JSON text or null.

    >>> parse_extra_params('{"a": 1}'), parse_extra_params(None), parse_extra_params("nonsense")
    ({'a': 1}, {}, {})
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return dict(value) if isinstance(value, Mapping) else {}


def parse_webhook(payload: object) -> WebhookEvent:
    """What a webhook call says.

    >>> parse_webhook({"action": "TASKS_CREATED", "project": {"id": 3}, "tasks": [{"id": 9}]})
    WebhookEvent(action='TASKS_CREATED', project_id=3, task_ids=(9,))
    """
    body = payload if isinstance(payload, Mapping) else {}
    action = body.get("action")
    rows = [*_rows(body.get("task")), *_rows(body.get("tasks"))]
    task_ids = [row.get("id") for row in rows]
    if not rows:
        task_ids = [row.get("task") for row in _rows(body.get("annotation"))]
    return WebhookEvent(
        action=action if isinstance(action, str) else "",
        project_id=project_number(body.get("project")),
        task_ids=tuple(x for x in task_ids if isinstance(x, int) and not isinstance(x, bool)),
    )


def _rows(value: object) -> list[Mapping[str, Any]]:
    found = value if isinstance(value, list) else [value]
    return [row for row in found if isinstance(row, Mapping)]
