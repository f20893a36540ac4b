"""Who is let in to the API, and the line that everyone else gets."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import update

import backend.serving as serving
from backend.api.refusals import add_error_handlers
from backend.api.security.access import Reader, Writer
from backend.api.security.gate import Gate
from backend.api.security.loopback import is_loopback
from backend.api.security.rate_limits import RateLimits
from backend.errors import SettingsError, StoreError
from backend.server import create_app
from backend.settings import Settings, load_settings
from backend.store.api_keys import KeyStore
from backend.store.scores import Store
from backend.store.tables import api_keys
from demo.studio_server import free_port
from tests.conftest import store as both_stores  # a store on each database
from tests.loop.conftest import MODELS, Command, running, wait_until
from tests.redis_server import redis_program, running_redis

__all__ = ["both_stores"]

LOCAL = ("127.0.0.1", 50000)
REMOTE = ("203.0.113.9", 50000)
HERE = "http://127.0.0.1:9090"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def small_app(store: Store, *, rate: str = "1000/minute", redis_url: str = "") -> FastAPI:
    """Two routes behind the doors, and the doors as they are."""
    app = FastAPI()
    add_error_handlers(app)
    app.state.services = SimpleNamespace(gate=Gate(KeyStore(store), RateLimits(rate, redis_url)))

    @app.get("/read/{project_id}")
    def read(project_id: int, caller: Reader) -> str:
        caller.check(project_id)
        return caller.name

    @app.post("/write/{project_id}")
    def write(project_id: int, caller: Writer) -> str:
        caller.check(project_id)
        return caller.name

    return app


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    yield opened
    opened.close()


@pytest.fixture
def keys(store: Store) -> KeyStore:
    return KeyStore(store)


Open = Callable[..., TestClient]


@pytest.fixture
def connect(store: Store) -> Iterator[Open]:
    """A client of a server that has just started; from elsewhere, unless said otherwise."""
    with ExitStack() as opened:

        def start(client: tuple[str, int] = REMOTE, **options: Any) -> TestClient:
            app = small_app(store, **options)
            return opened.enter_context(TestClient(app, base_url=HERE, client=client))

        yield start


def detail(answer: httpx.Response, status: int) -> str:
    """The line that a user sees; it is one line."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    line = answer.json()["detail"]
    assert isinstance(line, str)
    assert "\n" not in line
    return line


# --- without a key ----------------------------------------------------------------------------


def test_while_no_key_was_made_this_machine_alone_is_answered(connect: Open) -> None:
    assert connect(LOCAL).get("/read/1").json() == ""
    assert connect(LOCAL).post("/write/1").json() == ""
    answer = connect(REMOTE).get("/read/1")
    assert detail(answer, 401) == (
        "no key was made yet: make one with `python -m backend keys make NAME` and send it as "
        "`Authorization: Bearer KEY`; without, only programs on the server's own machine are "
        "answered"
    )
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("address", ["::1", "127.8.9.1", "::ffff:127.0.0.1"])
def test_each_address_of_this_machine_is_this_machine(connect: Open, address: str) -> None:
    assert connect((address, 1)).get("/read/1").status_code == 200


@pytest.mark.parametrize(
    "address", ["testclient", "", "10.0.0.1", "::ffff:10.0.0.1", "128.0.0.1", "fe80::1"]
)
def test_no_other_address_is(connect: Open, address: str) -> None:
    assert connect((address, 1)).get("/read/1").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": ""},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        # A web page elsewhere, in a browser here: by a name of its own, or by a form.
        {"Host": "evil.example:9090"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_what_comes_through_a_proxy_or_a_foreign_web_page_is_not_from_here(
    connect: Open, headers: dict[str, str]
) -> None:
    assert detail(connect(LOCAL).post("/write/1", headers=headers), 401).startswith(
        "no key was made"
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": "127.0.0.1, 127.0.0.1", "Host": "localhost:9090"},
        {"Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"},
    ],
)
def test_no_header_makes_a_request_local(connect: Open, headers: dict[str, str]) -> None:
    assert connect(REMOTE).get("/read/1", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:9090", "Origin": "http://localhost:9090"},
        {"Host": "[::1]:9090", "Sec-Fetch-Site": "same-origin"},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
    ],
)
def test_the_documents_page_and_scripts_here_need_no_key(
    connect: Open, headers: dict[str, str]
) -> None:
    assert connect(LOCAL).get("/read/1", headers=headers).status_code == 200


