"""What an annotator sees: Label All Tasks in a real browser, with the demo's models.

Set SCREENSHOT to a path to keep the picture that the README shows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from demo.studio_server import StudioServer
from tests.loop.conftest import Command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Nothing may leave this machine, and Chromium's sandbox cannot run as root.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# What the editor holds for the open task, as percentages of the image.
DRAWN_BOXES = """() => Htx.annotationStore.selected.regions.map(
    (r) => [r.x, r.y, r.width, r.height])"""
IMAGE_IS_DRAWN = """() => [...document.images].some((i) => i.complete && i.naturalWidth >= 600)
    && document.querySelectorAll("canvas").length > 0"""


def stay_here(page: Page) -> None:
    """Refuse at once what the page asks of the world (fonts, analytics): nothing answers here."""
    ours = ("http://127.0.0.1", "data:", "blob:")
    page.route(
        "**/*",
        lambda route: route.continue_() if route.request.url.startswith(ours) else route.abort(),
    )


def log_in(page: Page, studio: StudioServer) -> None:
    page.goto(f"{studio.url}/user/login/", wait_until="domcontentloaded")
    page.fill("input[name=email]", studio.admin.email)
    page.fill("input[name=password]", studio.admin.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url, wait_until="commit")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
@pytest.mark.timeout(600)
def test_label_all_tasks_shows_rank_one_with_its_boxes(
    label_studio: StudioServer,
    command: Command,
    make_project: Callable[..., tuple[int, list[int]]],
    tmp_path: Path,
) -> None:
    project, _ = make_project()
    first = command.json("score", project)["queue"][0]["image_id"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(90_000)
        stay_here(page)
        log_in(page, label_studio)
        page.goto(f"{label_studio.url}/projects/{project}/data", wait_until="domcontentloaded")
        with page.expect_response(lambda response: "next_task" in response.url) as answer:
            page.get_by_role("button", name="Label All Tasks").first.click()
        served = answer.value.json()
        shown = served["predictions"][0]["result"]
        rows = page.locator(".lsf-tree__node_type_rectangleregion")
        rows.first.wait_for()
        page.wait_for_function(IMAGE_IS_DRAWN)
        page.wait_for_timeout(2000)  # the boxes fade in
        drawn = page.evaluate(DRAWN_BOXES)
        picture = Path(os.environ.get("SCREENSHOT") or tmp_path / "label-all-tasks.png")
        page.screenshot(path=picture)
        listed = rows.all_inner_texts()
        browser.close()
    assert served["id"] == first
    assert shown, "rank 1 has no boxes to draw"
    assert len(listed) == len(shown)
    by_place = sorted(shown, key=lambda region: (region["value"]["x"], region["value"]["y"]))
    assert sorted(drawn) == [
        [pytest.approx(region["value"][side], abs=0.1) for side in ("x", "y", "width", "height")]
        for region in by_place
    ]
