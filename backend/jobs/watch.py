"""Polls one project: reads new annotations, keeps its order served, and decides what is due."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from http import HTTPStatus

from backend.errors import RefusedError
from backend.job_kinds import PUBLISH, TRAIN
from backend.jobs.due import Situation, publish_is_due, training_is_due
from backend.label_studio.client import Studio
from backend.label_studio.publish import restore_order
from backend.label_studio.records import ProjectInfo
from backend.label_studio.webhooks import backend_webhook_url, ensure_webhook, is_own_server
from backend.learning.sync_annotations import AnnotationReader
from backend.learning.training_set import why_not_evaluated
from backend.progress import Progress
from backend.publishing.live_queue import adopt_published, config_hash
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.job_queue import JobQueue
from backend.store.jobs import DONE, QUEUED, RUNNING
from backend.store.rounds import RoundStore
from backend.store.scores import Publication, Store
from backend.store.webhook_secret import webhook_secret


@dataclass(frozen=True)
class Found:
    """The result of a poll: how many tasks were read, and which jobs are due.

    `waits` says in one line why a training that is due by the number of labels cannot begin yet.
    """

    read: int
    train: bool
    publish: bool
    waits: str = ""


class Watch:
    """Polls projects, one at a time.

    Args:
        settings: when a training is due.
        studio: Label Studio.
        store: what is kept.
        queue: which jobs there were.
    """

    def __init__(self, settings: Settings, studio: Studio, store: Store, queue: JobQueue) -> None:
        self._settings = settings
        self._studio = studio
        self._store = store
        self._queue = queue
        self._answers = AnnotationStore(store)
        self._rounds = RoundStore(store)

    def poll(self, project_id: int, *, on_progress: Progress) -> Found:
        """Poll once.

        Raises:
            LabelStudioError: Label Studio does not answer, or refuses.
        """
        # First: where this fails, the next poll is not earlier.
        polled = self._answers.polled(project_id)
        project = self._studio.project(project_id)
        # An event may name a project that has no order.
        self._answers.watch(project_id)
        adopt_published(self._store, project)
        self._keep_webhook(project_id)
        reader = AnnotationReader(self._studio, self._answers)
        read = reader.read(
            project, listed_by=polled, on_progress=partial(on_progress, "reading annotations")
        )
        situation = self._situation(project)
        is_due = training_is_due(situation, self._settings)
        waits = ""
        if is_due:
            waits = why_not_evaluated(self._settings, self._studio, self._store, project)
        return Found(
            read=read,
            train=is_due and not waits,
            publish=publish_is_due(situation, datetime.now(timezone.utc)),
            waits=waits,
        )

    def is_gone(self, project_id: int) -> bool:
        """Whether Label Studio answers, and says that it does not have the project.

        Raises:
            LabelStudioError: it does not answer, or not as itself: nothing is known then.
        """
        self._studio.whoami()
        try:
            self._studio.project(project_id)
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return True
            raise
        return False

    def _keep_webhook(self, project_id: int) -> None:
        url = backend_webhook_url(self._studio.backends(project_id))
        if url is None or (is_own := is_own_server(url)) is None:
            return
        secret = webhook_secret(self._store)
        ensure_webhook(self._studio, project_id, url=url, secret=secret, payload=not is_own)

    def _situation(self, project: ProjectInfo) -> Situation:
        answered = self._answers.answered_tasks(project.id)
        trained = Situation(
            answered=len(answered),
            answered_when_trained=self._answered_when_trained(project.id),
            trains=self._is_under_way(project.id, TRAIN),
        )
        live = self._store.publication(project.id)
        if live is None:
            return trained  # the first order is the user's to ask for
        is_served = restore_order(self._studio, project.id, live.model_version)
        ranks = {row.task_id for row in self._store.ranks(live.model_version)}
        last_task, config = self._last_publish(project, ranks)
        is_lost = not is_served and not self._studio.model_versions(project.id).get(
            live.model_version
        )
        return replace(
            trained,
            open_ranks=len(ranks - answered),
            ranked=live.ranked,
            unlabelled=project.task_count - project.labelled_count,
            new_tasks=sum(1 for _ in self._studio.tasks(project.id, after=last_task)),
            order_is_stale=is_lost
            or config != config_hash(project.label_config)
            or self._is_of_another_model(live),
            publishes=self._is_under_way(project.id, PUBLISH),
            failures=self._queue.recent_failures(project.id, PUBLISH),
        )

    def _answered_when_trained(self, project_id: int) -> int:
        """How many answers there were at the last training that had answers to begin from."""
        for job in self._queue.list(project_id, kinds=(TRAIN,)):
            if "answered" in job.notes:
                return int(job.notes["answered"])
        return 0

    def _is_under_way(self, project_id: int, kind: str) -> bool:
        return bool(self._queue.list(project_id, (QUEUED, RUNNING), limit=1, kinds=(kind,)))

    def _last_publish(self, project: ProjectInfo, ranks: set[int]) -> tuple[int, str]:
        """The newest task that the order knows, and the hash of the config it was made under."""
        for job in self._queue.list(project.id, (DONE,), limit=1, kinds=(PUBLISH,)):
            return int(job.result["last_task"]), str(job.result["label_config"])
        return max(ranks, default=0), config_hash(project.label_config)

    def _is_of_another_model(self, live: Publication) -> bool:
        serving = self._rounds.serving(live.project_id)
        if serving is not None:
            return live.detector != serving.detector
        # Back at the base weights: the order must not be of one that was trained.
        return live.detector in {row.detector for row in self._rounds.rounds(live.project_id)}
