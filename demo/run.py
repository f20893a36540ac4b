"""The demo: a real Label Studio, filled, ranked, and serving its hardest image first.

Everything is made again under `var/demo` at each start; only the drawn images and the converted
models are kept. Nothing leaves this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from backend.settings import load_settings
from backend.verbs.console import note
from demo.play import SETTINGS, play
from demo.project import call, client_of, fill_project
from demo.servers import backend, fresh_studio
from demo.stage import HERE, WORK, DemoError, Scenario, environment
from demo.studio_server import StudioServer

POOL_IMAGES = 240
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# How many tasks the check lets an annotator answer.
CHECKED = 10


def run_demo(*, wait: bool, rounds: int, model: str | None, images: Path | None) -> int:
    """Run the demo; returns the exit status.

    Args:
        wait: stay up until Ctrl-C; otherwise check the served order and stop.
        rounds: how many rounds of the loop a simulated annotator plays first.
        model: a detector of the user's own: a file, an OpenVINO folder, or an official Ultralytics
            name.
        images: a folder of the user's own images.
    """
    # When stopped, it must stop what it started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        WORK.mkdir(parents=True, exist_ok=True)
        scenario = prepare(model, images)
        with fresh_studio() as studio, backend(studio, scenario) as backend_url:
            project_id = fill_project(studio, scenario, backend_url)
            score(studio, scenario, project_id)
            if rounds:
                play(studio, scenario, project_id, rounds)
                show_rounds(studio, scenario, project_id)
            _say_where(studio, project_id)
            if wait:
                _wait_for_interrupt()
            else:
                check_served_order(studio, scenario, project_id)
    except DemoError as error:
        note(str(error), mark="demo: ", style="red")
        return 1
    except KeyboardInterrupt:
        note("stopped")
    return 0


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


# What is shown


def prepare(model: str | None, images: Path | None) -> Scenario:
    """Images, labels and settings: the demo's own, or the user's.

    Raises:
        DemoError: the folder holds no images, or the weights cannot be used.
    """
    if images is None:
        files = draw_pool(WORK / "pool")
    else:
        files = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DemoError(f"{images} holds no images: name a folder with JPEG or PNG files")
    if model is None:
        from demo.scene import CLASSES

        chosen = {
            "MODEL": "detector.pt",
            "MODEL_DIR": str(HERE / "weights"),
            "CLIP_MODEL": "encoder.json",
            "CLIP_PRETRAINED": "encoder.pt",
        }
        return Scenario(files, CLASSES, {**chosen, **SETTINGS})
    chosen = _own_model(model)
    return Scenario(files, _class_names(chosen), {**chosen, **SETTINGS})


def draw_pool(folder: Path) -> list[Path]:
    """The generated inspection line, drawn once."""
    done = folder / "done"
    if not done.exists():
        from demo.scene import write_pool

        note(f"drawing {POOL_IMAGES} images of an inspection line ...")
        shutil.rmtree(folder, ignore_errors=True)
        write_pool(folder, POOL_IMAGES)
        done.touch()
    return sorted((folder / "images").iterdir())


def _own_model(model: str) -> dict[str, str]:
    folder = WORK / "models"
    folder.mkdir(exist_ok=True)
    path = Path(model).resolve()
    there = folder / path.name
    if path.is_dir() and not list(path.glob("*.xml")):
        raise DemoError(f"{model} holds no OpenVINO model: name a folder with its .xml and .bin")
    if path.exists() and path != there.resolve():
        shutil.rmtree(there, ignore_errors=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, there)
    chosen = {"MODEL": path.name, "MODEL_DIR": str(folder)}
    if not {"ENCODER", "CLIP_MODEL", "CLIP_PRETRAINED"} & os.environ.keys():
        note(
            "spreading the picks by the detector's own features; "
            "set ENCODER=openclip to fetch and use OpenCLIP weights"
        )
        chosen["ENCODER"] = "detector"
    return chosen


def _class_names(chosen: dict[str, str]) -> tuple[str, ...]:
    from backend.errors import HardestFirstError
    from backend.vision.models import load_models

    try:
        settings = load_settings(
            data_dir=WORK / "data", **{name.lower(): value for name, value in chosen.items()}
        )
        return load_models(settings).detector.class_names
    except HardestFirstError as error:
        raise DemoError(str(error)) from None


# What is done


def score(studio: StudioServer, scenario: Scenario, project_id: int) -> None:
    """Run the verb that a user would run; it shows its progress and the queue."""
    if _verb(studio, scenario, "score", str(project_id)).returncode:
        raise DemoError("scoring failed; the line above says why")


def show_rounds(studio: StudioServer, scenario: Scenario, project_id: int) -> None:
    """Run the verb that a user would run; it shows the rounds and draws the learning curve."""
    if _verb(studio, scenario, "rounds", str(project_id)).returncode:
        raise DemoError("the rounds cannot be shown; the line above says why")


def _queue(studio: StudioServer, scenario: Scenario, project_id: int) -> list[int]:
    printed = _verb(
        studio, scenario, "queue", str(project_id), "--json", stdout=subprocess.PIPE
    ).stdout
    return [row["image_id"] for row in json.loads(printed)["queue"]]


def _verb(
    studio: StudioServer, scenario: Scenario, *arguments: str, stdout: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "backend", *arguments],
        env=environment(studio, scenario),
        cwd=HERE.parent,
        check=False,
        stdout=stdout,
    )


def check_served_order(studio: StudioServer, scenario: Scenario, project_id: int) -> None:
    """Let two annotators press Label All Tasks in turn; what they get must be rank 1, 2, 3, ...

    Raises:
        DemoError: another task was served, or one without its prediction.
    """
    expected = _queue(studio, scenario, project_id)[:CHECKED]
    people = [studio.add_user(f"annotator{i}@example.com") for i in (1, 2)]
    clients = [client_of(studio, person) for person in people]
    served: list[int] = []
    for turn in range(len(expected)):
        client = clients[turn % 2]
        task = call(client, "GET", f"/api/projects/{project_id}/next")
        served.append(int(task["id"]))
        if not task["predictions"]:
            raise DemoError(f"task {task['id']} was served without its pre-annotation")
        shown = task["predictions"][0]
        answer = {"result": shown["result"], "parent_prediction": shown["id"], "lead_time": 1.0}
        call(client, "POST", f"/api/tasks/{task['id']}/annotations/", json=answer)
    for client in clients:
        client.close()
    if served != expected:
        raise DemoError(f"Label Studio served {served}, but the queue is {expected}")
    note(
        f"two annotators were served ranks 1 to {len(served)}, in order",
        mark="checked: ",
        style="green",
    )


def _say_where(studio: StudioServer, project_id: int) -> None:
    note("")
    note(f"{studio.url}/projects/{project_id}/data", mark="Label Studio  ", style="bold")
    note(f"login         {studio.admin.email}")
    note(f"password      {studio.admin.password}   (made for this run)")
    note("Press Label All Tasks: the first row of the table comes first.")
    note("")


def _wait_for_interrupt() -> None:
    note("Ctrl-C stops both servers.")
    while True:
        time.sleep(3600)
