"""The demo: a real Label Studio, filled, ranked, and serving its hardest image first.

Everything is made anew under `var/demo` at each start; only the drawn images and the converted
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx
from rich.console import Console

from backend.label_studio.auth import TokenAuth
from backend.settings import load_settings
from demo.studio_server import Account, StudioServer, free_port, running_studio

HERE = Path(__file__).parent
WORK = HERE.parent / "var" / "demo"
POOL_IMAGES = 240
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# Label Studio takes at most 100 files in one request.
FILES_PER_REQUEST = 50
# How many tasks the check lets an annotator answer.
CHECKED = 10
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6616b", "#8c6d31", "#dd1c77", "#636363")

console = Console(stderr=True, highlight=False, soft_wrap=True)


class DemoError(Exception):
    """The demo cannot go on; the message is one line that says why."""


@dataclass(frozen=True)
class Scenario:
    """What the demo shows.

    Attributes:
        images: the files of the pool.
        labels: the label names of the project.
        environment: settings of the backend, beyond those that every demo has.
    """

    images: Sequence[Path]
    labels: Sequence[str]
    environment: dict[str, str]


def run_demo(*, wait: bool, model: str | None, images: Path | None) -> int:
    """Run the demo; returns the exit status.

    Args:
        wait: stay up until Ctrl-C; otherwise check the served order and stop.
        model: a detector of the user's own: a file, or an official Ultralytics name.
        images: a folder of the user's own images.
    """
    # Told to stop, it must stop what it started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        WORK.mkdir(parents=True, exist_ok=True)
        scenario = prepare(model, images)
        with _fresh_studio() as studio, _backend(studio, scenario) as backend_url:
            project_id = fill_project(studio, scenario, backend_url)
            score(studio, scenario, project_id)
            _say_where(studio, project_id)
            if wait:
                _wait_for_interrupt()
            else:
                check_served_order(studio, scenario, project_id)
    except DemoError as error:
        console.print(f"[red]demo:[/red] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped")
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

        environment = {
            "MODEL": "detector.pt",
            "MODEL_DIR": str(HERE / "weights"),
            "CLIP_MODEL": "encoder.json",
            "CLIP_PRETRAINED": "encoder.pt",
        }
        return Scenario(files, CLASSES, environment)
    environment = _own_model(model)
    return Scenario(files, _class_names(environment), environment)


def draw_pool(folder: Path) -> list[Path]:
    """The generated inspection line, drawn once."""
    done = folder / "done"
    if not done.exists():
        from demo.scene import write_pool

        console.print(f"drawing {POOL_IMAGES} images of an inspection line ...")
        shutil.rmtree(folder, ignore_errors=True)
        write_pool(folder, POOL_IMAGES)
        done.touch()
    return sorted((folder / "images").iterdir())


def _own_model(model: str) -> dict[str, str]:
    folder = WORK / "models"
    folder.mkdir(exist_ok=True)
    path = Path(model)
    if path.is_file():
        shutil.copy(path, folder / path.name)
    environment = {"MODEL": path.name, "MODEL_DIR": str(folder)}
    if not {"ENCODER", "CLIP_MODEL", "CLIP_PRETRAINED"} & os.environ.keys():
        console.print(
            "spreading the picks by the detector's own features; "
            "set ENCODER=openclip to fetch and use OpenCLIP weights"
        )
        environment["ENCODER"] = "detector"
    return environment


def _class_names(environment: dict[str, str]) -> tuple[str, ...]:
    from backend.errors import HardestFirstError
    from backend.vision.models import load_models

    try:
        settings = load_settings(
            data_dir=WORK / "data", **{name.lower(): value for name, value in environment.items()}
        )
        return load_models(settings).detector.class_names
    except HardestFirstError as error:
        raise DemoError(str(error)) from None


# The servers


@contextmanager
def _fresh_studio() -> Iterator[StudioServer]:
    folder = WORK / "label-studio"
    shutil.rmtree(folder, ignore_errors=True)
    console.print("starting Label Studio ...")
    with running_studio(folder, port=_preferred_port(8080)) as studio:
        yield studio


@contextmanager
def _backend(studio: StudioServer, scenario: Scenario) -> Iterator[str]:
    """The ML backend, up and answering; yields its address."""
    for old in (WORK / "data").glob("store.sqlite3*"):
        old.unlink()
    port = _preferred_port(9090)
    console.print("starting the backend ...")
    log_path = WORK / "backend.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve", "--port", str(port)],
            env=_environment(studio, scenario),
            cwd=HERE.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_backend(process, port, log_path)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


def _environment(studio: StudioServer, scenario: Scenario) -> dict[str, str]:
    return {
        **os.environ,
        **scenario.environment,
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.admin.personal_token,
        "DATA_DIR": str(WORK / "data"),
        "DATABASE_URL": "",
        "BASIC_AUTH_USER": "",
        "BASIC_AUTH_PASS": "",
        "HOST": "127.0.0.1",
    }


def _wait_for_backend(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise DemoError(f"the backend did not start; its last words: {_last_line(log_path)}")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "none"


def _preferred_port(port: int) -> int:
    """The usual port, or a free one where something else has it."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
    except httpx.ConnectError:
        return port
    except httpx.TransportError:
        pass
    return free_port()


