"""Start and stop a real Label Studio on this machine, with users and tokens, for tests and demo.

One server is one process on a loopback port with its own SQLite database. It is stopped by its
process id and by nothing else. No analytics, crash reports or version checks leave the machine.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

DEFAULT_BINARY = Path(__file__).parent.parent / ".venv-label-studio" / "bin" / "label-studio"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0


class StudioServerError(RuntimeError):
    """Label Studio could not be started, or refused to make a user. The message says why."""


@dataclass(frozen=True)
class Account:
    """A user of the server and what opens its doors.

    Args:
        email: login name.
        password: login password.
        user_id: number of the user in Label Studio.
        personal_token: personal access token: a JWT *refresh* token, as users are advised to make;
            the old kind where Label Studio has no other.
        legacy_token: the old kind, sent as `Authorization: Token ...`.
    """

    email: str
    password: str
    user_id: int
    personal_token: str
    legacy_token: str

    def __repr__(self) -> str:
        return f"Account(email={self.email!r}, user_id={self.user_id})"


@dataclass(frozen=True)
class StudioServer:
    """A running Label Studio.

    Args:
        url: its address, without a trailing slash.
        pid: the process to stop.
        data_dir: database and uploads.
        files_root: document root of local file serving (`/data/local-files/?d=...`).
        admin: the first user, who owns the organization.
    """

    url: str
    pid: int
    data_dir: Path
    files_root: Path
    admin: Account

    def add_user(self, email: str) -> Account:
        """Sign up another user of the same organization, the way an invited annotator does."""
        with _session(self.url, self.admin.email, self.admin.password) as admin:
            invite = _json(admin.get("/api/invite"))["invite_url"]
        password = secrets.token_urlsafe(18)
        token = invite.rsplit("token=", 1)[-1]
        with httpx.Client(base_url=self.url, timeout=60) as client:
            _post_form(
                client, f"/user/signup/?token={token}", {"email": email, "password": password}
            )
        return _open_account(self.url, email, password)

    def allow_legacy_tokens(self, allowed: bool) -> None:
        """Switch the old kind of token on or off. Label Studio's default is off."""
        with _session(self.url, self.admin.email, self.admin.password) as admin:
            answer = admin.get("/api/jwt/settings")
            if answer.status_code == 404:
                return  # before 1.17 there is no other kind
            settings = _json(answer)
            settings["legacy_api_tokens_enabled"] = allowed
            _json(admin.post("/api/jwt/settings", json=settings, headers=_csrf(admin)))


