"""The Data Manager tab "Hardest first": the published order, as a list to look at.

A tab sorts by the *average* score of a task's predictions: of the versions its connected backends
gave in `/setup`, or, with no backend connected, of all versions. So the tab shows the real order
when a connected backend answers `/setup` with the published version; without one, only while no
other version has predictions. Label All Tasks does not depend on any of this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.client import Studio
from backend.label_studio.records import ViewInfo
from backend.label_studio.versions import queue_owner

logger = logging.getLogger(__name__)

TITLE = "Hardest first"
ORDERING = ["tasks:predictions_score"]

_QUIET_COLUMNS = (
    *("inner_id", "annotations_results", "annotations_ids", "predictions_model_versions"),
    *("predictions_results", "file_upload", "storage_filename", "created_at", "updated_at"),
    *("updated_by", "avg_lead_time", "draft_exists", "cancelled_annotations"),
)
_LOOKS: dict[str, Any] = {
    "type": "list",
    "target": "tasks",
    "gridWidth": 4,
    "columnsWidth": {},
    "columnsDisplayType": {},
}
_UNLABELLED = {
    "filter": "filter:tasks:total_annotations",
    "operator": "equal",
    "type": "Number",
    "value": 0,
}


@dataclass(frozen=True)
class Tab:
    """The tab after `ensure_tab`.

    Args:
        view_id: its number.
        did: "made", "repaired" or "found".
        note: why it does not show the published order, in one line; "" when it does.
    """

    view_id: int
    did: str
    note: str = ""


def show_tab(studio: Studio, project_id: int, version: str | None = None) -> Tab | None:
    """`ensure_tab` for callers that can go on without it: failures are logged, not raised."""
    try:
        tab = ensure_tab(studio, project_id, version)
    except LabelStudioError as error:
        logger.warning('The tab "%s" of project %s is not kept up: %s', TITLE, project_id, error)
        return None
    if tab.note:
        logger.warning("%s", tab.note)
    return tab


def ensure_tab(studio: Studio, project_id: int, version: str | None = None) -> Tab:
    """Make the tab, or find it by its title and put its ordering back if it was lost.

    Whatever else people changed in it (filters, columns) is left alone.

    Args:
        studio: where.
        project_id: the project.
        version: the published version; Label Studio is then made to ask its backends' `/setup`
            again if it does not know that version yet. None: leave that alone.
    """
    views = studio.views(project_id)
    view = next((found for found in views if found.title == TITLE), None)
    if view is None:
        data = tab_data(TITLE, ordering=ORDERING, condition=_UNLABELLED)
        view, did = add_tab(studio, project_id, data, beside=views), "made"
    elif list(view.ordering) != ORDERING:
        data = {**view.data, "ordering": ORDERING}
        view, did = studio.update_view(project_id, view.id, data), "repaired"
    else:
        did = "found"
    return Tab(view.id, did, "" if version is None else why_untrue(studio, project_id, version))


def why_untrue(studio: Studio, project_id: int, version: str) -> str:
    """Why the tab shows another order than `version`, in one line with the remedy; "": it does not.

    If a connected backend is known with another version, Label Studio is made to ask it again.
    """
    backends = studio.backends(project_id)
    if backends and version not in {backend.model_version for backend in backends}:
        backends = studio.backends(project_id, refresh=True)
    counts = studio.model_versions(project_id)
    if not backends:
        # Predictions of reviewers' queues have no score, and weigh nothing.
        others = [
            name
            for name, count in counts.items()
            if count and name != version and queue_owner(name) is None
        ]
        return (
            f'The tab "{TITLE}" averages {len(others) + 1} versions of predictions, for no ML '
            "backend is connected: connect this one under Settings > Model"
            if others
            else ""
        )
    averaged = {backend.model_version for backend in backends if backend.model_version}
    if version not in averaged:
        return (
            f'The tab "{TITLE}" cannot show {version}: the connected ML backend does not answer '
            "/setup with it; start it, or restart it"
        )
    others = sorted(name for name in averaged if counts.get(name) and name != version)
    return (
        f'The tab "{TITLE}" averages {version} with {others[0]} of another connected ML backend: '
        "disconnect that one"
        if others
        else ""
    )


def add_tab(
    studio: Studio, project_id: int, data: Mapping[str, Any], *, beside: Sequence[ViewInfo]
) -> ViewInfo:
    """Make a tab `beside` those that the project has.

    Label Studio makes its own first tab only where there is none at all: it is made here then.
    """
    if not beside:
        studio.create_view(project_id, {"title": "Default", **_LOOKS})
    return studio.create_view(project_id, data)


def tab_data(
    title: str, *, ordering: Sequence[str], condition: Mapping[str, Any]
) -> dict[str, Any]:
    """The `data` of a list-shaped tab: its title, ordering and one filter, in the form of the
    Data Manager, with the columns hidden that say nothing of images.
    """
    hidden = [f"tasks:{column}" for column in _QUIET_COLUMNS]
    return {
        **_LOOKS,
        "title": title,
        "ordering": list(ordering),
        "hiddenColumns": {"explore": hidden, "labeling": [*hidden, "tasks:id"]},
        "filters": {"conjunction": "and", "items": [dict(condition)]},
    }