# The project


def fill_project(studio: StudioServer, scenario: Scenario, backend_url: str | None) -> int:
    """A project with the pool's images, connected to the backend (if any); returns its number."""
    with _client(studio, studio.admin) as client:
        project = _call(
            client,
            "POST",
            "/api/projects/",
            json={"title": "Hardest First demo", "label_config": label_config(scenario.labels)},
        )
        project_id = int(project["id"])
        for start in range(0, len(scenario.images), FILES_PER_REQUEST):
            batch = scenario.images[start : start + FILES_PER_REQUEST]
            console.print(f"uploading images {start + 1} to {start + len(batch)} ...")
            files = [(path.name, (path.name, path.read_bytes())) for path in batch]
            _call(client, "POST", f"/api/projects/{project_id}/import", files=files)
        if backend_url is not None:
            connection = {"project": project_id, "url": backend_url, "title": "Hardest First"}
            _call(client, "POST", "/api/ml/", json=connection)
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


def score(studio: StudioServer, scenario: Scenario, project_id: int) -> None:
    """Run the verb that a user would run; it shows its progress and the queue."""
    command = [sys.executable, "-m", "backend", "score", str(project_id)]
    done = subprocess.run(command, env=_environment(studio, scenario), cwd=HERE.parent, check=False)
    if done.returncode:
        raise DemoError("scoring failed; the line above says why")


def _queue(studio: StudioServer, scenario: Scenario, project_id: int) -> list[int]:
    command = [sys.executable, "-m", "backend", "queue", str(project_id), "--json"]
    printed = subprocess.run(
        command,
        env=_environment(studio, scenario),
        cwd=HERE.parent,
        check=True,
        stdout=subprocess.PIPE,
    )
    return [row["image_id"] for row in json.loads(printed.stdout)["queue"]]


def check_served_order(studio: StudioServer, scenario: Scenario, project_id: int) -> None:
    """Let two annotators press Label All Tasks in turn; what they get must be rank 1, 2, 3, ...

    Raises:
        DemoError: another task was served, or one without its prediction.
    """
    expected = _queue(studio, scenario, project_id)[:CHECKED]
    people = [studio.add_user(f"annotator{i}@example.com") for i in (1, 2)]
    clients = [_client(studio, person) for person in people]
    served: list[int] = []
    for turn in range(len(expected)):
        client = clients[turn % 2]
        task = _call(client, "GET", f"/api/projects/{project_id}/next")
        served.append(int(task["id"]))
        if not task["predictions"]:
            raise DemoError(f"task {task['id']} was served without its pre-annotation")
        shown = task["predictions"][0]
        answer = {"result": shown["result"], "parent_prediction": shown["id"], "lead_time": 1.0}
        _call(client, "POST", f"/api/tasks/{task['id']}/annotations/", json=answer)
    for client in clients:
        client.close()
    if served != expected:
        raise DemoError(f"Label Studio served {served}, but the queue is {expected}")
    console.print(
        f"[green]checked:[/green] two annotators were served ranks 1 to {len(served)}, in order"
    )


def _client(studio: StudioServer, account: Account) -> httpx.Client:
    auth = TokenAuth(studio.url, account.personal_token)
    return httpx.Client(base_url=studio.url, auth=auth, timeout=120)


def _call(client: httpx.Client, method: str, path: str, **body: Any) -> Any:
    response = client.request(method, path, **body)
    if response.is_error:
        raise DemoError(f"Label Studio answered {response.status_code} to {method} {path}")
    return response.json()


def _say_where(studio: StudioServer, project_id: int) -> None:
    console.print()
    console.print(f"Label Studio  [bold]{studio.url}/projects/{project_id}/data[/bold]")
    console.print(f"login         {studio.admin.email}")
    console.print(f"password      {studio.admin.password}   (made for this run)")
    console.print("Press Label All Tasks: the first row of the table comes first.")
    console.print()


def _wait_for_interrupt() -> None:
    console.print("Ctrl-C stops both servers.")
    while True:
        time.sleep(3600)
