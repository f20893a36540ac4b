"""Reviewer queues in the real Label Studio: what a tab shows, and what it serves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from backend.errors import LabelStudioError
from backend.label_studio import reviewer_tabs
from backend.label_studio.client import Studio
from backend.label_studio.publish import OrderedTask, fresh_version, publish
from backend.label_studio.reviewer_tabs import QueueName, ReviewerTabs
from backend.label_studio.tabs import ensure_tab, why_untrue
from backend.label_studio.versions import fresh_queue_version, queue_owner, stale_queue_versions
from demo.studio_server import StudioServer
from tests.label_studio.conftest import Project, tasks_of_view
from tests.loop.test_browser import CHROMIUM, FLAGS, log_in, stay_here
from tests.person import Person

ANN, BEN = QueueName("Ann"), QueueName("Ben")


def dealt(project: Project, count: int, seed: int = 0) -> list[int]:
    """So many tasks of the project, in an order that is not theirs."""
    return random.Random(seed).sample(project.task_ids, count)


def settings_of(person: Person, project_id: int, view_id: int) -> dict[str, Any]:
    """What the page sends when a tab's tasks are to be labelled, from the tab as it reads it."""
    views = person.call("GET", f"/api/dm/views/?project={project_id}")
    data = next(view["data"] for view in views if view["id"] == view_id)
    return {"ordering": data["ordering"], "filters": data["filters"]}


def serve(person: Person, project_id: int, view_id: int) -> dict[str, Any] | None:
    """What Label Tasks As Displayed serves on a tab; None at the end."""
    response = person.http.post(
        f"/api/dm/actions?id=next_task&tabID={view_id}&project={project_id}",
        json=settings_of(person, project_id, view_id),
    )
    if response.status_code == 404:
        return None
    assert response.is_success, response.text[:300]
    served: dict[str, Any] = response.json()
    return served


def shown(studio: Studio, project: Project, view_id: int) -> list[int]:
    return tasks_of_view(studio, view_id, project.id)


def fill(studio: Studio, project: Project, queue: QueueName, task_ids: Sequence[int]) -> int:
    """Make one queue; returns its tab."""
    (view_id,) = ReviewerTabs(studio, project.id).show({queue: task_ids})
    return view_id


def publish_some_orders(studio: Studio, project: Project) -> str:
    """Two orders, so that tasks have predictions of several versions beside their queue's."""
    for _ in range(2):
        version = fresh_version()
        order = [OrderedTask(task_id) for task_id in dealt(project, len(project.task_ids), seed=7)]
        publish(studio, project.id, order, version=version)
    return version


def test_two_reviewers_each_get_their_own_share_in_order(studio, make_project, owner, colleague):
    project = make_project(tasks=14)
    publish_some_orders(studio, project)
    images = dealt(project, 12)
    shares = {owner: images[::2], colleague: images[1::2]}
    both = {ANN: shares[owner], BEN: shares[colleague]}
    ann, ben = ReviewerTabs(studio, project.id).show(both)
    views = {owner: ann, colleague: ben}
    publish_some_orders(studio, project)
    for person, view in views.items():
        assert shown(studio, project, view) == shares[person]

    served: dict[Person, list[int]] = {owner: [], colleague: []}
    for _ in range(6):
        for person, view in views.items():
            task = serve(person, project.id, view)
            assert task is not None
            assert serve(person, project.id, view)["id"] == task["id"]  # the page is loaded again
            served[person].append(task["id"])
            person.submit(task)

    assert served == shares
    for person, view in views.items():
        assert serve(person, project.id, view) is None
        assert shown(studio, project, view) == shares[person]


def test_a_short_queue_in_a_large_project_is_the_same(
    studio, make_project, monkeypatch: pytest.MonkeyPatch
):
    project = make_project(tasks=9)
    monkeypatch.setattr(reviewer_tabs, "_TASKS_A_PREDICTION", 2)
    monkeypatch.setattr(Studio, "import_predictions", None)  # not for these few
    images = dealt(project, 4)
    assert shown(studio, project, fill(studio, project, ANN, images)) == images


def test_label_all_tasks_goes_on_as_before(studio, make_project, owner):
    project = make_project(tasks=4)
    order = dealt(project, 4, seed=3)
    publish(studio, project.id, [OrderedTask(i) for i in order], version=(live := fresh_version()))
    fill(studio, project, ANN, order[:1:-1])

    assert shown(studio, project, ensure_tab(studio, project.id).view_id) == order
    assert why_untrue(studio, project.id, live) == ""
    served = []
    while (task := owner.next_task(project.id)) is not None:
        served.append(task["id"])
        assert [one["model_version"] for one in task["predictions"]] == [live]
        owner.submit(task)
    assert served == order


