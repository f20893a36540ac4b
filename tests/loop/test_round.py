"""A whole round as a user runs it: the command line against the real Label Studio."""

from __future__ import annotations

import signal
import struct
import time
import zlib
from collections.abc import Callable

import pytest

from demo.scene import Frame
from tests.label_studio.conftest import WebServer, reply
from tests.loop.conftest import Command
from tests.person import Person

MakeProject = Callable[..., tuple[int, list[int]]]


def label_all(people: list[Person], project: int, count: int) -> list[int]:
    """Let people press Label All Tasks in turn; returns the tasks they were served."""
    served = []
    for turn in range(count):
        person = people[turn % len(people)]
        task = person.next_task(project)
        assert task is not None
        assert task["predictions"], "served without its pre-annotation"
        served.append(task["id"])
        person.submit(task)
    return served


def test_two_annotators_are_served_the_queue_and_a_second_round_serves_the_new_one(
    command: Command, make_project: MakeProject, annotators: list[Person], owner: Person
) -> None:
    project, task_ids = make_project()
    report = command.json("score", project)
    queue = report["queue"]
    assert (report["project_id"], report["strategy"]) == (project, "diverse_uncertainty")
    assert (report["scored"], report["skipped"]) == (len(task_ids), [])
    assert [row["rank"] for row in queue] == list(range(1, len(task_ids) + 1))
    assert sorted(row["image_id"] for row in queue) == task_ids
    for row in queue:
        assert set(row["scores"]) == {"lowest_confidence", "margin_sampling", "entropy"}
        assert all(0 <= score <= 1 for score in [row["uncertainty_score"], *row["scores"].values()])
        assert row["thumbnail"].startswith("http")
    assert owner.call("GET", f"/api/projects/{project}")["model_version"] == report["model_version"]

    first = label_all(annotators, project, 6)
    assert first == [row["image_id"] for row in queue[:6]]
    left = command.json("queue", project)
    assert [row["image_id"] for row in left["queue"]] == [row["image_id"] for row in queue[6:]]

    again = command.json("score", project)
    assert again["scored"] == 0
    assert again["model_version"] != report["model_version"]
    assert not {row["image_id"] for row in again["queue"]} & set(first)
    assert label_all(annotators, project, 4) == [row["image_id"] for row in again["queue"][:4]]


def test_near_duplicates_wait_behind_one_of_each_sequence(
    command: Command, make_project: MakeProject, frames: list[Frame]
) -> None:
    project, task_ids = make_project()
    sequence_of = dict(zip(task_ids, (frame.sequence for frame in frames), strict=True))
    order = [row["image_id"] for row in command.json("score", project, "--dry-run")["queue"]]
    sequences = [sequence_of[task_id] for task_id in order]
    distinct = len(set(sequences))
    plain = command.json("score", project, "--dry-run", "--strategy", "combined")["queue"]
    plain_sequences = [sequence_of[row["image_id"]] for row in plain]
    # The spread shows more of the line in as many picks as there are sequences.
    assert len(set(sequences[:distinct])) > len(set(plain_sequences[:distinct]))


def test_a_dry_run_changes_nothing_in_label_studio(
    command: Command, make_project: MakeProject, owner: Person
) -> None:
    project, _task_ids = make_project()
    before = owner.call("GET", f"/api/projects/{project}")
    report = command.json("score", project, "--dry-run", "--limit", "5")
    assert report["model_version"] is None
    assert len(report["queue"]) == 5
    after = owner.call("GET", f"/api/projects/{project}")
    assert (after["sampling"], after["model_version"]) == (
        before["sampling"],
        before["model_version"],
    )
    assert owner.call("GET", f"/api/predictions/?project={project}") == []


@pytest.mark.parametrize("strategy", ["lowest_confidence", "margin_sampling", "entropy"])
def test_a_plain_strategy_orders_by_its_own_score(
    command: Command, make_project: MakeProject, strategy: str
) -> None:
    project, _ = make_project()
    queue = command.json("score", project, "--dry-run", "--strategy", strategy)["queue"]
    scores = [row["scores"][strategy] for row in queue]
    assert scores == sorted(scores)
    assert [row["uncertainty_score"] for row in queue] == scores


def test_only_the_queue_is_published_when_told_so(
    command: Command, make_project: MakeProject, owner: Person
) -> None:
    project, _ = make_project()
    command.environment["PUBLISH"] = "queue"
    report = command.json("score", project, "--limit", "7")
    published = owner.call("GET", f"/api/predictions/?project={project}")
    ranked = sorted(published, key=lambda prediction: prediction["score"])
    assert [p["task"] for p in ranked] == [row["image_id"] for row in report["queue"]]
    assert [p["score"] for p in ranked] == pytest.approx([(i + 0.5) / 7 for i in range(7)])


def test_a_killed_scoring_run_goes_on_where_it_was(
    command: Command, make_project: MakeProject
) -> None:
    project, task_ids = make_project()
    process = command.start("score", project)
    deadline = time.monotonic() + 200
    stored = 0
    while not stored and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        stored = _stored(command, project)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -9, "the run was over before it could be killed"
    stored = _stored(command, project)
    report = command.json("score", project)
    assert report["scored"] == len(task_ids) - stored
    assert len(report["queue"]) == len(task_ids)


