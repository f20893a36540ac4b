"""What the doctor says of a real Label Studio, and the one thing to do about each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from backend.doctor.findings import failed, next_step
from backend.doctor.label_studio import diagnose, examine
from backend.errors import RefusedError
from backend.images.source import ImageSource
from backend.label_studio.client import Studio
from backend.label_studio.publish import fresh_version, publish
from backend.label_studio.records import Release
from backend.settings import load_settings
from tests.label_studio.conftest import reply, serving
from tests.label_studio.test_backends import be_a_backend, connect, ranked


def findings_by_check(findings):
    found = {}
    for finding in findings:
        found.setdefault(finding.check, []).append(finding)
    return found


@pytest.fixture
def settings(label_studio, tmp_path):
    return load_settings(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.admin.personal_token,
        data_dir=tmp_path,
    )


@pytest.fixture
def images_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of the projects have addresses that nobody answers at."""
    monkeypatch.setattr(ImageSource, "fetch_task", lambda source, task, field: b"")


@pytest.mark.usefixtures("images_are_there")
def test_the_doctor_finds_nothing_to_do(studio, settings, make_project, owner, web):
    project = make_project(tasks=2)
    version = fresh_version()
    publish(studio, project.id, ranked(project.task_ids), version=version)
    be_a_backend(web, version)
    connect(owner, project, web)

    findings = examine(studio, settings, project.id, class_names=["rbc", "WBC"])

    assert {finding.level for finding in findings} == {"ok"}, findings
    assert set(findings_by_check(findings)) >= {
        *("address", "token", "project", "tasks", "labels", "images", "order", "backend"),
        "webhook",
    }


def test_the_doctor_names_each_trouble_with_its_remedy(studio, settings, make_project, owner, web):
    project = make_project(tasks=1, maximum_annotations=2)
    be_a_backend(web, "v1")
    connect(owner, project, web)
    owner.call("PATCH", f"/api/projects/{project.id}/", json={"model_version": "Our model"})
    for hook in studio.webhooks(project.id):
        owner.call("DELETE", f"/api/webhooks/{hook.id}/")
    del web.answers["/setup"]

    findings = findings_by_check(
        examine(studio, settings, project.id, class_names=["Platelets", "RBC"])
    )

    order = findings["order"]
    assert [finding.level for finding in order] == ["warn", "fail"]
    assert "title of an ML backend" in order[1].message
    assert [f.level for f in findings["labels"]] == ["ok", "warn", "warn"]
    assert "Platelets" in findings["labels"][1].message
    assert "WBC" in findings["labels"][2].message
    assert findings["images"][0].level == "fail"  # images.example does not exist
    assert findings["overlap"][0].level == "warn"
    assert findings["backend"][0].level == "fail"
    assert findings["webhook"][0].level == "warn"
    for finding in (f for group in findings.values() for f in group if f.level != "ok"):
        assert finding.remedy
        assert "\n" not in finding.message + finding.remedy


def test_the_doctor_stops_at_a_label_config_that_cannot_be_used(studio, settings, make_project):
    choices = '<Choices name="c" toName="t"><Choice value="a"/></Choices>'
    bare = f'<View><Text name="t" value="$text"/>{choices}</View>'
    found = examine(studio, settings, make_project(config=bare).id)

    findings = findings_by_check(found)
    assert findings["labels"][0].level == "fail"
    assert "Choices on Text" in findings["labels"][0].message
    assert "only supports boxes on images" in findings["labels"][0].message
    assert found[-1] == findings["labels"][0]


def test_the_doctor_of_a_project_without_tasks_says_one_thing(studio, settings, make_project):
    found = examine(studio, settings, make_project().id, class_names=["RBC", "bolt"])

    assert "labels" in {finding.check for finding in found if finding.level == "warn"}
    assert [finding.check for finding in found][-1] == "tasks"
    assert next_step(found) == "import images"


