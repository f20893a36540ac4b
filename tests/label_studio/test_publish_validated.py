"""All of publishing once more, with Label Studio's validation of predictions switched on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.errors import PublishError
from backend.label_studio.publish import OrderedTask, fresh_version, publish
from demo.studio_server import StudioServer, running_studio
from tests.conftest import owner
from tests.label_studio.conftest import colleague
from tests.label_studio.test_publish import *  # noqa: F403
from tests.label_studio.test_publish import BOX

# Made once more for this module: their Label Studio is another one.
__all__ = ["colleague", "owner"]

VALIDATION = "fflag_feat_utc_210_prediction_validation_15082025"


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioServer]:
    folder = tmp_path_factory.mktemp("validating")
    with running_studio(folder, settings={VALIDATION: "true"}) as server:
        yield server


def test_validation_is_on(owner, make_project):
    """What the open edition takes without it: a label that the project does not have."""
    project = make_project(tasks=1)
    value = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["no such label"]}
    region = {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "value": value,
    }
    body = [{"task": project.task_ids[0], "result": [region], "model_version": "v"}]
    answer = owner.http.post(f"/api/projects/{project.id}/import/predictions", json=body)
    assert answer.status_code == 400, answer.text
    assert "no such label" in answer.text


def test_boxes_label_studio_drops_are_found_and_nothing_is_switched(studio, make_project):
    """Here it drops nothing but refuses, and says why."""
    project = make_project(tasks=2)
    items = [OrderedTask(task, [{**BOX, "from_name": "nothing"}]) for task in project.task_ids]

    with pytest.raises(PublishError, match="'from_name' 'nothing' not found"):
        publish(studio, project.id, items, version=fresh_version())
    assert studio.project(project.id).model_version == ""
