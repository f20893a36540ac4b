"""People who work in Label Studio, as the tests drive them."""

from __future__ import annotations

import httpx

from backend.label_studio.auth import TokenAuth
from demo.studio_server import Account


class Person:
    """Someone who works in Label Studio, with what the web page would send for them."""

    def __init__(self, url: str, account: Account) -> None:
        self.account = account
        self.http = httpx.Client(
            base_url=url, auth=TokenAuth(url, account.personal_token), timeout=60
        )

    def call(self, method: str, path: str, **body):
        response = self.http.request(method, path, **body)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:300]}"
        return response.json() if response.content else None

    def next_task(self, project_id: int) -> dict | None:
        """What Label All Tasks serves; None at the end."""
        response = self.http.get(f"/api/projects/{project_id}/next")
        if response.status_code == 404:
            return None
        assert response.is_success, response.text[:300]
        return response.json()

    def submit(self, task: dict) -> None:
        """Accept the boxes shown, as the editor does: with the prediction they came from."""
        shown = task["predictions"][0] if task.get("predictions") else {}
        body = {
            "result": shown.get("result", []),
            "parent_prediction": shown.get("id"),
            "lead_time": 1.0,
        }
        self.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
