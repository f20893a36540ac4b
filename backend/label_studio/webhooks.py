"""The one webhook by which Label Studio notifies this backend of changes in a project.

Label Studio makes a webhook of its own for each connected ML backend: for all actions, with all
tasks and annotations in it and the whole project counted again for each call, which the annotator
waits for. Ours takes its place under the same address, so that Label Studio makes no other when
the backend is connected again. It is sent for what matters, without payload; the project and a
secret are in its headers. Anyone who may see the project's settings can read them there.

Only our own `serve` reads those headers. The servers of label-studio-ml, under which
`backend/model.py` runs as well, take the project from the payload: theirs keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from backend.label_studio.client import Studio
from backend.label_studio.protocol import (
    ANNOTATION_ACTIONS,
    PROJECT_HEADER,
    PROJECT_UPDATED,
    SECRET_HEADER,
    SERVER,
    TASK_ACTIONS,
)
from backend.label_studio.records import BackendInfo, WebhookInfo
from backend.label_studio.versions import UNPUBLISHED, is_ours

ACTIONS = ANNOTATION_ACTIONS | TASK_ACTIONS | {PROJECT_UPDATED}


def backend_webhook_url(backends: Sequence[BackendInfo]) -> str | None:
    """The webhook address of the connected backend that is ours; None: none of them is ours.

    Ours is recognised by the version its `/setup` last answered. Of several, the one that answers,
    then the one connected last.
    """
    ours = [b for b in backends if is_ours(b.model_version) or b.model_version == UNPUBLISHED]
    if not ours:
        return None
    chosen = max(ours, key=lambda backend: (backend.state == "Connected", backend.id))
    return f"{chosen.url.rstrip('/')}/webhook"


def is_own_server(webhook_url: str, *, timeout: float = 3.0) -> bool | None:
    """Whether our own `serve` listens at a backend's webhook address.

    None: nothing answers here. The address may lead somewhere from Label Studio alone.
    """
    try:
        answer = httpx.get(f"{webhook_url.removesuffix('/webhook')}/health", timeout=timeout)
        body = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("server") == SERVER


def ensure_webhook(
    studio: Studio, project_id: int, *, url: str, secret: str, payload: bool = False
) -> WebhookInfo:
    """Leave exactly one webhook for `url` in the project: ours.

    The first other one for that address is turned into ours and further ones are deleted; webhooks
    for other addresses are left alone. Nothing is written when all is well. Headers that a person
    added for a proxy stay.

    Args:
        studio: where.
        project_id: the project.
        url: the backend's webhook address, from `backend_webhook_url`.
        secret: sent in the header `X-Hardest-First-Secret`.
        payload: whether it is sent with the tasks, annotations and project it is about.

    Raises:
        RefusedError: Label Studio takes no webhook for this address.
        AccessError: the token's account may not change webhooks.
    """
    headers = {SECRET_HEADER: secret, PROJECT_HEADER: str(project_id)}
    there = [hook for hook in studio.webhooks(project_id) if hook.url == url]
    kept = next((hook for hook in there if _is_wanted(hook, headers, payload)), None)
    if kept is None and there:
        fields = _fields(url, {**there[0].headers, **headers}, payload)
        kept = studio.update_webhook(there[0].id, fields)
    elif kept is None:
        kept = studio.create_webhook(project_id, _fields(url, headers, payload))
    for hook in there:
        if hook.id != kept.id:
            studio.delete_webhook(hook.id)
    return kept


def reports_annotations(hook: WebhookInfo) -> bool:
    """Whether `hook` reports everything that matters, and in which project: ours, or any other."""
    complete = hook.sends_all or hook.actions >= ACTIONS
    return hook.is_active and complete and (hook.sends_payload or PROJECT_HEADER in hook.headers)


def _is_wanted(hook: WebhookInfo, headers: Mapping[str, str], payload: bool) -> bool:
    if payload:
        # Label Studio's own is as good.
        return hook.is_active and hook.sends_payload and reports_annotations(hook)
    return (
        hook.is_active
        and not hook.sends_all
        and not hook.sends_payload
        and hook.actions == ACTIONS
        and headers.items() <= hook.headers.items()
    )


def _fields(url: str, headers: Mapping[str, str], payload: bool) -> dict[str, Any]:
    """A webhook as Label Studio takes it: always whole, for what is left out is reset."""
    return {
        "url": url,
        "is_active": True,
        "send_for_all_actions": False,
        "send_payload": payload,
        "actions": sorted(ACTIONS),
        "headers": dict(headers),
    }
