"""Reviewer queues: Data Manager tabs that show given images in a given order, and serve them so.

The open-source edition of Label Studio neither assigns tasks nor sorts a tab freely. So each image
of a queue gets a prediction without boxes and without a score, under a version of the queue's own.
The tab filters by that version and is ordered by `tasks:predictions`, which Label Studio resolves
to the numbers of the very predictions it filters by: these ascend as they were imported. "Label
Tasks As Displayed" sends filter and ordering along, and so serves the same order, less what is
labelled. No data of a task changes.

Two ways that look simpler do not work. A saved filter `in_list` on task ids keeps the whole Data
Manager of the project from loading. And only a task's data, rewritten as a whole, could carry a
rank to sort by.

Tabs are everybody's in this edition: a name in a title is an agreement between people, not a lock.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError, PublishError
from backend.label_studio.client import Studio
from backend.label_studio.publish import remove_versions
from backend.label_studio.records import ViewInfo
from backend.label_studio.tabs import add_tab, tab_data
from backend.label_studio.versions import (
    fresh_queue_version,
    queue_owner,
    stale_queue_versions,
)

logger = logging.getLogger(__name__)

ORDERING = ["tasks:predictions"]

# An import takes under a millisecond for each task of the project, whatever it brings, and a
# prediction of its own about a quarter of a second at worst.
_TASKS_A_PREDICTION = 250

_COLUMN = "filter:tasks:predictions_model_versions"


@dataclass(frozen=True)
class QueueName:
    """Whose queue it is, and what it is called; one of the two at least.

    Args:
        reviewer: a person has one queue in a project, whatever it is called.
        name: what the tab is called; without a reviewer, it is what identifies the queue.
    """

    reviewer: str = ""
    name: str = ""

    @property
    def owner(self) -> str:
        """What identifies this queue within the project."""
        return f"for {self.reviewer}" if self.reviewer else f"named {self.name}"

    @property
    def title(self) -> str:
        """The tab's title."""
        if not self.reviewer:
            return self.name
        return f"{self.name or 'Queue'}: {self.reviewer}"


@dataclass(frozen=True)
class _QueueTab:
    """A tab that shows a queue."""

    view: ViewInfo
    version: str


class ReviewerTabs:
    """The reviewer queues of one project, as they stand when this is made.

    Args:
        studio: where.
        project_id: the project.

    Raises:
        LabelStudioError: (also from the methods) Label Studio does not answer, or refuses.
    """

    def __init__(self, studio: Studio, project_id: int) -> None:
        self._studio = studio
        self._project_id = project_id
        self._views = studio.views(project_id)
        self._tabs = list(_queue_tabs(self._views))

    def waiting(self, *, besides: Collection[QueueName]) -> dict[int, str]:
        """Unlabelled image -> title of the tab whose queue it is in, of all queues but these."""
        left_out = {queue.owner for queue in besides}
        found = {}
        for tab in self._tabs:
            if queue_owner(tab.version) not in left_out:
                for task in self._studio.tasks(self._project_id, filters=[_holds(tab.version)]):
                    if not task.is_labeled:
                        found[task.id] = tab.view.title
        return found

    def show(self, shares: Mapping[QueueName, Sequence[int]]) -> list[int]:
        """Make each queue's tab show exactly these tasks in this order.

        What people changed of a tab's looks stays. Until everything is in place and read back,
        the tabs show what they did.

        Returns:
            The numbers of the tabs' views, in the order of `shares`.

        Raises:
            PublishError: Label Studio took fewer images than were sent.
            LabelStudioError: it shows them in another order than they were sent.
        """
        versions = {queue: fresh_queue_version(queue.owner) for queue in shares}
        try:
            self._import(
                [
                    {"task": task_id, "result": [], "score": None, "model_version": versions[queue]}
                    for queue, task_ids in shares.items()
                    for task_id in task_ids
                ]
            )
            for queue, task_ids in shares.items():
                self._check(versions[queue], task_ids)
        except LabelStudioError:
            self._drop(versions.values())
            raise
        return [self._point(queue, version) for queue, version in versions.items()]

    def remove(self, queue: QueueName) -> list[str]:
        """Remove the queue's tab, if there is one; returns the title that it had."""
        mine = self._of(queue)
        for tab in mine:
            self._studio.delete_view(tab.view.id)
        self._drop({tab.version for tab in mine})
        return [tab.view.title for tab in mine]

    def tidy(self) -> None:
        """Delete what is left of queues whose tab was deleted. Failures are logged."""
        try:
            there, now = self._studio.model_versions(self._project_id), self._studio.now()
            # Others may have made queues since this was made.
            shown = {tab.version for tab in _queue_tabs(self._studio.views(self._project_id))}
        except LabelStudioError as error:
            logger.warning("old queues stay for now: %s", error)
            return
        self._drop(stale_queue_versions(there, shown=shown, now=now))

    def _of(self, queue: QueueName) -> list[_QueueTab]:
        """More than one only where the tab was duplicated."""
        return [tab for tab in self._tabs if queue_owner(tab.version) == queue.owner]

    def _import(self, rows: Sequence[Mapping[str, Any]]) -> None:
        tasks = self._studio.project(self._project_id).task_count
        if len(rows) * _TASKS_A_PREDICTION < tasks:
            for row in rows:
                self._studio.create_prediction(self._project_id, row)
            return
        made = self._studio.import_predictions(self._project_id, rows)
        if made != len(rows):
            raise PublishError(
                f"Label Studio took {made} of {len(rows)} images of the queues of project "
                f"{self._project_id}; the tabs show what they did: ask again"
            )

    def _check(self, version: str, task_ids: Sequence[int]) -> None:
        shown = self._studio.ids_in_order(
            self._project_id,
            ordering=ORDERING,
            filters=[_holds(version)],
            limit=len(task_ids) + 1,
        )
        if shown != list(task_ids):
            raise LabelStudioError(
                f"Label Studio at {self._studio.url} does not show the queue of project "
                f"{self._project_id} in the order it was sent: use a version of Label Studio that "
                "this backend was tested with"
            )

    def _point(self, queue: QueueName, version: str) -> int:
        """Let the queue's tab show what is in place; returns its view's number."""
        data = tab_data(queue.title, ordering=ORDERING, condition=_holds(version))
        mine = self._of(queue)
        if not mine:
            view = add_tab(self._studio, self._project_id, data, beside=self._views)
            self._views.append(view)
            return view.id
        before = mine[0].view
        ours = {name: data[name] for name in ("title", "ordering", "filters")}
        self._studio.update_view(self._project_id, before.id, {**before.data, **ours})
        self._drop({tab.version for tab in mine})
        return before.id

    def _drop(self, versions: Iterable[str]) -> None:
        remove_versions(self._studio, self._project_id, list(versions), hold=lambda: None)


def _holds(version: str) -> dict[str, Any]:
    """The Data Manager's condition that a task is in a queue."""
    return {"filter": _COLUMN, "operator": "contains", "type": "List", "value": [version]}


def _queue_tabs(views: Sequence[ViewInfo]) -> Iterator[_QueueTab]:
    for view in views:
        filters: Mapping[str, Any] = view.data.get("filters") or {}
        for condition in filters.get("items") or ():
            value = condition.get("value")
            if condition.get("filter") != _COLUMN or not isinstance(value, list):
                continue
            for version in value:
                if queue_owner(str(version)) is not None:
                    yield _QueueTab(view, str(version))