def _stored(command: Command, project: int) -> int:
    store = command.store
    try:
        with store.begin() as connection:
            found = connection.exec_driver_sql(
                f"SELECT COUNT(*) FROM scores WHERE project_id = {project}"
            )
            return int(found.scalar() or 0)
    finally:
        store.close()


def test_bad_images_are_named_and_the_others_go_on(
    command: Command, make_project: MakeProject, web: WebServer, frames: list[Frame]
) -> None:
    files = {
        "good.jpg": frames[0].jpeg,
        "empty.jpg": b"",
        "cut.jpg": frames[1].jpeg[: len(frames[1].jpeg) // 2],
        "text.jpg": b"this is no image",
        "huge.png": _png_header(20_000, 5_000),
        "gone.jpg": b"",
        "fine.jpg": frames[20].jpeg,
    }
    project, task_ids = make_project(files)
    web.answers["/gone.jpg"] = lambda handler: reply(handler, 404, b"")
    report = command.json("score", project)
    name_of = dict(zip(task_ids, files, strict=True))
    reasons = {name_of[row["image_id"]]: row["reason"] for row in report["skipped"]}
    assert sorted(reasons) == ["cut.jpg", "empty.jpg", "gone.jpg", "huge.png", "text.jpg"]
    assert "empty" in reasons["empty.jpg"]
    assert "truncated" in reasons["cut.jpg"]
    assert "no image" in reasons["text.jpg"]
    assert "too large" in reasons["huge.png"]
    assert "404" in reasons["gone.jpg"]
    assert all("\n" not in reason for reason in reasons.values())
    assert sorted(name_of[row["image_id"]] for row in report["queue"]) == ["fine.jpg", "good.jpg"]


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be of this size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


def test_a_task_without_the_image_field_is_named(
    command: Command, owner: Person, make_project: MakeProject, frames: list[Frame]
) -> None:
    project, _ = make_project({"good.jpg": frames[0].jpeg})
    # Label Studio refuses such tasks at import while the config asks for the field.
    other = (
        '<View><Image name="i" value="$photo"/><RectangleLabels name="l" toName="i">'
        '<Label value="bolt"/></RectangleLabels></View>'
    )
    bare = owner.call("POST", "/api/projects/", json={"title": "No image"})["id"]
    owner.call("POST", f"/api/projects/{bare}/import", json=[{"data": {"text": "hello"}}])
    owner.call("PATCH", f"/api/projects/{bare}", json={"label_config": other})
    _, errors = command.run("score", bare, status=1)
    assert "has no image in 'photo'" in errors
    assert "Traceback" not in errors
    assert command.json("score", project)["scored"] == 1


def test_a_config_without_rectangles_is_one_line(command: Command, owner: Person) -> None:
    config = (
        '<View><Text name="t" value="$text"/><Choices name="c" toName="t">'
        '<Choice value="a"/></Choices></View>'
    )
    body = {"title": "Texts", "label_config": config}
    project = owner.call("POST", "/api/projects/", json=body)["id"]
    _, errors = command.run("score", project, status=1)
    assert "RectangleLabels" in errors
    assert "Traceback" not in errors


def test_classes_without_a_label_are_named_on_both_sides(
    command: Command, make_project: MakeProject
) -> None:
    config = (
        '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
        '<Label value="Bolt"/><Label value="hexagon" predicted_values="nut"/><Label value="rope"/>'
        "</RectangleLabels></View>"
    )
    project, _ = make_project(config=config)
    output, errors = command.run("score", project)
    noted = " ".join(errors.split())
    assert "No label for washer, gear, bracket, spring, crack, dent" in noted
    assert "No class for rope" in noted
    assert "ranked by diverse_uncertainty" in output


def test_a_wrong_token_a_missing_project_and_weights_elsewhere_are_one_line(
    command: Command, make_project: MakeProject
) -> None:
    _, errors = command.run("score", 999_999, status=1)
    assert "999999" in errors
    command.environment["MODEL"] = "/etc/passwd"
    _, errors = command.run("score", 1, status=1)
    assert "MODEL_DIR" in errors
    assert "Traceback" not in errors
    command.environment["LABEL_STUDIO_API_KEY"] = "wrong"
    _, errors = command.run("score", 1, status=1)
    assert "LABEL_STUDIO_API_KEY" in errors
    assert "Traceback" not in errors


def test_label_studio_that_is_down_is_one_line(command: Command) -> None:
    command.environment["LABEL_STUDIO_URL"] = "http://127.0.0.1:9"
    _, errors = command.run("score", 1, status=1)
    assert "127.0.0.1:9" in errors
    assert "Traceback" not in errors


def test_the_doctor_says_what_is_wrong_and_what_to_do(
    command: Command, make_project: MakeProject, owner: Person
) -> None:
    project, _ = make_project()
    # A title is whatever someone wrote.
    nasty = {"title": "Line [/red] \x1b[31m \u202e"}
    owner.call("PATCH", f"/api/projects/{project}/", json=nasty)
    output, _ = command.run("doctor", project)
    assert r"Line [/red] \x1b[31m \u202e" in output
    assert "No order was published yet" in output
    assert "worker" not in output
    command.run("score", project)
    output, _ = command.run("doctor", project)
    assert "No order was published yet" not in output
    assert "start `python -m backend worker`" in output
