"""Sends an order to Label Studio, and keeps in the store what was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.label_studio.client import Studio
from backend.label_studio.label_map import LabelMap
from backend.label_studio.publish import Published, RankedTask
from backend.label_studio.publish import publish as publish_order
from backend.label_studio.results import to_results
from backend.label_studio.tabs import show_tab
from backend.loop.store import Publication, RankRow, Store
from backend.metrics import timed


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

    def send(self, draft: Draft, *, on_progress: Callable[[int, int], None]) -> str:
        """Make Label Studio serve this order.

        A task that the detector never scored gets a prediction without boxes.

        Args:
            draft: the order.
            on_progress: called with (predictions imported, predictions in all).

        Returns:
            The version that is live now; another than the draft's where tasks were deleted while
            it was sent.

        Raises:
            PublishError: the old order still stands.
            LabelStudioError: Label Studio does not answer, or refuses; nothing was switched.
        """
        version, project_id = draft.publication.model_version, draft.publication.project_id
        # Kept before it is sent: should this run die after the switch, the next one adopts it.
        self._keep(draft)
        with timed("publish"):
            published = publish_order(
                self._studio,
                project_id,
                self._to_publish(draft),
                version=version,
                on_progress=on_progress,
            )
        self._keep_live(draft, published)
        show_tab(self._studio, project_id, published.version)
        return published.version

    def _to_publish(self, draft: Draft) -> list[RankedTask]:
        task_ids = [row.task_id for row in draft.rows]
        label_map = draft.label_map
        if label_map is None:
            return [RankedTask(task_id) for task_id in task_ids]
        made_of = draft.publication
        scored = self._store.scored_tasks(made_of.project_id, made_of.detector, task_ids)
        results = {
            task_id: to_results(
                found.detections, draft.class_names, label_map, threshold=self._threshold
            )
            for task_id, found in scored.items()
        }
        return [RankedTask(task_id, results.get(task_id, ())) for task_id in task_ids]

    def _keep(self, draft: Draft) -> None:
        rows = [replace(row, rank=place) for place, row in enumerate(draft.rows, start=1)]
        publication = replace(draft.publication, state="preparing", ranked=len(rows))
        self._store.save_publication(publication, rows)

    def _keep_live(self, draft: Draft, published: Published) -> None:
        project_id = draft.publication.project_id
        if published.version != draft.publication.model_version:
            # Tasks were deleted while the order was sent: it was sent anew without them.
            vanished = set(published.vanished)
            sent = replace(draft.publication, model_version=published.version)
            remaining = [row for row in draft.rows if row.task_id not in vanished]
            self._keep(replace(draft, publication=sent, rows=remaining))
        self._store.mark_live(project_id, published.version)
        kept = [published.version, published.replaced, *published.left_over]
        self._store.drop_publications(project_id, keep=kept)
