"""Putting images first, for everyone or for reviewers, with the real Label Studio."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, insert

from backend.assembly import build_worker_context
from backend.job_kinds import ASSIGN, PUBLISH
from backend.jobs.handlers import WorkerContext
from backend.jobs.runner import Runner
from backend.label_studio.client import Studio
from backend.publishing.live_queue import published_queue
from backend.publishing.predict import Predictor
from backend.settings import Settings, load_settings
from backend.store.jobs import DONE
from backend.store.scores import RankRow, Store
from backend.store.tables import ranks
from demo.scene import Frame, generate
from demo.studio_server import StudioServer
from tests.api.server import Server, served
from tests.label_studio.conftest import WebServer, reply, tasks_of_view
from tests.label_studio.test_reviewer_tabs import serve
from tests.loop.conftest import CONFIG, MODELS, exports, make_project, web
from tests.person import Person

__all__ = ["exports", "make_project", "web"]

MakeProject = Callable[..., tuple[int, list[int]]]


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return list(generate(9, seed=4))


@pytest.fixture(scope="module")
def settings(
    label_studio: StudioServer, exports: Any, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    data_dir = tmp_path_factory.mktemp("data")
    (data_dir / "exports").symlink_to(exports)
    return load_settings(
        **{name.lower(): value for name, value in MODELS.items()},
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.admin.personal_token,
        data_dir=data_dir,
        allowed_image_hosts="127.0.0.1",
        validation_share=0,
    )


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Server]:
    with served(settings) as running:
        yield running


@pytest.fixture(scope="module")
def worker_context(settings: Settings) -> Iterator[WorkerContext]:
    """What a worker works with; its models are loaded once."""
    with build_worker_context(settings) as opened:
        yield opened


@pytest.fixture
def studio(label_studio: StudioServer) -> Iterator[Studio]:
    with Studio(label_studio.url, label_studio.admin.personal_token) as client:
        yield client


@pytest.fixture(scope="module")
def colleague(label_studio: StudioServer) -> Iterator[Person]:
    person = Person(label_studio.url, label_studio.add_user("reviewer@example.com"))
    with person.http:
        yield person


def ask(server: Server, image_ids: Sequence[int], **body: Any) -> httpx.Response:
    return server.http.post("/v1/assignments/queue", json={"image_ids": list(image_ids), **body})


def asked(server: Server, status: int, image_ids: Sequence[int], **body: Any) -> dict[str, Any]:
    answer = ask(server, image_ids, **body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(server: Server, status: int, image_ids: Sequence[int], **body: Any) -> str:
    detail = asked(server, status, image_ids, **body)["detail"]
    assert isinstance(detail, str)
    assert "\n" not in detail
    return detail


def work_off(worker_context: WorkerContext, project: int, kind: str) -> dict[str, Any]:
    """Do the one job of this kind that waits, as a worker does; returns its result."""
    with Runner(worker_context.handlers()) as runner:
        (job,) = worker_context.queue.list(project, ("queued",), kinds=(kind,))
        claim = worker_context.queue.claim(job.id)
        assert claim is not None
        runner.run(claim)
        done = worker_context.queue.get(job.id)
    assert done.state == DONE, done.error
    return dict(done.result)


def rank_all(worker_context: WorkerContext, project: int) -> list[int]:
    """Score and rank a project as the worker does after a training; returns the order."""
    worker_context.queue.submit(PUBLISH, project)
    work_off(worker_context, project, PUBLISH)
    return live_order(worker_context.store, project)


def live_order(store: Store, project: int) -> list[int]:
    live = store.publication(project)
    assert live is not None
    return [row.task_id for row in store.ranks(live.model_version)]


def served_order(studio: Studio, project: int) -> list[int]:
    """The order by which Label Studio's Label All Tasks goes."""
    version = studio.project(project).model_version
    found = studio.predictions_of(project, version)
    return [one.task_id for one in sorted(found, key=lambda one: one.score or 0.0)]


def boxes(studio: Studio, project: int) -> dict[int, list[Any]]:
    """Task -> the boxes that annotators are shown."""
    version = studio.project(project).model_version
    shown = studio.predictions_of(project, version)
    return {one.task_id: studio.prediction(one.id) or [] for one in shown}