def test_a_second_call_fills_the_same_tab_anew(studio, make_project, owner):
    project = make_project(tasks=6)
    first, second = dealt(project, 5, seed=1), dealt(project, 4, seed=2)
    view = fill(studio, project, ANN, first)
    (tab,) = [one for one in studio.views(project.id) if one.id == view]
    assert tab.title == "Queue: Ann"
    # Somebody sorts and widens the tab in the browser.
    changed = {**tab.data, "ordering": ["-tasks:id"], "gridWidth": 7}
    studio.update_view(project.id, view, changed)

    named = QueueName("Ann", "Rare cases")
    assert fill(studio, project, named, second) == view

    assert shown(studio, project, view) == second
    (tab,) = [one for one in studio.views(project.id) if one.id == view]
    assert (tab.title, tab.data["gridWidth"]) == ("Rare cases: Ann", 7)
    assert len(studio.views(project.id)) == 2  # and Label Studio's own
    assert list(studio.model_versions(project.id).values()) == [4]


def test_what_waits_in_a_queue(studio, make_project, owner):
    project = make_project(tasks=6)
    one, two, three, four, *_ = project.task_ids
    assert ReviewerTabs(studio, project.id).waiting(besides=[]) == {}
    fill(studio, project, ANN, [two, one])
    # A name that begins with another one is another queue.
    anna = QueueName("Anna")
    fill(studio, project, anna, [four, three])
    owner.submit({"id": one})

    tabs = ReviewerTabs(studio, project.id)
    assert tabs.waiting(besides=[BEN]) == {
        two: "Queue: Ann",
        three: "Queue: Anna",
        four: "Queue: Anna",
    }
    assert tabs.waiting(besides=[ANN]) == {three: "Queue: Anna", four: "Queue: Anna"}
    assert tabs.waiting(besides=[ANN, anna]) == {}


def test_an_emptied_queue_leaves_nothing_behind(studio, make_project):
    project = make_project(tasks=3)
    assert ReviewerTabs(studio, project.id).remove(ANN) == []
    fill(studio, project, ANN, project.task_ids[:2])
    kept = fill(studio, project, BEN, project.task_ids[2:])

    assert ReviewerTabs(studio, project.id).remove(ANN) == ["Queue: Ann"]

    assert [view.id for view in studio.views(project.id) if view.title != "Default"] == [kept]
    assert [queue_owner(version) for version in studio.model_versions(project.id)] == ["for Ben"]


def test_an_order_that_does_not_arrive_leaves_the_tab_as_it_was(
    studio, make_project, monkeypatch: pytest.MonkeyPatch
):
    project = make_project(tasks=4)
    images = dealt(project, 4)
    view = fill(studio, project, ANN, images)

    def by_id(_self: Studio, *_: object, **__: object) -> Sequence[int]:
        return sorted(images)

    monkeypatch.setattr(Studio, "ids_in_order", by_id)
    with pytest.raises(LabelStudioError, match="in the order it was sent"):
        fill(studio, project, ANN, images[::-1])

    assert shown(studio, project, view) == images
    assert len(studio.model_versions(project.id)) == 1


def test_what_a_deleted_tab_leaves_goes_after_a_day():
    now = datetime.now(timezone.utc)
    versions = [fresh_queue_version("for Ann"), fresh_queue_version("named A B"), fresh_version()]
    assert [queue_owner(version) for version in versions] == ["for Ann", "named A B", None]
    assert queue_owner("queue-of-somebody-else") is None

    assert stale_queue_versions([], shown=[], now=now) == []
    assert stale_queue_versions(versions, shown=[], now=now) == []
    later = now + timedelta(hours=25)
    assert stale_queue_versions(versions, shown=versions[:1], now=later) == versions[1:2]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
@pytest.mark.timeout(600)
def test_the_page_shows_and_serves_the_queue(label_studio: StudioServer, studio, make_project):
    project = make_project(tasks=8)
    images = dealt(project, 5)
    publish_some_orders(studio, project)
    view = fill(studio, project, ANN, images)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(90_000)
        stay_here(page)
        log_in(page, label_studio)
        with page.expect_response(lambda answer: "/api/tasks?" in answer.url) as listing:
            page.goto(f"{label_studio.url}/projects/{project.id}/data?tab={view}")
        listed = [task["id"] for task in listing.value.json()["tasks"]]
        button = page.get_by_role("button", name="Label All Tasks").first
        button.wait_for()
        box = button.bounding_box()
        assert box is not None
        # The arrow beside it opens the other way of labelling.
        page.mouse.click(box["x"] + box["width"] + 12, box["y"] + box["height"] / 2)
        with page.expect_response(lambda answer: "next_task" in answer.url) as answer:
            page.get_by_text("Label Tasks As Displayed").first.click()
        sent, served = answer.value.request.post_data_json, answer.value.json()
        browser.close()
    assert listed == images
    assert served["id"] == images[0]
    assert sent["ordering"] == ["tasks:predictions"]
    assert [one["operator"] for one in sent["filters"]["items"]] == ["contains"]
