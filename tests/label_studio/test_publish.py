"""Publishing, against the real Label Studio: what annotators are served, whatever goes wrong."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from backend.errors import JobLost, PublishError, RefusedError, UnreachableError
from backend.label_studio.client import Studio
from backend.label_studio.publish import (
    OrderedTask,
    fresh_version,
    is_order_live,
    publish,
    rank_score,
    remove_versions,
    restore_order,
)
from backend.label_studio.versions import made_at

BOX = {
    "id": "b1",
    "type": "rectanglelabels",
    "from_name": "label",
    "to_name": "image",
    "original_width": 100,
    "original_height": 50,
    "image_rotation": 0,
    "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0, "rectanglelabels": ["RBC"]},
}


def shuffled(task_ids, seed=0):
    order = list(task_ids)
    random.Random(seed).shuffle(order)
    return order


def ranked(order):
    return [OrderedTask(task_id, [BOX]) for task_id in order]


def test_two_annotators_are_served_the_ranks_in_order(studio, make_project, owner, colleague):
    project = make_project(tasks=12)
    order = shuffled(project.task_ids)
    version = fresh_version("abcdef1234")

    published = publish(studio, project.id, ranked(order), version=version)

    assert (published.version, published.count, published.replaced) == (version, 12, "")
    assert is_order_live(studio, project.id, version)
    served: list[int] = []
    turn = threading.Lock()

    def work(person):
        while True:
            # Two requests within a millisecond may meet the same unlocked task on SQLite: that is
            # Label Studio's own business. People do not click in the same millisecond.
            with turn:
                task = person.next_task(project.id)
                if task is None:
                    return
                served.append(task["id"])
            assert [p["model_version"] for p in task["predictions"]] == [version]
            person.submit(task)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, (owner, colleague)))

    assert served == order


def test_a_second_publish_is_served_after_annotations(studio, make_project, owner):
    project = make_project(tasks=6)
    first, second = fresh_version(), fresh_version()
    order = shuffled(project.task_ids)
    publish(studio, project.id, ranked(order), version=first)
    for expected in order[:2]:
        task = owner.next_task(project.id)
        assert task["id"] == expected
        owner.submit(task)

    rest = order[2:][::-1]
    published = publish(studio, project.id, ranked(rest), version=second)

    assert published.replaced == first
    # The replaced order is still there: someone may have a task of it open.
    assert studio.model_versions(project.id)[first] == 6
    assert owner.next_task(project.id)["id"] == rest[0]


def test_an_open_task_can_be_submitted_after_the_next_publish(studio, make_project, owner):
    project = make_project(tasks=3)
    publish(studio, project.id, ranked(project.task_ids), version=fresh_version())
    open_task = owner.next_task(project.id)

    publish(studio, project.id, ranked(project.task_ids[::-1]), version=fresh_version())

    owner.submit(open_task)
    assert owner.next_task(project.id)["id"] == project.task_ids[-1]


def test_old_orders_go_and_what_is_served_stays(studio, make_project):
    project = make_project(tasks=2)
    foreign = [
        {"task": task_id, "result": [], "score": 0.5, "model_version": "someone-else"}
        for task_id in project.task_ids
    ]
    studio.import_predictions(project.id, foreign)
    versions = [fresh_version() for _ in range(3)]

    for version in versions:
        publish(studio, project.id, ranked(project.task_ids), version=version)
    removed = remove_versions(
        studio, project.id, [versions[0], versions[2], "hf-gone"], hold=lambda: None
    )

    # Asked for all three, it spares the one that is served.
    assert removed == [versions[0], "hf-gone"]
    assert studio.model_versions(project.id) == {
        versions[2]: 2,
        versions[1]: 2,
        "someone-else": 2,
    }


def test_nothing_is_deleted_once_the_work_went_to_another_process(studio, make_project):
    project = make_project(tasks=1)
    versions = [fresh_version() for _ in range(2)]
    for version in versions:
        publish(studio, project.id, ranked(project.task_ids), version=version)

    def lost():
        raise JobLost

    with pytest.raises(JobLost):
        remove_versions(studio, project.id, versions[:1], hold=lost)
    with pytest.raises(JobLost):
        publish(
            studio,
            project.id,
            ranked(project.task_ids),
            version=fresh_version(),
            before_switch=lambda version, replaced: lost(),
        )
    assert is_order_live(studio, project.id, versions[1])
    assert studio.model_versions(project.id)[versions[0]] == 1


KILLED = """
import os, signal, sys, json
from backend.label_studio.client import Studio
from backend.label_studio.publish import OrderedTask
from backend.label_studio.publish import publish