def label(person: Person, task_id: int) -> None:
    person.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": []})


# --- for everyone ---------------------------------------------------------------------------------


def test_images_come_first_for_everyone_until_they_are_labelled(
    server: Server,
    worker_context: WorkerContext,
    studio: Studio,
    make_project: MakeProject,
    owner: Person,
    web: WebServer,
) -> None:
    project, images = make_project()
    order = rank_all(worker_context, project)
    assert sorted(order) == images
    drawn = boxes(studio, project)
    # This one has no picture: it is never scored.
    web.answers["/nothing.jpg"] = lambda handler: reply(handler, 200, b"no picture")
    row = {"data": {"image": f"{web.url}/nothing.jpg"}}
    owner.call("POST", f"/api/projects/{project}/import", json=[row])
    unscored = max(task.id for task in studio.tasks(project))

    chosen = [unscored, order[6], order[2]]
    answer = asked(server, 202, chosen)
    assert (answer["project_id"], answer["image_ids"]) == (project, chosen)
    assert answer["job"]["state"] == "queued"
    assert server.http.get(answer["job_url"]).json()["kind"] == "assign"
    assert served_order(studio, project) == order  # until the job is done
    result = work_off(worker_context, project, ASSIGN)

    rest = [image for image in order if image not in chosen]
    assert (
        served_order(studio, project)
        == [*chosen, *rest]
        == live_order(worker_context.store, project)
    )
    assert (result["put_first"], result["ranked"]) == (3, len(order) + 1)
    assert boxes(studio, project) == {**drawn, unscored: []}
    # What was scored comes with its place; what was not has none.
    rows = published_queue(studio, worker_context.store, project, 100).queue
    assert [(row.rank, row.task_id) for row in rows[:2]] == [(2, order[6]), (3, order[2])]

    task = owner.next_task(project)
    assert task is not None
    assert task["id"] == unscored
    owner.submit(task)
    # The worker re-ranks, as after a training: the pins stay.
    assert rank_all(worker_context, project)[:2] == [order[6], order[2]]
    assert served_order(studio, project)[:2] == [order[6], order[2]]
    label(owner, order[6])
    reranked = rank_all(worker_context, project)
    assert reranked[0] == order[2]

    # Another choice takes the place of this one, which goes back to where the ranking has it.
    asked(server, 202, [reranked[5]])
    work_off(worker_context, project, ASSIGN)
    natural = served_order(studio, project)[1:]
    asked(server, 202, [], project_id=project)
    work_off(worker_context, project, ASSIGN)
    unled = served_order(studio, project)
    assert [image for image in unled if image != reranked[5]] == natural
    assert set(unled) == set(reranked)
    assert rank_all(worker_context, project) == unled


def test_a_late_image_is_placed_behind_those_put_first(
    server: Server,
    settings: Settings,
    worker_context: WorkerContext,
    studio: Studio,
    make_project: MakeProject,
) -> None:
    project, _ = make_project()
    order = rank_all(worker_context, project)
    # The most certain ones first: every other image is more uncertain than they are.
    asked(server, 202, order[:-4:-1])
    work_off(worker_context, project, ASSIGN)
    live = worker_context.store.publication(project)
    assert live is not None
    # As if the most uncertain image had come after the order was made.
    late = order[0]
    rows = [row for row in worker_context.store.ranks(live.model_version) if row.task_id != late]
    _replace_ranks(worker_context.store, live.model_version, rows)

    predictor = Predictor(settings, worker_context.store, server.services.worker)
    task = next(task for task in studio.tasks(project) if task.id == late)
    (found,) = predictor.predict(project, [{"id": late, "data": dict(task.data)}], CONFIG)
    assert isinstance(found, dict)
    assert found["score"] > 2.5 / live.ranked  # of the third place


def _replace_ranks(store: Store, version: str, rows: Sequence[RankRow]) -> None:
    with store.begin() as connection:
        connection.execute(delete(ranks).where(ranks.c.model_version == version))
        connection.execute(insert(ranks), [{"model_version": version, **vars(r)} for r in rows])


