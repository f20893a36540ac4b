"""Rounds over HTTP: what the verb `rounds --json` prints, typed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from backend.label_studio.client import Studio
from backend.learning.report import report_rounds
from backend.settings import load_settings
from backend.store.rounds import RoundRow, RoundStore
from tests.api.server import Server, served
from tests.label_studio.conftest import CONFIG, WebServer, reply

FIGURE = {"value": 0.5, "low": 0.25, "high": 0.75}
QUALITY = {
    "map50": FIGURE,
    "map50_95": FIGURE,
    "per_class": {"RBC": FIGURE, "WBC": None},
    "images": 12,
    "boxes": 40,
}
EDITS = {"accepted": 30, "moved": 5, "relabelled": 0, "added": 2, "deleted": 1}
SAVINGS = {"answers": 9, "prefilled": 8, "edits": EDITS, "timed": 9, "seconds": 61.5}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    web = WebServer()
    for project in (1, 2):
        body = json.dumps({"id": project, "title": "Line", "label_config": CONFIG}).encode()
        web.answers[f"/api/projects/{project}/"] = lambda h, body=body: reply(
            h, 200, body, Content_Type="application/json"
        )
    web.answers["/api/projects/3/"] = lambda h: reply(h, 401, b"{}")
    settings = load_settings(
        data_dir=tmp_path_factory.mktemp("data"),
        label_studio_url=web.url,
        label_studio_api_key="legacy-token-of-nobody",
    )
    with served(settings) as running:
        yield running
    web.close()


def test_a_project_without_rounds(server: Server) -> None:
    report = server.http.get("/v1/label/rounds?project_id=1").json()
    assert (report["serving"], report["rounds"]) == ("base", [])
    assert report["advice"]["colour"] == "red"
    assert report["since_last_round"]["answers"] == 0


def test_rounds_are_told_as_the_verb_tells_them(server: Server) -> None:
    services = server.services
    rounds = RoundStore(services.store)
    evaluated = {
        "new": QUALITY,
        "serving": None,
        "difference": {"value": 0.1, "low": -0.1, "high": 0.3},
        "agreement": 0.97,
        "savings": SAVINGS,
    }
    for number, judgement in ((1, evaluated), (2, {})):
        rounds.close(
            RoundRow(
                *(2, number, number),
                state="judged",
                version=f"r{number}-abc",
                labels=40,
                boxes=90,
                judgement=judgement,
                promoted=number == 1,
                reason="mAP50 is not lower",
                seconds=90.0,
            )
        )
    answers = [server.http.get(f"/{p}/rounds?project_id=2") for p in ("v1/label", "v1/labeling")]
    assert [answer.status_code for answer in answers] == [200, 200]
    reported = answers[0].json()
    assert reported == answers[1].json()
    with Studio.from_settings(services.settings) as studio:
        printed = report_rounds(services.settings, studio, services.store, 2).as_json()
    for row in (*reported["rounds"], *printed["rounds"]):
        row["created_at"] = row["created_at"].replace("Z", "+00:00")
    assert reported == json.loads(json.dumps(printed))
    assert reported["serving"] == "r1-abc"
    assert reported["rounds"][0]["new"]["per_class"]["WBC"] is None
    assert reported["rounds"][1]["new"] is None


@pytest.mark.parametrize(("project", "status"), [(99, 404), (3, 502)])
def test_label_studio_refuses(server: Server, project: int, status: int) -> None:
    answer = server.http.get(f"/v1/label/rounds?project_id={project}")
    assert answer.status_code == status
    assert "\n" not in answer.json()["detail"]
