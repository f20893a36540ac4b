"""Makes malformed requests: what Label Studio and scripts send, bent and broken in every place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from backend.api.request_context import REQUEST_ID_HEADER
from backend.label_studio.protocol import PROJECT_HEADER, SECRET_HEADER
from tests.api.busy_server import SCORED, TASKS, UNSCORED
from tests.label_studio.conftest import CONFIG

ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
LABEL_CONFIGS = (
    "",
    "<View/>",
    "<View>",
    "{}",
    "\ud800",
    "<View>\x00</View>",
    "<View>" * 3000,
    "<View>" * 3000 + "</View>" * 3000,
    f'<!DOCTYPE v [<!ENTITY l0 "lol">{ENTITIES}]><View>&l11;</View>',
    f'<!DOCTYPE v [<!ENTITY l0 "lol">{ENTITIES}]>{CONFIG.replace("RBC", "&l11;")}',
    '<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]><View>&x;</View>',
    '<!DOCTYPE v SYSTEM "http://127.0.0.1:9/v.dtd"><View/>',
    CONFIG.replace("$image", "$$"),
    CONFIG.replace("RectangleLabels", "Rectangle"),
    CONFIG.replace('toName="image"', 'toName="elsewhere"'),
    CONFIG.replace('name="label"', ""),
    CONFIG.replace('value="RBC"', ""),
    CONFIG.replace("<Label ", "<Label predicted_values=',,' "),
    CONFIG.replace("</View>", f'<Label value="{"x" * 100_000}"/></View>'),
    CONFIG * 2,
)
ADDRESSES = (
    "",
    " ",
    "\x00",
    "\ud800",
    "http://",
    "http://[",
    "http://127.0.0.1:9/a.jpg",
    "http://127.0.0.1:99999/a.jpg",
    "http://169.254.169.254/latest/meta-data/",
    "https://user:pass@[::1]/a.jpg",
    "http://127.1/\r\nHost: elsewhere",
    "file:///etc/passwd",
    "/data/local-files/?d=../../../etc/passwd",
    "/data/local-files/",
    "/data/upload/../../../etc/passwd",
    "//127.0.0.1:9/a.jpg",
    "s3://",
    "s3://bucket/\ud800",
    "data:",
    "data:image/png;base64,????",
    "data:image/png;base64,iVBORw0KGgo=",
    "x" * 100_000,
    "http://127.0.0.1:9/" + "%" * 1000,
)


def nested(depth: int) -> Any:
    value: Any = []
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e308, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "\x00", "\ud800", "\udfff\ud800", "null", "1e9", "²", "９", "x" * 100_000),
    *([], {}, [[]], [None] * 50, {"": {}}, {"\ud800": 1}, {"id": {"id": {}}}, nested(90)),
    *LABEL_CONFIGS[4:9],
    *ADDRESSES[:8],
)

# No project that there could be.
NO_PROJECTS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, -7.5, 2**31, 2**63, 10**30, 10**400, float("nan"), float("inf")),
    *("", " ", ".", "x", "-1", "0.1700000000", "+1", " 1", "1 ", "1\x00", "²", "９", "\ud800"),
    *("9" * 12, "9" * 30, "9" * 5000 + ".1", "1e3.5", "0x10", "x" * 100_000),
    *([], {}, [1], {"id": None}, {"id": True}, {"id": {"id": 1}}, {"id": 2**40}, {"ID": 1}),
    nested(90),
)


HEADERS: dict[str, tuple[bytes, ...]] = {
    "Content-Type": (
        *(b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"),
        *(b"application/json; charset=utf-16", b"application/xml", b"\xff\xfe", b"/;=,"),
        b"multipart/form-data; boundary=x",
    ),
    "Authorization": (b"", b"Basic", b"Basic ????", b"Basic /w==", b"Bearer \xff", b"x" * 10_000),
    PROJECT_HEADER: (b"", b"x", b"-1", b"9" * 5000, b"\xb2", b"{}"),
    SECRET_HEADER: (b"", b"x", b"\xff"),
    "Content-Length": (b"x", b"-1", b"\xb2", b"0"),
    REQUEST_ID_HEADER: (b"", b"\xff", b"x" * 5000),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, as keys from the outside in."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one in a place of it."""
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


