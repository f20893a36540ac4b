"""The demo's project in Label Studio, filled as a user would fill it, and the people in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx

from backend.label_studio.auth import TokenAuth
from backend.verbs.console import note
from demo.stage import DemoError, Scenario
from demo.studio_server import Account, StudioServer

# Label Studio takes at most 100 files in one request.
FILES_PER_REQUEST = 50
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6616b", "#8c6d31", "#dd1c77", "#636363")


def fill_project(studio: StudioServer, scenario: Scenario, backend_url: str | None) -> int:
    """A project with the pool's images, connected to the backend (if any); returns its number."""
    with client_of(studio, studio.admin) as client:
        project = call(
            client,
            "POST",
            "/api/projects/",
            json={"title": "Hardest First demo", "label_config": label_config(scenario.labels)},
        )
        project_id = int(project["id"])
        for start in range(0, len(scenario.images), FILES_PER_REQUEST):
            batch = scenario.images[start : start + FILES_PER_REQUEST]
            note(f"uploading images {start + 1} to {start + len(batch)} ...")
            files = [(path.name, (path.name, path.read_bytes())) for path in batch]
            call(client, "POST", f"/api/projects/{project_id}/import", files=files)
        if backend_url is not None:
            connection = {"project": project_id, "url": backend_url, "title": "Hardest First"}
            call(client, "POST", "/api/ml/", json=connection)
    return project_id


def label_config(labels: Sequence[str]) -> str:
    """Rectangles with these labels on an image."""
    rows = "\n".join(
        f"    <Label value={quoteattr(label)} background={quoteattr(COLOURS[i % len(COLOURS)])}/>"
        for i, label in enumerate(labels)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        '  <RectangleLabels name="label" toName="image">\n'
        f"{rows}\n  </RectangleLabels>\n</View>"
    )


def client_of(studio: StudioServer, account: Account) -> httpx.Client:
    """What a person's browser would be."""
    auth = TokenAuth(studio.url, account.personal_token)
    return httpx.Client(base_url=studio.url, auth=auth, timeout=120)


def call(client: httpx.Client, method: str, path: str, **body: Any) -> Any:
    """One call of Label Studio's API; its answer.

    Raises:
        DemoError: it was refused.
    """
    response = client.request(method, path, **body)
    if response.is_error:
        raise DemoError(f"Label Studio answered {response.status_code} to {method} {path}")
    return response.json()
