"""Reading what Label Studio sends to an ML backend: forgiving, for nothing in it is promised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

# What `/health` of our own server says it is.
SERVER = "hardest-first"

# Sent with our own webhook: that it is ours, and which project it is about.
SECRET_HEADER = "X-Hardest-First-Secret"
PROJECT_HEADER = "X-Hardest-First-Project"

ANNOTATION_ACTIONS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED"}
)
TASK_ACTIONS = frozenset({"TASKS_CREATED", "TASKS_DELETED"})
PROJECT_UPDATED = "PROJECT_UPDATED"

# Not sent by a webhook: Label Studio itself posts it to the backend's `/webhook`, with the
# connection's user and password and the project, when a user presses "Start Training".
START_TRAINING = "START_TRAINING"

# What Label Studio numbers projects and tasks with: the integers of its database, from 1.
_LARGEST = 2**31 - 1
_DIGITS = "[0-9]{1,10}"


@dataclass(frozen=True)
class WebhookEvent:
    """One webhook call.

    Args:
        action: its name, such as `ANNOTATION_CREATED`; "" when there is none.
        project_id: the project; None: the call does not tell.
    """

    action: str
    project_id: int | None = None


def project_number(value: object) -> int | None:
    """The project's number from "ID.TIMESTAMP", a number, or a project; None: it holds none.

    >>> project_number("12.1700000000"), project_number(7), project_number("")
    (12, 7, None)
    """
    if isinstance(value, Mapping):
        value = value.get("id")
    if not is_number(value):
        head = str(value).split(".", 1)[0] if isinstance(value, (str, float)) else ""
        value = int(head) if re.fullmatch(_DIGITS, head) else None
    return value if is_number(value) else None


def is_number(value: object) -> TypeGuard[int]:
    """Whether it can be the number of a project or a task.

    >>> is_number(7), is_number("7"), is_number(True), is_number(0), is_number(2**31)
    (True, False, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def parse_webhook(payload: object, *, project_header: str | None = None) -> WebhookEvent:
    """What a webhook call says.

    Args:
        payload: its body, read as JSON.
        project_header: its header `PROJECT_HEADER`, which replaces the project that our own
            webhook leaves out of the body.

    >>> parse_webhook({"action": "TASKS_CREATED", "project": {"id": 3}})
    WebhookEvent(action='TASKS_CREATED', project_id=3)
    >>> parse_webhook({"action": "TASKS_CREATED"}, project_header="3")
    WebhookEvent(action='TASKS_CREATED', project_id=3)
    """
    body = payload if isinstance(payload, Mapping) else {}
    action = body.get("action")
    in_body = project_number(body.get("project"))
    return WebhookEvent(
        action=action if isinstance(action, str) else "",
        project_id=project_number(project_header) if in_body is None else in_body,
    )