@contextmanager
def running_studio(
    data_dir: Path,
    *,
    port: int | None = None,
    files_root: Path | None = None,
    email: str = "admin@example.com",
    password: str | None = None,
    binary: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[StudioServer]:
    """A Label Studio that runs as long as the `with` block.

    Args:
        data_dir: where it keeps its data, made if it is not there.
        port: loopback port; None: any free one.
        files_root: document root of local file serving; None: `files` in `data_dir`.
        email: login name of the first user.
        password: its password; None: a fresh random one, so only for a fresh `data_dir`.
        settings: more of Label Studio's settings, without their prefix `LABEL_STUDIO_`.
        binary: the `label-studio` program; None: LABEL_STUDIO_BIN, else `.venv-label-studio`.

    Raises:
        StudioServerError: it did not start; the message ends with its last lines of output.
    """
    program = binary or Path(os.environ.get("LABEL_STUDIO_BIN") or DEFAULT_BINARY)
    if not program.exists():
        raise StudioServerError(
            f"{program} is not there: install label-studio in an environment of its own and "
            "name its program in LABEL_STUDIO_BIN"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    root = files_root or data_dir / "files"
    root.mkdir(parents=True, exist_ok=True)
    secret = password or secrets.token_urlsafe(18)
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    environment = _environment(data_dir, root, email, secret)
    environment |= {f"LABEL_STUDIO_{name}": value for name, value in (settings or {}).items()}
    _prepare_database(program, data_dir, environment)
    log_path = data_dir / "server.log"
    process = _start(program, data_dir, port, environment, log_path)
    try:
        _wait_until_healthy(url, process, log_path)
        yield StudioServer(url, process.pid, data_dir, root, _open_account(url, email, secret))
    finally:
        _stop(process)


def free_port() -> int:
    """A loopback port that nobody listens on, and that nobody else is given for a minute.

    The connection through it leaves it in TIME_WAIT: it is bound only by who asks for it by number.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        probe.listen(1)
        port: int = probe.getsockname()[1]
        # The side that closes first is the one that waits.
        with socket.create_connection(("127.0.0.1", port)):
            probe.accept()[0].close()
    return port


def _environment(data_dir: Path, files_root: Path, email: str, password: str) -> dict[str, str]:
    """The server's environment: nothing leaves the machine, backends on loopback are allowed."""
    ours = {
        "BASE_DATA_DIR": str(data_dir),
        "USERNAME": email,
        "PASSWORD": password,
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "FEATURE_FLAGS_OFFLINE": "true",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(files_root),
        # Since 1.23 Label Studio calls no backend and no webhook on a private or loopback address,
        # unless told to. The link-local range stays closed: clouds keep secrets there.
        "USE_DEFAULT_BANNED_SUBNETS": "false",
        "USER_ADDITIONAL_BANNED_SUBNETS": "169.254.0.0/16",
        "LOG_LEVEL": "WARNING",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LABEL_STUDIO_")}
    return {**inherited, **{f"LABEL_STUDIO_{name}": value for name, value in ours.items()}}


def _prepare_database(program: Path, data_dir: Path, environment: dict[str, str]) -> None:
    """Put a migrated, empty database in place.

    Label Studio's migrations take a minute of CPU time, so their result is kept per program and
    reused. It holds no user: users are made when the server starts.
    """
    database = data_dir / "label_studio.sqlite3"
    if database.exists():
        return
    template = _template_path(program)
    if not template.exists():
        template.parent.mkdir(parents=True, exist_ok=True)
        with template.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who starts another server meanwhile waits for it
            if not template.exists():
                _migrate(program, template, environment)
    if template.exists():
        shutil.copyfile(template, database)


def _migrate(program: Path, template: Path, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="hardest-first-migrate-") as scratch:
        subprocess.run(
            [str(program), "version", "--data-dir", scratch],
            env={**environment, "LABEL_STUDIO_BASE_DATA_DIR": scratch},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=600,
            check=False,
        )
        made = Path(scratch) / "label_studio.sqlite3"
        if not made.exists():
            return  # the server migrates for itself then, and says what is wrong
        part = template.with_suffix(".part")
        shutil.copyfile(made, part)
        part.replace(template)


def _template_path(program: Path) -> Path:
    packages = sorted(
        program.parent.parent.glob("lib/python*/site-packages/label_studio-*.dist-info")
    )
    version = packages[0].name.removesuffix(".dist-info") if packages else "label_studio"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hardest-first" / f"{version}.sqlite3"


def _start(
    program: Path, data_dir: Path, port: int, environment: dict[str, str], log_path: Path
) -> subprocess.Popen[bytes]:
    arguments = ["start", "--init", "--no-browser", "--data-dir", str(data_dir)]
    address = ["--internal-host", "127.0.0.1", "--port", str(port)]
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [str(program), *arguments, *address],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.25)
    tail = log_path.read_text(errors="replace")[-2000:]
    raise StudioServerError(f"Label Studio did not answer at {url}/health. Its last words:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


def _open_account(url: str, email: str, password: str) -> Account:
    """Log in and make or read both kinds of token."""
    with _session(url, email, password) as client:
        user_id = _json(client.get("/api/current-user/whoami"))["id"]
        legacy_token = _json(client.get("/api/current-user/token"))["token"]
        made = client.post("/api/token/", headers=_csrf(client))
        if made.status_code == 409:  # one token a user: an earlier run of this server made it
            known = _json(client.get("/api/token/"))[0]["token"]
            client.post("/api/token/blacklist/", json={"refresh": known}, headers=_csrf(client))
            made = client.post("/api/token/", headers=_csrf(client))
        has_personal = made.status_code != 404  # since 1.17
        personal_token = _json(made)["token"] if has_personal else legacy_token
    return Account(email, password, user_id, personal_token, legacy_token)


@contextmanager
def _session(url: str, email: str, password: str) -> Iterator[httpx.Client]:
    """A browser-like session of a logged-in user: the only way to a first token."""
    with httpx.Client(base_url=url, timeout=60) as client:
        _post_form(client, "/user/login/", {"email": email, "password": password})
        yield client


def _post_form(client: httpx.Client, path: str, fields: dict[str, str]) -> None:
    client.get(path)
    response = client.post(path, data=fields, headers=_csrf(client))
    if response.status_code != 302:
        raise StudioServerError(f"{path.split('?')[0]} answered {response.status_code}, not 302")


def _csrf(client: httpx.Client) -> dict[str, str]:
    return {"X-CSRFToken": client.cookies.get("csrftoken", "")}


def _json(response: httpx.Response):  # type: ignore[no-untyped-def]
    if response.is_error:
        raise StudioServerError(
            f"{response.request.url.path} answered {response.status_code}: {response.text[:200]}"
        )
    return response.json()
