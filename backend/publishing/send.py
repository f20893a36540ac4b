"""Sends an order to Label Studio, and records it in the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial

from backend.errors import LabelStudioError
from backend.label_studio.client import Studio
from backend.label_studio.label_map import LabelMap
from backend.label_studio.publish import OrderedTask, fresh_version, remove_versions
from backend.label_studio.publish import publish as publish_order
from backend.label_studio.results import to_results
from backend.label_studio.tabs import show_tab
from backend.label_studio.versions import stale_versions
from backend.metrics import timed
from backend.publishing.attempt import Attempt
from backend.settings import Settings
from backend.store.scores import Publication, RankRow, Store
from backend.store.sent_versions import SentVersions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """An order before it is sent.

    Args:
        publication: what it is made of, and the version it is sent under first.
        rows: the order, first place first.
        class_names: of the detector whose boxes annotators are shown.
        label_map: how the detector's classes are named in the project; None: no boxes are drawn.
    """

    publication: Publication
    rows: Sequence[RankRow]
    class_names: Sequence[str]
    label_map: LabelMap | None


def new_publication(
    project_id: int, *, detector: str, encoder: str, strategy: str, settings: Settings
) -> Publication:
    """An order that is about to be sent, under a version of its own."""
    return Publication(
        model_version=fresh_version(detector),
        project_id=project_id,
        state="preparing",
        detector=detector,
        encoder=encoder,
        strategy=strategy,
        diversity_weight=settings.diversity_weight,
        strategy_weights=settings.strategy_weights,
        ranked=0,
        created_at=datetime.now(timezone.utc),
    )


def renewed(former: Publication) -> Publication:
    """An order made of the same as a former one, about to be sent under a version of its own."""
    return replace(
        former,
        model_version=fresh_version(former.detector),
        state="preparing",
        created_at=datetime.now(timezone.utc),
    )


@dataclass(frozen=True)
class Sent:
    """An order that is live.

    Args:
        version: another than the draft's where tasks were deleted while it was sent.
        note: what people should know, in one line; "" for nothing.
    """

    version: str
    note: str


class OrderSender:
    """Publishes orders, of one Label Studio and one store.

    Args:
        studio: where orders go.
        store: where boxes come from, and what is sent is kept.
        threshold: the score from which boxes are shown, 0..1.
    """

    def __init__(self, studio: Studio, store: Store, *, threshold: float) -> None:
        self._studio = studio
        self._store = store
        self._threshold = threshold

    def send(self, draft: Draft, attempt: Attempt) -> Sent:
        """Make Label Studio serve this order.

        A task that the detector never scored gets a prediction without boxes.

        Args:
            draft: the order.
            attempt: it holds before the switch and before each deletion.

        Raises:
            PublishError: the old order is still served.
            LabelStudioError: Label Studio does not answer, or refuses; nothing was switched.
        """
        project_id = draft.publication.project_id
        versions = SentVersions(self._store, project_id)

        def before_switch(version: str, replaced: str) -> None:
            # In this order: what is still `preparing` was never switched to, nor will be.
            versions.switching(version, replaced=replaced, now=self._studio.now())
            attempt.hold()

        attempt.on_version(draft.publication.model_version)
        with timed("publish"):
            published = publish_order(
                self._studio,
                project_id,
                self._to_publish(draft),
                version=draft.publication.model_version,
                on_progress=partial(attempt.on_progress, "publishing"),
                # Recorded before it is sent: if this run dies after the switch, the next adopts it.
                before_import=partial(self._keep, draft),
                before_switch=before_switch,
            )
        attempt.hold()
        versions.live(published.version, now=self._studio.now())
        self._clean_up(project_id, versions, attempt)
        show_tab(self._studio, project_id, published.version)
        return Sent(published.version, versions.stranger(published.replaced))

    def _clean_up(self, project_id: int, versions: SentVersions, attempt: Attempt) -> None:
        """Delete what is no longer needed; failures of Label Studio are only logged."""
        try:
            there, now = list(self._studio.model_versions(project_id)), self._studio.now()
        except LabelStudioError as error:
            logger.warning("Old versions stay for now: %s", error)
            return
        stale = stale_versions(there, versions.notes(), now=now)
        removed = remove_versions(self._studio, project_id, stale, hold=attempt.hold)
        versions.forget(there=set(there) - set(removed))

    def _to_publish(self, draft: Draft) -> list[OrderedTask]:
        task_ids = [row.task_id for row in draft.rows]
        label_map = draft.label_map
        if label_map is None:
            return [OrderedTask(task_id) for task_id in task_ids]
        made_of = draft.publication
        scored = self._store.scored_tasks(made_of.project_id, made_of.detector, task_ids)
        results = {
            task_id: to_results(
                found.detections, draft.class_names, label_map, threshold=self._threshold
            )
            for task_id, found in scored.items()
        }
        return [OrderedTask(task_id, results.get(task_id, ())) for task_id in task_ids]

    def _keep(self, draft: Draft, version: str, items: Sequence[OrderedTask]) -> None:
        sent = {item.task_id for item in items}
        rows = [row for row in draft.rows if row.task_id in sent]
        rows = [replace(row, rank=place) for place, row in enumerate(rows, start=1)]
        publication = replace(
            draft.publication, model_version=version, state="preparing", ranked=len(rows)
        )
        self._store.save_publication(publication, rows)