@pytest.mark.usefixtures("images_are_there")
def test_an_order_is_the_next_step_of_a_fresh_project(studio, settings, make_project):
    project = make_project(tasks=1)
    found = examine(studio, settings, project.id)

    assert [f.message for f in found if f.check == "order"] == ["No order was published yet"]
    assert next_step(found) == f"run `python -m backend score {project.id}`"


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        # The second name is that of older releases.
        (("annotator_evaluation_enabled", "show_ground_truth_first"), "ground truth"),
        (("show_overlap_first",), "overlap first"),
    ],
)
def test_what_comes_before_the_order_is_named(studio, settings, make_project, owner, fields, check):
    project = make_project(tasks=1)
    before = findings_by_check(examine(studio, settings, project.id))
    owner.call("PATCH", f"/api/projects/{project.id}/", json=dict.fromkeys(fields, True))

    after = findings_by_check(examine(studio, settings, project.id))

    assert check not in before
    assert after[check][0].level == "warn"
    assert "Quality" in after[check][0].remedy


@contextmanager
def enterprise(target: str, members: int) -> Iterator[str]:
    """The address of a relay to Label Studio that adds what only Enterprise answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/members/"):
                rows = [{"user": number} for number in range(members)]
                reply(self, 200, json.dumps(rows).encode(), Content_Type="application/json")
                return
            headers = {"Authorization": self.headers["Authorization"]}
            answer = httpx.get(target + self.path, headers=headers, timeout=60)
            body = answer.content
            if self.path == "/api/version":
                body = json.dumps({**answer.json(), "edition": "Enterprise"}).encode()
            elif re.fullmatch(r"/api/projects/\d+/", self.path):
                body = json.dumps({**answer.json(), "agreement_threshold": "0.80"}).encode()
            reply(self, answer.status_code, body, Content_Type="application/json")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": "application/json"}
            answer = httpx.post(target + self.path, content=body, headers=headers, timeout=60)
            reply(self, answer.status_code, answer.content, Content_Type="application/json")

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


def test_a_version_that_was_not_tested_is_said_and_not_refused(
    studio, settings, make_project, monkeypatch
):
    project = make_project(tasks=1)
    found = findings_by_check(examine(studio, settings, project.id))
    assert {finding.level for finding in found["version"]} == {"ok"}
    monkeypatch.setattr(Studio, "release", lambda studio: Release("1.99.1", "Community"))

    found = findings_by_check(examine(studio, settings, project.id))

    assert [finding.level for finding in found["version"]] == ["warn"]
    assert "1.99.1 was not tested" in found["version"][0].message
    assert "order" in found  # the rest is looked at all the same


def test_the_words_of_label_studio_are_no_remedy():
    refused = RefusedError("Label Studio refused a call (400; query: bad): see its log", 400)
    gone = RefusedError("Project 7 is not in Label Studio: check the number", 404)

    assert failed("project", refused).message == "Label Studio refused a call (400; query: bad)"
    assert failed("project", refused).remedy == "see its log"
    assert failed("project", gone).remedy == "check the number"


def test_members_and_agreement_of_enterprise_are_named(
    label_studio, settings, studio, make_project
):
    project = make_project(tasks=1)
    assert studio.member_count(project.id) is None  # this edition does not say

    with (
        enterprise(label_studio.url, members=3) as url,
        Studio(url, label_studio.admin.personal_token) as relayed,
    ):
        findings = findings_by_check(examine(relayed, settings, project.id))

    assert "(Enterprise)" in findings["address"][0].message
    assert "3 members" in findings["members"][0].message
    assert 'the tab "Hardest first"' in findings["members"][0].remedy
    assert "less than 0.8" in findings["agreement"][0].message


@pytest.mark.parametrize(
    ("change", "check", "word"),
    [
        ({"label_studio_api_key": ""}, "token", "LABEL_STUDIO_API_KEY"),
        ({"label_studio_api_key": "0123456789"}, "token", "legacy tokens"),
        ({"label_studio_url": "http://127.0.0.1:9"}, "address", "No Label Studio answers"),
    ],
)
def test_the_doctor_stops_where_nothing_can_be_asked(settings, change, check, word):
    finding = diagnose(settings.model_copy(update=_secret(change)), 1)[-1]

    assert (finding.check, finding.level) == (check, "fail")
    assert word in f"{finding.message}: {finding.remedy}"


def _secret(change):
    return load_settings(**change).model_dump(include=set(change))


def test_the_doctor_and_a_project_that_is_not_there(studio, settings):
    finding = examine(studio, settings, 999_999)[-1]

    assert (finding.check, finding.level) == ("project", "fail")
    assert "Project 999999" in finding.message
