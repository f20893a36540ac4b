"""Which jobs an event of Label Studio asks for."""

from __future__ import annotations

from backend.job_kinds import POLL, TRAIN
from backend.label_studio.protocol import START_TRAINING
from backend.label_studio.webhooks import ACTIONS
from backend.store.job_queue import JobQueue

_SETTLING_SECONDS = 2.0


def take_up_event(queue: JobQueue, action: str, project_id: int) -> None:
    """Do what an event of Label Studio asks for: a training, or a poll of the project."""
    if action == START_TRAINING:
        queue.submit(TRAIN, project_id)
    elif action in ACTIONS:
        # Label Studio may tell before it has stored what happened.
        queue.submit(POLL, project_id, delay=_SETTLING_SECONDS)