url, token, project_id, version, step, order = json.loads(sys.stdin.read())

def die(reached):
    if reached == step:
        os.kill(os.getpid(), signal.SIGKILL)

items = [OrderedTask(task_id) for task_id in order]
publish(Studio(url, token), project_id, items, version=version, on_step=die)
"""


def publish_and_die(label_studio, project_id, order, version, step):
    """Publish in another process, which is killed when it reaches `step`."""
    token = label_studio.admin.personal_token
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        input=json.dumps([label_studio.url, token, project_id, version, step, order]),
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("step", ["imported", "switched"])
def test_killed_anywhere_leaves_one_order_or_the_other(
    label_studio, studio, make_project, owner, step
):
    project = make_project(tasks=4)
    old, killed, later = (fresh_version() for _ in range(3))
    order = project.task_ids
    publish(studio, project.id, ranked(order), version=old)

    publish_and_die(label_studio, project.id, order[::-1], killed, step)

    switched = step == "switched"
    assert is_order_live(studio, project.id, killed if switched else old)
    served = owner.next_task(project.id)
    assert served["id"] == (order[-1] if switched else order[0])
    owner.submit(served)
    rest = [task_id for task_id in shuffled(order, seed=3) if task_id != served["id"]]
    publish(studio, project.id, ranked(rest), version=later)
    assert owner.next_task(project.id)["id"] == rest[0]


def test_deleted_tasks_are_left_out(studio, make_project, owner):
    project = make_project(tasks=5)
    order = shuffled(project.task_ids)
    owner.call("DELETE", f"/api/tasks/{order[0]}/")

    published = publish(studio, project.id, ranked(order), version=fresh_version())

    assert published.vanished == (order[0],)
    assert published.count == 4
    assert is_order_live(studio, project.id, published.version)
    assert owner.next_task(project.id)["id"] == order[1]


def test_a_task_deleted_between_import_and_check_is_left_out(studio, make_project, owner):
    project = make_project(tasks=4)
    order = shuffled(project.task_ids)
    pending = [order[0]]

    def delete_one(step):
        if step == "imported" and pending:
            owner.call("DELETE", f"/api/tasks/{pending.pop()}/")

    published = publish(
        studio, project.id, ranked(order), version=fresh_version(), on_step=delete_one
    )

    assert published.vanished == (order[0],)
    assert [task.id for task in studio.tasks(project.id)] == sorted(order[1:])
    assert owner.next_task(project.id)["id"] == order[1]


def test_all_tasks_deleted_is_one_clear_line(studio, make_project, owner):
    project = make_project(tasks=1)
    owner.call("DELETE", f"/api/tasks/{project.task_ids[0]}/")

    with pytest.raises(PublishError, match="deleted from project"):
        publish(studio, project.id, ranked(project.task_ids), version=fresh_version())


def test_a_task_annotated_meanwhile_does_no_harm(studio, make_project, owner, colleague):
    project = make_project(tasks=3)
    order = project.task_ids
    publish(studio, project.id, ranked(order), version=fresh_version())

    def annotate(step):
        if step == "checked":
            owner.submit(owner.next_task(project.id))

    publish(studio, project.id, ranked(order), version=fresh_version(), on_step=annotate)

    assert colleague.next_task(project.id)["id"] == order[1]


def test_a_doubled_import_is_found_and_nothing_is_switched(studio, make_project):
    project = make_project(tasks=3)
    old, doubled = fresh_version(), fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=old)

    def double(step):
        if step == "imported":
            row = {"task": project.task_ids[0], "result": [], "score": 0.1}
            studio.import_predictions(project.id, [{**row, "model_version": doubled}])

    with pytest.raises(PublishError, match="instead of 3"):
        publish(studio, project.id, ranked(project.task_ids), version=doubled, on_step=double)
    assert is_order_live(studio, project.id, old)


@pytest.mark.since("1.21", "older versions take boxes that do not fit the label config")
def test_boxes_label_studio_drops_are_found_and_nothing_is_switched(studio, make_project):
    project = make_project(tasks=2)
    wrong = {**BOX, "from_name": "nothing"}
    items = [OrderedTask(task_id, [wrong]) for task_id in project.task_ids]

    with pytest.raises(PublishError, match="made 0 of 2 predictions"):
        publish(studio, project.id, items, version=fresh_version())
    assert studio.project(project.id).model_version == ""


def test_large_orders_travel_in_several_requests(studio, make_project, monkeypatch):
    monkeypatch.setattr("backend.label_studio.importing.BATCH_ITEMS", 2)
    monkeypatch.setattr("backend.label_studio.publish.READ_BACK_LIMIT", 0)
    project = make_project(tasks=5)
    seen = []

    published = publish(
        studio,
        project.id,
        ranked(project.task_ids),
        version=fresh_version(),
        on_progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(2, 5), (4, 5), (5, 5)]
    scores = {p.task_id: p.score for p in studio.predictions_of(project.id, published.version)}
    assert scores == {t: rank_score(rank, 5) for rank, t in enumerate(project.task_ids)}


class Proxied(Studio):
    """A Label Studio behind a proxy that fails imports in the way `fail` says."""

    def __init__(self, label_studio, fail):
        super().__init__(label_studio.url, label_studio.admin.personal_token, retries=0)
        self.fail = fail

    def import_predictions(self, project_id, items):
        return self.fail(super().import_predictions, project_id, items)


def answer_lost(send, project_id, items):
    send(project_id, items)
    raise UnreachableError("the proxy lost patience")


def nothing_sent(send, project_id, items):
    raise RefusedError("bad gateway", 502)


def at_most_two(send, project_id, items):
    if len(items) > 2:
        raise RefusedError("too large", 413)
    return send(project_id, items)


@pytest.mark.parametrize("fail", [answer_lost, at_most_two])
def test_proxies_are_coped_with(label_studio, make_project, monkeypatch, fail):
    monkeypatch.setattr("backend.label_studio.importing.BATCH_ITEMS", 4)
    project = make_project(tasks=7)
    with Proxied(label_studio, fail) as studio:
        published = publish(studio, project.id, ranked(project.task_ids), version=fresh_version())

        assert published.count == 7
        assert studio.model_versions(project.id) == {published.version: 7}
        assert is_order_live(studio, project.id, published.version)


def test_an_import_that_never_arrives_switches_nothing(label_studio, make_project, monkeypatch):
    monkeypatch.setattr("backend.label_studio.importing.ARRIVAL_S", 0.2)
    project = make_project(tasks=2)
    with Proxied(label_studio, nothing_sent) as studio:
        with pytest.raises(PublishError, match="bad gateway"):
            publish(studio, project.id, ranked(project.task_ids), version=fresh_version())
        assert studio.project(project.id).model_version == ""


def test_the_title_trap_is_repaired(studio, make_project, owner, web):
    from tests.label_studio.test_backends import be_a_backend

    project = make_project(tasks=3)
    version = fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=version)
    be_a_backend(web, version)
    body = {"project": project.id, "url": web.url, "title": "Our model"}
    owner.call("POST", "/api/ml/", json=body)
    owner.call("PATCH", f"/api/projects/{project.id}/", json={"model_version": "Our model"})
    assert not is_order_live(studio, project.id, version)

    assert restore_order(studio, project.id, version)

    assert is_order_live(studio, project.id, version)
    assert owner.next_task(project.id)["id"] == project.task_ids[0]


def test_restoring_leaves_a_version_set_on_purpose_alone(studio, make_project):
    project = make_project(tasks=1)
    ours = fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=ours)
    row = {"task": project.task_ids[0], "result": [], "score": 0.5, "model_version": "theirs"}
    studio.import_predictions(project.id, [row])
    studio.set_order(project.id, "theirs")

    assert not restore_order(studio, project.id, ours)
    assert studio.project(project.id).model_version == "theirs"


def test_sampling_changed_by_hand_is_left_alone(studio, make_project, owner):
    project = make_project(tasks=1)
    ours = fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=ours)
    changed = {"sampling": "Uniform sampling"}
    owner.call("PATCH", f"/api/projects/{project.id}/", json=changed)

    assert not restore_order(studio, project.id, ours)
    assert studio.project(project.id).sampling == "Uniform sampling"


@pytest.mark.parametrize(
    ("items", "version", "message"),
    [
        ([], fresh_version(), "nothing to publish"),
        ([OrderedTask(1), OrderedTask(1)], fresh_version(), "Task 1 is ranked twice"),
        ([OrderedTask(1)], "hf-mine", "fresh_version"),
    ],
    ids=["nothing", "twice", "stale"],
)
def test_impossible_orders_are_refused_before_any_call(items, version, message):
    with pytest.raises(PublishError, match=message):
        publish(None, 1, items, version=version)


def test_versions_are_fresh_within_a_millisecond_and_sort_by_time():
    versions = [fresh_version("Detector-11n!") for _ in range(200)]

    assert len(set(versions)) == 200
    assert all(version.startswith("hf-") and version.endswith("-Detector") for version in versions)
    assert [v[:22] for v in versions] == sorted(v[:22] for v in versions)
    assert abs(made_at(versions[0]) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert made_at("hf-hello") is None
    assert made_at("hf-99999999-999999-000") is None