@dataclass
class Fuzz:
    """Makes malformed requests, the same ones for the same seed."""

    seed: str
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def bent(self, body: Any) -> Any:
        """The body with strange values in some places; never as it was."""
        body = deepcopy(body)
        for _ in range(self.rng.choice((1, 1, 1, 2, 4))):
            place = self.rng.choice(list(places(body)))
            body = put(body, place, deepcopy(self.rng.choice(STRANGE)))
        return body

    def bytes_of(self, body: Any) -> bytes:
        """The body as JSON, or as what is nearly JSON."""
        text = json.dumps(body, ensure_ascii=self.rng.random() < 0.7)
        sent = text.encode("utf-8", "surrogatepass")
        if self.rng.random() < 0.6:
            return sent
        cut = self.rng.randrange(len(sent) + 1)
        broken: tuple[Callable[[], bytes], ...] = (
            lambda: b"",
            lambda: sent[:cut],
            lambda: sent[:cut] + self.rng.randbytes(3) + sent[cut:],
            lambda: sent[:cut] + b"\xff\xfe" + sent[cut:],
            lambda: sent[:cut] + b"\x00" + sent[cut:],
            lambda: sent + sent,
            lambda: b"\xef\xbb\xbf" + sent,
            lambda: text.encode("utf-16", "surrogatepass"),
            lambda: text.encode("utf-32-be", "surrogatepass"),
            lambda: b"[" * 50_000,
            lambda: b'{"a":' * 20_000,
            lambda: b'{"project":' + b"9" * 5000 + b"}",
            lambda: b'{"project": 1, "project": ' + sent + b"}",
            lambda: self.rng.randbytes(self.rng.randrange(200)),
            lambda: b"x" * 200_000,
            lambda: b"NaN",
            lambda: b'"' + b"\\ud800" * 100 + b'"',
        )
        return self.rng.choice(broken)()

    def headers(self, good: dict[str, bytes]) -> dict[str, bytes]:
        """The headers, or some that are not as they should be."""
        if self.rng.random() < 0.8:
            return good
        name = self.rng.choice(list(HEADERS))
        return {**good, name: self.rng.choice(HEADERS[name])}

    def task(self) -> Any:
        task = {
            "id": self.rng.choice((*TASKS, *range(100, 110))),
            "project": SCORED,
            "data": {"image": self.rng.choice(ADDRESSES)},
            "annotations": [],
        }
        return self.bent(task) if self.rng.random() < 0.5 else task

    def no_project(self) -> Any:
        return deepcopy(self.rng.choice(NO_PROJECTS))

    def predict(self) -> Any:
        tasks = [self.task() for _ in range(self.rng.randrange(4))]
        body = {
            "tasks": tasks,
            "project": self.rng.choice((f"{SCORED}.1700000000", SCORED, UNSCORED)),
            "label_config": self.rng.choice((*[CONFIG] * 20, *LABEL_CONFIGS)),
            "params": {"login": None, "password": None, "context": None},
        }
        return self.bent(body)

    def setup(self) -> Any:
        # The published project would be looked at, as Label Studio may just have forgotten its
        # version: that is no change, and yet a job.
        project = UNSCORED if self.rng.random() < 0.5 else self.no_project()
        extra = self.rng.choice((None, "", "{}", "{", {"a": 1}, *STRANGE))
        body = {
            "project": project,
            "schema": self.rng.choice(LABEL_CONFIGS),
            "hostname": self.rng.choice(ADDRESSES),
            "access_token": self.rng.choice(STRANGE),
            "extra_params": extra,
        }
        body = self.bent(body)
        return put(body, ("project",), project) if isinstance(body, dict) else body

    def webhook(self) -> Any:
        project = self.no_project()
        actions = ("ANNOTATION_CREATED", "START_TRAINING", "PROJECT_UPDATED", "TASKS_DELETED")
        body = {
            "action": self.rng.choice((*actions, *STRANGE)),
            "project": project,
            "annotation": {"id": 1, "result": [{"value": {"x": 1}}], "task": 1},
            "tasks": [{"id": 1}],
        }
        body = self.bent(body)
        if not isinstance(body, dict):
            return body
        # Of a project that there could be, but nothing that ever happens.
        if self.rng.random() < 0.2:
            return {**body, "project": SCORED, "action": self.rng.choice((*STRANGE, "ANNOTATION"))}
        return put(body, ("project",), project)


MAKE: dict[str, tuple[int, Callable[[Fuzz], Any]]] = {
    "/predict": (4000, Fuzz.predict),
    "/setup": (3000, Fuzz.setup),
    "/webhook": (3500, Fuzz.webhook),
    "/versions": (500, Fuzz.setup),
}
"""What Label Studio calls -> how many bodies, and what makes one. Schemathesis does the API."""