def test_once_a_key_was_made_this_machine_needs_one_too(connect: Open, keys: KeyStore) -> None:
    client = connect(LOCAL)
    assert client.get("/read/1").status_code == 200
    keys.make("ci")
    wait_until(lambda: client.get("/read/1").status_code == 401, "the key is noticed", seconds=20)
    assert detail(client.get("/read/1"), 401) == "no key: send one as `Authorization: Bearer KEY`"
    # For good: to revoke the last key does not open the door.
    keys.revoke("ci")
    assert connect(LOCAL).get("/read/1").status_code == 401


# --- with a key -------------------------------------------------------------------------------


def test_a_key_opens_on_both_databases(both_stores: Store) -> None:
    _, text = KeyStore(both_stores).make("ci", projects=[1])
    with TestClient(small_app(both_stores), client=REMOTE) as client:
        assert client.get("/read/1", headers=bearer(text)).json() == "ci"
        assert client.post("/write/1", headers=bearer(text)).json() == "ci"
        assert client.get("/read/2", headers=bearer(text)).status_code == 403
    (found,) = KeyStore(both_stores).all()
    assert found.last_used_at is not None


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(connect: Open, keys: KeyStore, scheme: str) -> None:
    _, text = keys.make("ci")
    answer = connect().get("/read/1", headers={"Authorization": f"{scheme} {text}"})
    assert answer.status_code == 200


def wrong_keys(text: str) -> dict[str, str]:
    head, _, secret = text.rpartition("_")
    last = "0" if secret[-1] != "0" else "1"
    return {
        "no key at all": "open-sesame",
        "without its secret": f"{head}_",
        "cut off": text[:-1],
        "its last digit is another": text[:-1] + last,
        "another key's id": f"hardest_{'0' * 12}_{secret}",
        "its hash": f"{head}_{'0' * 64}",
        "too long": text + "0",
        "very long": text * 100,
        "not in ASCII": text[:-1] + "é",
    }


@pytest.mark.parametrize("how", list(wrong_keys("hardest_0_0")))
def test_a_wrong_key_is_told_the_same_whatever_is_wrong(
    connect: Open, keys: KeyStore, how: str
) -> None:
    _, text = keys.make("ci")
    headers = {"Authorization": f"Bearer {wrong_keys(text)[how]}".encode("latin-1")}
    answer = connect().get("/read/1", headers=headers)
    assert detail(answer, 401) == (
        "wrong key: it is not one of this server's, or not all of it was sent"
    )
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_other_schemes_and_the_address_are_no_place_for_a_key(
    connect: Open, keys: KeyStore
) -> None:
    _, text = keys.make("ci")
    client = connect()
    for headers in ({"Authorization": text}, {"Authorization": f"Token {text}"}, {"Key": text}):
        assert detail(client.get("/read/1", headers=headers), 401).startswith("no key:")
    assert client.get("/read/1", params={"key": text}).status_code == 401
    assert client.get("/read/1", auth=("ci", text)).status_code == 401


def test_a_key_sees_its_projects_only(connect: Open, keys: KeyStore) -> None:
    _, text = keys.make("two", projects=[1, 2])
    client = connect()
    assert client.get("/read/1", headers=bearer(text)).status_code == 200
    assert client.post("/write/2", headers=bearer(text)).status_code == 200
    line = "this key is not for project 3: ask for one that is"
    assert detail(client.get("/read/3", headers=bearer(text)), 403) == line
    assert detail(client.post("/write/3", headers=bearer(text)), 403) == line


def test_a_key_that_only_reads_changes_nothing(connect: Open, keys: KeyStore) -> None:
    _, text = keys.make("dashboard", may_write=False)
    client = connect()
    assert client.get("/read/1", headers=bearer(text)).status_code == 200
    answer = client.post("/write/1", headers=bearer(text))
    assert detail(answer, 403) == "this key may only read: ask for one that may write"


def test_a_key_made_while_the_server_runs_opens_at_once(connect: Open, keys: KeyStore) -> None:
    keys.make("first")
    client = connect()
    assert client.get("/read/1").status_code == 401
    _, text = keys.make("second")
    assert client.get("/read/1", headers=bearer(text)).status_code == 200


def test_a_running_server_refuses_a_key_within_seconds_of_its_revocation(
    connect: Open, keys: KeyStore
) -> None:
    _, text = keys.make("lost")
    _, other = keys.make("kept")
    client = connect()
    assert client.get("/read/1", headers=bearer(text)).status_code == 200
    keys.revoke("lost")
    deadline = time.monotonic() + 10
    while client.get("/read/1", headers=bearer(text)).is_success:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    answer = client.get("/read/1", headers=bearer(text))
    assert detail(answer, 401) == "this key was revoked: ask for another"
    assert client.get("/read/1", headers=bearer(other)).status_code == 200