def test_a_project_that_was_never_ranked(
    server: Server,
    worker_context: WorkerContext,
    studio: Studio,
    make_project: MakeProject,
    owner: Person,
) -> None:
    project, images = make_project()
    assert "give project_id" in refused(server, 422, images[:2])
    asked(server, 202, [images[4], images[1]], project_id=project)
    assert work_off(worker_context, project, ASSIGN)["ranked"] == 2
    task = owner.next_task(project)
    assert task is not None
    assert task["id"] == images[4]
    # Ranking it keeps the choice.
    assert rank_all(worker_context, project)[:2] == [images[4], images[1]]


def test_nothing_is_put_first_that_is_labelled(
    server: Server, worker_context: WorkerContext, make_project: MakeProject, owner: Person
) -> None:
    project, images = make_project()
    label(owner, images[0])
    label(owner, images[1])
    answer = asked(server, 202, [images[1], images[2], images[0]], project_id=project)
    assert answer["image_ids"] == [images[2]]
    assert answer["already_labelled"] == [images[1], images[0]]
    assert "labelled already" in refused(server, 422, images[:2], project_id=project)
    work_off(worker_context, project, ASSIGN)
    assert live_order(worker_context.store, project) == [images[2]]


# --- for reviewers --------------------------------------------------------------------------------


def test_two_reviewers_label_disjoint_shares_in_order(
    server: Server, studio: Studio, make_project: MakeProject, owner: Person, colleague: Person
) -> None:
    project, images = make_project()
    chosen = images[::-1]
    answer = asked(
        server, 201, chosen, project_id=project, reviewer=["Ann", "Ben"], name="Rare cases"
    )
    ann, ben = answer["queues"]
    assert (ann["title"], ben["title"]) == ("Rare cases: Ann", "Rare cases: Ben")
    assert (ann["image_ids"], ben["image_ids"]) == (chosen[::2], chosen[1::2])
    assert ann["url"] == f"{studio.url}/projects/{project}/data?tab={ann['view_id']}"
    labelled: dict[str, list[int]] = {"Ann": [], "Ben": []}
    for _ in images:
        for person, queue in ((owner, ann), (colleague, ben)):
            assert tasks_of_view(studio, queue["view_id"], project) == queue["image_ids"]
            task = serve(person, project, queue["view_id"])
            if task is not None:
                labelled[queue["reviewer"]].append(task["id"])
                person.submit(task)
    assert labelled == {"Ann": ann["image_ids"], "Ben": ben["image_ids"]}


def test_a_reviewers_queue_is_filled_anew_and_emptied(
    server: Server, studio: Studio, make_project: MakeProject, owner: Person
) -> None:
    project, images = make_project()
    label(owner, images[3])
    first = asked(server, 201, images[:4], project_id=project, reviewer="Ann")
    assert first["already_labelled"] == [images[3]]
    second = asked(server, 201, images[5:2:-1], project_id=project, reviewer="Ann")
    (queue,) = second["queues"]
    assert queue["view_id"] == first["queues"][0]["view_id"]
    assert tasks_of_view(studio, queue["view_id"], project) == images[5:2:-1]

    by_name = asked(server, 201, images[:1], project_id=project, name="Odd ones")["queues"][0]
    assert (by_name["title"], by_name["reviewer"]) == ("Odd ones", None)
    # One image for two: nothing is left for the second, whose tab goes.
    fewer = asked(server, 201, images[1:2], project_id=project, reviewer=["Ben", "Ann"])
    assert [one["reviewer"] for one in fewer["queues"]] == ["Ben"]
    assert fewer["removed"] == ["Queue: Ann"]
    gone = asked(server, 200, [], project_id=project, reviewer="Ben")
    assert (gone["queues"], gone["removed"]) == ([], ["Queue: Ben"])
    assert asked(server, 200, [], project_id=project, reviewer="Ben")["removed"] == []
    assert [view.title for view in studio.views(project)] == ["Default", "Odd ones"]


