"""What each kind of job does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from backend.engines.engine import Engine, embedded
from backend.errors import RefusedError, TrainingError
from backend.job_kinds import CLEAN_UP, KINDS, POLL, PUBLISH, TRAIN
from backend.jobs.context import JobContext
from backend.jobs.runner import Handler
from backend.jobs.watch import Watch
from backend.label_studio.client import Studio
from backend.label_studio.records import ProjectInfo
from backend.learning.clean_up import clean_up
from backend.learning.round import Hooks, Learner
from backend.learning.sync_annotations import AnnotationReader
from backend.learning.training_set import why_not_evaluated
from backend.publishing.attempt import Attempt
from backend.publishing.live_queue import OrderReport
from backend.publishing.prelabel import prelabel
from backend.publishing.republish import Republisher
from backend.publishing.score_and_publish import OrderMaker
from backend.scoring.models import Scorers
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.job_queue import JobQueue
from backend.store.jobs import DONE, FAILED, QUEUED, RUNNING, Job
from backend.store.scores import Store

logger = logging.getLogger(__name__)

_KEEP_POLLS_DAYS = 1.0
# A project that Label Studio said so often in a row it does not have is deleted.
_POLLS_FOR_A_MISSING = 3


@dataclass(frozen=True)
class WorkerContext:
    """The parts that jobs work with.

    Args:
        settings: of this process; a job's payload may change the ranking's for itself.
        studio: Label Studio.
        store: what is kept.
        scorers: the models.
        queue: the jobs.
        engine: where models are run to make an order.
        on_report: is given the whole report of a score or publish job; its result holds only the
            counts.
    """

    settings: Settings
    studio: Studio
    store: Store
    scorers: Scorers
    queue: JobQueue
    engine: Engine = embedded
    on_report: Callable[[OrderReport], None] = lambda report: None

    def handlers(self) -> dict[str, Handler]:
        """Kind of job -> what runs it: the method of its name."""
        return {kind: getattr(self, kind.replace("-", "_")) for kind in KINDS}

    def score(self, context: JobContext) -> dict[str, Any]:
        """Score and rank the tasks; nothing changes in Label Studio."""
        return self._order(context, publish=False)

    def publish(self, context: JobContext) -> dict[str, Any]:
        """Score, rank, and have Label Studio serve the order."""
        return self._order(context, publish=True)

    def _order(self, context: JobContext, *, publish: bool) -> dict[str, Any]:
        settings = self.settings.model_copy(update=dict(context.job.payload))
        orders = OrderMaker(settings, self.studio, self.store, self.scorers, self.engine)
        report = orders.run(context.job.project_id, _attempt(context), publish=publish)
        for task_id, reason in report.skipped.items():
            context.log(f"skipped task {task_id}: {reason}")
        for warning in report.warnings:
            context.log(warning)
        if publish:
            AnnotationStore(self.store).watch(context.job.project_id)
            # For what changed while the order was made.
            self.queue.submit(POLL, context.job.project_id)
        self.on_report(report)
        return report.counts()

    def assign(self, context: JobContext) -> dict[str, Any]:
        """Send the order again with the pinned tasks first."""
        republisher = Republisher(self.settings, self.studio, self.store)
        republished = republisher.run(context.job.project_id, _attempt(context))
        AnnotationStore(self.store).watch(context.job.project_id)
        self.queue.submit(POLL, context.job.project_id)
        return asdict(republished)

    def train(self, context: JobContext) -> dict[str, Any]:
        """Train on the annotations, evaluate, and promote the model if it is no worse."""
        project_id = context.job.project_id
        if "answered" not in context.notes:
            answers = AnnotationStore(self.store)
            project = self.studio.project(project_id)
            answers.watch(project_id)
            AnnotationReader(self.studio, answers).read(
                project, on_progress=partial(context.progress, "reading annotations")
            )
            answered = len(answers.answered_tasks(project_id))
            # Without any annotation there is more to say than that none are in the hold-out.
            if answered and not context.job.payload.get("all_labels"):
                self._refuse_unevaluated(project)
            # From here on counts when the next training is due.
            context.note(answered=answered)

        row = Learner(self.settings, self.studio, self.store, self.scorers).run(
            project_id,
            context.job.id,
            Hooks(context.progress, context.log, context.check),
            all_labels=bool(context.job.payload.get("all_labels")),
        )
        # A repeated attempt may ask again: there is one waiting job of a kind at most.
        self.queue.submit(POLL, project_id)
        self.queue.submit(CLEAN_UP, project_id)
        return {
            "round": row.round,
            "version": row.version,
            "promoted": row.promoted,
            "reason": row.reason,
        }

    def _refuse_unevaluated(self, project: ProjectInfo) -> None:
        reason = why_not_evaluated(self.settings, self.studio, self.store, project)
        if reason:
            raise TrainingError(reason)

    def auto_label(self, context: JobContext) -> dict[str, Any]:
        """Pre-annotate the unlabelled tasks that have no prediction."""
        done = prelabel(
            self.settings,
            self.studio,
            self.store,
            self.scorers,
            context.job.project_id,
            _attempt(context),
        )
        return asdict(done)

    def poll(self, context: JobContext) -> dict[str, Any]:
        """Read new annotations, and ask for the jobs that are due."""
        project_id = context.job.project_id
        last = next(iter(self.queue.list(project_id, (DONE, FAILED), limit=1, kinds=(POLL,))), None)
        watch = Watch(self.settings, self.studio, self.store, self.queue)
        try:
            found = watch.poll(project_id, on_progress=context.progress)
        except RefusedError:
            if watch.is_gone(project_id):
                self._miss(context, last)
            raise
        if found.train:
            self.queue.submit(TRAIN, project_id)
        if found.publish:
            self.queue.submit(PUBLISH, project_id)
        waits_as_before = last is not None and last.result.get("waits", "") == found.waits
        if not (found.read or found.train or found.publish) and waits_as_before:
            context.stay_quiet()
        if found.waits:
            context.log(found.waits)
        return asdict(found)

    def _miss(self, context: JobContext, last: Job | None) -> None:
        """Count a project that is gone, and at last look after it no longer."""
        project_id = context.job.project_id
        missed = 1 + (int(last.notes.get("missed", 0)) if last is not None else 0)
        context.note(missed=missed)
        if missed >= _POLLS_FOR_A_MISSING and AnnotationStore(self.store).unwatch(project_id):
            logger.warning(
                "project %s is not in Label Studio any more: it is no longer polled, until it "
                "is named again; `python -m backend forget %s` removes what is stored of it",
                *(project_id, project_id),
            )

    def clean_up(self, context: JobContext) -> dict[str, Any]:
        """Remove files and jobs that nobody needs any more."""
        busy = {job.id for job in self.queue.list(context.job.project_id, (QUEUED, RUNNING))}
        removed = clean_up(self.settings, self.store, context.job.project_id, busy_jobs=busy)
        # Polls come every minute, and nobody asks for old ones.
        forgotten = self.queue.prune() + self.queue.prune(_KEEP_POLLS_DAYS, kinds=(POLL,))
        return {"files": removed, "jobs": forgotten}


def _attempt(context: JobContext) -> Attempt:
    """If this attempt dies after it has sent something, the next one sees what."""
    return Attempt(
        sent_before=str(context.notes.get("version", "")),
        on_version=lambda version: context.note(version=version),
        hold=context.hold,
        on_progress=context.progress,
    )
