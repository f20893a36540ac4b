"""Two members of a project, as Enterprise and databases that came from it have them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from backend.label_studio.client import Studio
from backend.learning.sync_annotations import AnnotationReader
from backend.store.annotations import AnnotationStore
from demo.studio_server import StudioServer
from tests.label_studio.conftest import find_tab
from tests.label_studio.test_reviewer_tabs import serve
from tests.loop.conftest import Command
from tests.person import Person

pytestmark = pytest.mark.timeout(300)


def join(server: StudioServer, project_id: int, people: list[Person]) -> None:
    """Make members the way a database from Enterprise has them: the open edition cannot."""
    rows = [(person.account.user_id, project_id) for person in people]
    with closing(sqlite3.connect(server.data_dir / "label_studio.sqlite3", timeout=60)) as database:
        database.executemany(
            "INSERT INTO projects_projectmember (user_id, project_id, enabled, created_at, "
            "updated_at) VALUES (?, ?, 1, datetime('now'), datetime('now'))",
            rows,
        )
        database.commit()


def test_what_was_skipped_under_the_order_before_was_not_passed_over(
    command: Command,
    label_studio: StudioServer,
    make_project: Callable[..., tuple[int, list[int]]],
    owner: Person,
) -> None:
    project, _ = make_project()
    command.json("score", project)
    for _ in range(8):
        task = owner.next_task(project)
        assert task is not None
        skip = {"result": [], "was_cancelled": True, "lead_time": 1.0}
        owner.call("POST", f"/api/tasks/{task['id']}/annotations/", json=skip)
    command.json("score", project, "--strategy", "random")
    for _ in range(6):
        task = owner.next_task(project)
        assert task is not None
        owner.submit(task)
    with Studio(label_studio.url, label_studio.admin.personal_token) as studio:
        AnnotationReader(studio, AnnotationStore(command.store)).read(studio.project(project))

    output = " ".join(command.run("doctor", project)[0].split())

    assert "is served" in output
    assert "did not come in the published order" not in output


def test_a_project_with_two_members_is_labelled_by_the_tab(
    command: Command,
    label_studio: StudioServer,
    make_project: Callable[..., tuple[int, list[int]]],
    owner: Person,
    annotators: list[Person],
) -> None:
    project, _ = make_project()
    order = [image["image_id"] for image in command.json("score", project)["queue"]]
    join(label_studio, project, annotators[:2])

    served = []
    for _ in range(6):
        task = owner.next_task(project)
        assert task is not None
        served.append(task["id"])
        owner.submit(task)
    assert served != order[:6]
    # However they fell, most answers were not of the first images.
    for task_id in [task_id for task_id in order if task_id not in served][-10:]:
        owner.submit({"id": task_id})
        served.append(task_id)
    with Studio(label_studio.url, label_studio.admin.personal_token) as studio:
        reader = AnnotationReader(studio, AnnotationStore(command.store))
        reader.read(studio.project(project))
        tab = find_tab(studio, project)

    output = " ".join(command.run("doctor", project)[0].split())

    assert "The last 16 annotations did not come in the published order" in output
    assert output.endswith(
        'next: open the tab "Hardest first" of the Data Manager and press Label Tasks As Displayed'
    )
    assert tab is not None
    for task_id in [task_id for task_id in order if task_id not in served][:5]:
        found = serve(owner, project, tab.id)
        assert found is not None
        assert found["id"] == task_id
        owner.submit(found)