def test_what_waits_for_another_reviewer_is_refused(
    server: Server, studio: Studio, make_project: MakeProject, owner: Person
) -> None:
    project, images = make_project()
    ann = asked(server, 201, images[:3], project_id=project, reviewer="Ann")["queues"][0]
    line = refused(server, 409, [images[5], images[2]], project_id=project, reviewer="Ben")
    assert f"image {images[2]}" in line
    assert "Queue: Ann" in line
    assert str(images[5]) not in line
    assert tasks_of_view(studio, ann["view_id"], project) == images[:3]
    assert len(studio.views(project)) == 2
    # Labelled, it may go to someone who looks at it again.
    label(owner, images[2])
    asked(server, 201, [images[5], images[2]], project_id=project, reviewer="Ben")
    # Both at once are dealt out again.
    asked(server, 201, images[:6], project_id=project, reviewer=["Ben", "Ann"])


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines(label_studio: StudioServer) -> tuple[int, list[int], int, list[int]]:
    """Two projects with three images each."""
    found: list[Any] = []
    person = Person(label_studio.url, label_studio.admin)
    with person.http, Studio(label_studio.url, label_studio.admin.personal_token) as studio:
        for title in ("First line", "Second line"):
            body = {"title": title, "label_config": CONFIG}
            project = person.call("POST", "/api/projects/", json=body)["id"]
            rows = [{"data": {"image": f"https://images.example/{i}.jpg"}} for i in range(3)]
            person.call("POST", f"/api/projects/{project}/import", json=rows)
            found += [project, [task.id for task in studio.tasks(project)]]
    return tuple(found)


@pytest.mark.parametrize("whom", [{}, {"reviewer": "Ann"}, {"name": "Odd ones"}])
def test_images_that_are_not_there_are_named(
    server: Server, lines: tuple[int, list[int], int, list[int]], whom: dict[str, Any]
) -> None:
    project, images, _, others = lines
    line = refused(server, 422, [images[0], 999_999, others[1]], project_id=project, **whom)
    assert f"not in project {project}: images 999999, {others[1]};" in line
    assert "and 2 more" in refused(server, 422, range(800_000, 800_012), project_id=project, **whom)
    assert f"image {images[1]} comes twice" in refused(
        server, 422, [images[1], images[0], images[1]], project_id=project, **whom
    )
    assert refused(server, 404, images, project_id=777_777, **whom)
    assert refused(server, 404, [], project_id=777_777, **whom)
    assert "give project_id" in refused(server, 422, [], **whom)
    assert server.services.queue.list(project) == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image_ids": None},
        {"image_ids": [0]},
        {"image_ids": ["x"]},
        {"image_ids": [2**31]},
        {"image_ids": list(range(1, 1002))},
        {"image_ids": [1], "project_id": 0},
        {"image_ids": [1], "reviewer": ""},
        {"image_ids": [1], "reviewer": " "},
        {"image_ids": [1], "reviewer": []},
        {"image_ids": [1], "reviewer": ["Ann", "Ann "]},
        {"image_ids": [1], "reviewer": ["Ann", 3]},
        {"image_ids": [1], "reviewer": "A\nnn"},
        {"image_ids": [1], "reviewer": "\ud800"},
        {"image_ids": [1], "name": "\0"},
        {"image_ids": [1], "name": "x" * 101},
    ],
)
def test_what_is_malformed_is_refused(server: Server, body: dict[str, Any]) -> None:
    answer = server.http.post(
        "/v1/assignments/queue",
        content=json.dumps({"project_id": 1, **body}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    assert "\n" not in answer.json()["detail"]


def test_images_of_two_projects_are_refused(
    server: Server, worker_context: WorkerContext, make_project: MakeProject
) -> None:
    (one, first), (other, second) = make_project(), make_project()
    rank_all(worker_context, one)
    rank_all(worker_context, other)
    line = refused(server, 422, [first[0], second[0]])
    assert f"of project {one}" in line
    assert f"of project {other}" in line


def test_a_key_moves_its_own_projects_only(
    server: Server, lines: tuple[int, list[int], int, list[int]]
) -> None:
    mine, images, foreign, others = lines
    with server.only_for(mine):
        assert f"project {foreign}" in refused(server, 403, others, project_id=foreign)
        assert refused(server, 403, [], project_id=foreign, reviewer="Ann")
        # Their own project named, the images are unknown in it.
        assert "not in project" in refused(server, 422, others, project_id=mine)
    with server.only_for(mine, may_write=False):
        assert "only read" in refused(server, 403, images, project_id=mine)