def test_a_key_ends_on_its_day_without_being_read_again(
    connect: Open, keys: KeyStore, store: Store
) -> None:
    _, text = keys.make("short", days=1)
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    with store.begin() as connection:
        connection.execute(update(api_keys).values(expires_at=soon))
    client = connect()
    assert client.get("/read/1", headers=bearer(text)).status_code == 200
    time.sleep(1.05)
    answer = client.get("/read/1", headers=bearer(text))
    assert detail(answer, 401) == "this key has expired: ask for another"


def test_uses_are_noted_now_and_then_not_at_every_request(
    connect: Open, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = keys.make("busy")
    noted: list[str] = []
    mark_used = KeyStore.mark_used

    def count(self: KeyStore, key_id: str) -> None:
        noted.append(key_id)
        mark_used(self, key_id)

    monkeypatch.setattr(KeyStore, "mark_used", count)
    client = connect()
    for _ in range(5):
        assert client.get("/read/1", headers=bearer(text)).status_code == 200
    (key,) = keys.all()
    assert noted == [key.id]
    assert key.last_used_at is not None
    assert abs(key.last_used_at - datetime.now(timezone.utc)) < timedelta(minutes=1)


def test_nobody_is_let_in_while_keys_cannot_be_read(
    connect: Open, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = keys.make("ci")

    def fail(self: KeyStore) -> None:
        raise StoreError("The store failed: check that it is reachable.")

    monkeypatch.setattr(KeyStore, "all", fail)
    for client in (connect(LOCAL), connect(REMOTE)):
        assert client.get("/read/1").status_code == 503
        assert client.get("/read/1", headers=bearer(text)).status_code == 503


# --- how often --------------------------------------------------------------------------------


def test_a_key_that_asks_too_often_is_told_when_to_come_again(
    connect: Open, keys: KeyStore
) -> None:
    (_, one), (_, other) = keys.make("one"), keys.make("other")
    client = connect(rate="2/2second")
    codes = [client.get("/read/1", headers=bearer(one)).status_code for _ in range(2)]
    assert codes == [200, 200]
    answer = client.get("/read/1", headers=bearer(one))
    wait = int(answer.headers["Retry-After"])
    assert 1 <= wait <= 2
    line = f"more than 2 per 2 second with this key (API_RATE): try again in {wait} s"
    assert detail(answer, 429) == line
    # Each key has its own share, and who waits as long as asked is answered.
    assert client.get("/read/1", headers=bearer(other)).status_code == 200
    time.sleep(wait)
    assert client.get("/read/1", headers=bearer(one)).status_code == 200


def test_guessing_costs_no_query_and_soon_brings_nothing_but_429(
    connect: Open, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = keys.make("ci")
    reads: list[int] = []
    all_keys = KeyStore.all

    def count(self: KeyStore) -> list[Any]:
        reads.append(1)
        return all_keys(self)

    monkeypatch.setattr(KeyStore, "all", count)
    monkeypatch.setattr("backend.api.security.gate.FRESH_SECONDS", 3600.0)
    client = connect()
    guesses = [f"hardest_{n:012x}_{n:064x}" for n in range(100)]
    answers = [client.get("/read/1", headers=bearer(guess)) for guess in guesses]
    codes = [answer.status_code for answer in answers]
    assert codes == [401] * 30 + [429] * 70
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert detail(answers[-1], 429).startswith(
        "too many wrong keys from this address: try again in "
    )
    assert len(reads) <= 31
    # A neighbour behind the same address is not locked out by it.
    assert client.get("/read/1", headers=bearer(text)).status_code == 200


def test_wrong_keys_are_counted_by_address_and_ipv6_by_network() -> None:
    limits = RateLimits("1/minute")

    def spent(address: str) -> int:
        return sum(limits.take_failure(address) == 0 for _ in range(31))

    assert spent("192.0.2.1") == 30
    assert spent("192.0.2.2") == 30
    assert spent("::ffff:192.0.2.1") == 0
    assert spent("2001:db8::1") == 30
    assert spent("2001:db8::ffff:2") == 0
    assert spent("2001:db8:0:1::1") == 30
    assert spent("") == 30


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    program = redis_program()
    if program is None:
        pytest.skip("no Redis server on this machine (Debian: apt-get install redis-server)")
    with running_redis(program, tmp_path, "pass-of-redis") as url:
        yield url


def test_servers_that_share_redis_count_together(store: Store, redis_url: str) -> None:
    _, text = KeyStore(store).make("ci")
    with ExitStack() as opened:
        servers = [
            opened.enter_context(
                TestClient(small_app(store, rate="3/minute", redis_url=redis_url), client=REMOTE)
            )
            for _ in range(2)
        ]
        codes = [servers[n % 2].get("/read/1", headers=bearer(text)).status_code for n in range(5)]
        assert codes == [200, 200, 200, 429, 429]


def test_while_redis_is_away_each_server_counts_for_itself_and_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = KeyStore(store).make("ci")
    url = f"redis://:pass-of-redis@127.0.0.1:{free_port()}/0"
    with TestClient(small_app(store, rate="2/minute", redis_url=url), client=REMOTE) as client:
        codes = [client.get("/read/1", headers=bearer(text)).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]
    (line,) = [r.getMessage() for r in caplog.records if "REDIS_URL" in r.getMessage()]
    assert "counts the requests of keys for itself" in line
    assert "pass-of-redis" not in caplog.text


# --- what is said of keys ---------------------------------------------------------------------


def test_no_secret_reaches_a_log_or_an_answer(
    connect: Open, keys: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, text = keys.make("reader", may_write=False, projects=[1])
    client = connect(rate="6/minute")
    for shown in (text, text[:-1], text[:-1] + "x"):
        for method, path in (("GET", "/read/1"), ("POST", "/write/1"), ("GET", "/read/2")):
            answer = client.request(method, path, headers=bearer(shown))
            assert text.rpartition("_")[2][:-1] not in answer.text + str(answer.headers)
    keys.revoke("reader")
    connect().get("/read/1", headers=bearer(text))
    assert text.rpartition("_")[2][:-1] not in caplog.text


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    models = {name.lower(): value for name, value in MODELS.items()}
    return load_settings(
        **models,
        data_dir=tmp_path_factory.mktemp("keys-data"),
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="legacy-token-of-nobody",
    )


def test_every_route_for_scripts_asks_for_a_key_and_says_so(
    settings: Settings, store: Store
) -> None:
    app = create_app(settings)
    # There is nothing but the doors: whatever a route reached for before them would fail.
    gate = Gate(KeyStore(store), RateLimits("1000/minute"))
    app.state.services = SimpleNamespace(gate=gate)
    document = app.openapi()
    (scheme,) = [
        s for s in document["components"]["securitySchemes"].values() if s["scheme"] == "bearer"
    ]
    assert scheme["type"] == "http"
    client = TestClient(app, client=REMOTE)
    tried = 0
    for path, methods in document["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["security"] == [{"key": []}], where
            assert {"401", "403", "429"} <= set(operation["responses"]), where
            answer = client.request(method, re.sub(r"\{\w+\}", "1", path))
            assert detail(answer, 401).startswith("no key was made yet"), where
            tried += 1
    assert tried > 4
    assert detail(client.get("/metrics"), 401).startswith("no key was made yet")


# --- the command line and the server ----------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path) -> Command:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields
    }
    return Command(
        {
            **inherited,
            **MODELS,
            "DATA_DIR": str(tmp_path / "data"),
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "LABEL_STUDIO_API_KEY": "legacy-token-of-nobody",
            "PYTHONWARNINGS": "default",
        }
    )


def test_keys_are_made_listed_and_revoked_by_the_command_line(command: Command) -> None:
    assert json.loads(command.run("keys", "list", "--json")[0]) == []
    shown, remark = command.run(
        "keys", "make", "ci", "--project", 3, "--project", 12, "--read-only", "--days", 30
    )
    # Alone on stdout: KEY=$(python -m backend keys make ci).
    assert re.fullmatch(r"hardest_[0-9a-f]{12}_[0-9a-f]{64}\n", shown)
    assert "reads projects 3, 12 until 20" in remark
    assert "it is not shown again" in remark
    command.run("keys", "make", "all [of] it")
    listed, _ = command.run("keys", "list", "--json")
    rows = json.loads(listed)
    assert [(row["name"], row["may_write"], row["projects"]) for row in rows] == [
        ("ci", False, [3, 12]),
        ("all [of] it", True, None),
    ]
    assert shown.split("_")[2].strip() not in listed
    command.run("keys", "revoke", "all [of] it")
    command.run("keys", "revoke", rows[0]["id"])
    states = [row["state"] for row in json.loads(command.run("keys", "list", "--json")[0])]
    assert states == ["revoked", "revoked"]
    assert "ci" in command.run("keys", "list")[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("revoke", "nobody"), "no such key that is not revoked"),
        (("make", ""), "1 to 100 printable characters"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    command: Command, arguments: tuple[str, ...], line: str
) -> None:
    output, errors = command.run("keys", *arguments, status=1)
    assert output == ""
    assert line in errors
    assert errors.count("\n") == 1


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where servers would have listened, for those that were let start."""
    addresses: list[str] = []
    monkeypatch.setattr(
        serving._Gunicorn, "run", lambda server: addresses.append(server.cfg.address)
    )
    return addresses


@pytest.mark.parametrize(
    ("locks", "line"),
    [
        ((), "make a key (`python -m backend keys make NAME`) and set BASIC_AUTH_USER and"),
        (("key",), "not every door has a lock: set BASIC_AUTH_USER and BASIC_AUTH_PASS, or"),
        (("password",), "a lock: make a key (`python -m backend keys make NAME`), or set HOST"),
    ],
)
def test_serve_listens_nowhere_else_while_a_lock_is_missing(
    command: Command, bound: list[str], locks: tuple[str, ...], line: str
) -> None:
    if "key" in locks:
        command.run("keys", "make", "ci")
    if "password" in locks:
        command.environment |= {"BASIC_AUTH_USER": "studio", "BASIC_AUTH_PASS": "open sesame"}
    _, errors = command.run("serve", "--host", "0.0.0.0", status=1)
    assert line in errors
    assert "HOST=0.0.0.0 can be reached from other machines" in errors
    assert errors.count("\n") == 1
    assert bound == []


def test_serve_without_a_token_is_one_line(command: Command, bound: list[str]) -> None:
    command.environment["LABEL_STUDIO_API_KEY"] = ""
    _, errors = command.run("serve", status=1)
    assert "LABEL_STUDIO_API_KEY is empty: make a personal access token" in errors
    assert errors.count("\n") == 1
    assert bound == []


@pytest.mark.parametrize("host", ["", "::", "192.0.2.7", "example.org", "127.0.0.1.example.org"])
def test_every_host_but_this_machine_needs_locks(
    settings: Settings, tmp_path: Path, bound: list[str], host: str
) -> None:
    with pytest.raises(SettingsError, match="can be reached from other machines"):
        serving.run_server(settings.model_copy(update={"data_dir": tmp_path, "host": host}))
    assert bound == []


def test_serve_says_that_nobody_else_is_answered_while_there_is_no_key(
    settings: Settings, tmp_path: Path, bound: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fresh = settings.model_copy(update={"data_dir": tmp_path, "host": "::1"})
    serving.run_server(fresh)
    assert "no key was made yet: the API answers programs on this machine only" in caplog.text
    assert bound == [[("::1", 9090)]]


def test_serve_starts_elsewhere_with_both_locks_or_on_a_private_network(
    settings: Settings, tmp_path: Path, bound: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    public = settings.model_copy(update={"data_dir": tmp_path, "host": "0.0.0.0"})
    with pytest.raises(SettingsError):
        serving.run_server(public)
    serving.run_server(public.model_copy(update={"private_network": True}))
    assert "the API answers programs on this machine only" in caplog.text
    caplog.clear()
    store = Store.from_settings(public)
    KeyStore(store).make("ci")
    store.close()
    serving.run_server(public.model_copy(update={"basic_auth_pass": SecretStr("open sesame")}))
    assert "no key" not in caplog.text
    assert len(bound) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_told_by_address(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.evil.example")


def test_a_real_server_follows_the_command_line(command: Command) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def asked(**headers: str) -> int:
        return httpx.get(f"{url}/v1/label/jobs", headers=headers, timeout=30).status_code

    def is_up() -> bool:
        assert server.poll() is None
        try:
            return httpx.get(f"{url}/health").is_success
        except httpx.TransportError:
            return False

    with running(command, "serve", "--port", port) as server:
        wait_until(is_up, "the server answers", seconds=120)
        assert asked() == 200
        # uvicorn believes the header when a proxy on this machine sends it; the doors do not.
        assert asked(**{"X-Forwarded-For": "127.0.0.1"}) == 401
        text = command.run("keys", "make", "ci")[0].strip()
        assert asked(Authorization=f"Bearer {text}") == 200
        wait_until(lambda: asked() == 401, "the door is locked", seconds=20)
        command.run("keys", "revoke", "ci")
        wait_until(
            lambda: asked(Authorization=f"Bearer {text}") == 401, "the key is dead", seconds=20
        )
    assert text.rpartition("_")[2] not in str(server.communicate())
