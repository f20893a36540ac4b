"""Clean-up of orders, under two installations, stops, kills and clocks that jump.

The store, the sender and the publisher are the real ones; Label Studio's versions are a fake, whose
every call is a point where a process may be stopped for good or for a while.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import greenlet
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backend.errors import HardestFirstError, JobLost, LabelStudioError, RefusedError
from backend.label_studio import versions
from backend.label_studio.records import PredictionRef, ProjectInfo, TaskRef
from backend.label_studio.versions import (
    ABANDONED,
    GRACE,
    VersionNotes,
    fresh_version,
    stale_versions,
)
from backend.publishing.attempt import Attempt
from backend.publishing.live_queue import adopt_published
from backend.publishing.send import Draft, OrderSender
from backend.store.scores import Publication, RankRow, Store
from backend.store.sent_versions import SentVersions

START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TASKS = (1, 2)


class FakeStudio:
    """The predictions of one project, with Label Studio's own clock."""

    def __init__(self) -> None:
        self.clock = START
        self.predictions: dict[str, dict[int, float]] = {}
        self.model_version = ""
        self.replaced_at: dict[str, datetime] = {}
        self.faults: list[str] = []
        # Versions of processes that are alive and still have their job.
        self.being_sent: set[str] = set()

    def delete(self, version: str) -> None:
        if version == self.model_version:
            self.faults.append(f"the live order {version} was deleted")
        since = self.clock - self.replaced_at.get(version, START - GRACE)
        if since < GRACE:
            self.faults.append(f"{version} was deleted {since} after it was replaced")
        if version in self.being_sent:
            self.faults.append(f"{version} was deleted while it was being sent")
        self.predictions.pop(version, None)

    def switch(self, version: str) -> None:
        if version not in self.predictions:
            raise RefusedError("there is no such version", 400)
        if version != self.model_version:
            self.replaced_at[self.model_version] = self.clock
            self.replaced_at.pop(version, None)
        self.model_version = version


class Wire:
    """What one process sees of Label Studio: before and after each call it may be stopped."""

    url = "http://label-studio.example"

    def __init__(self, server: FakeStudio) -> None:
        self._server = server

    def _call(self, call: Callable[[], Any]) -> Any:
        pause()
        answer = call()
        pause()
        return answer

    def now(self) -> datetime:
        return self._call(lambda: self._server.clock)

    def project(self, project_id: int) -> ProjectInfo:
        return self._call(lambda: project_info(project_id, self._server.model_version))

    def tasks(self, project_id: int) -> list[TaskRef]:
        return []

    def model_versions(self, project_id: int) -> dict[str, int]:
        return self._call(lambda: {v: len(p) for v, p in self._server.predictions.items()})

    def import_predictions(self, project_id: int, items: Sequence[dict[str, Any]]) -> int:
        made = {item["task"]: item["score"] for item in items}
        self._call(lambda: self._server.predictions.update({items[0]["model_version"]: made}))
        return len(made)

    def predictions_of(self, project_id: int, version: str) -> list[PredictionRef]:
        found = self._call(lambda: dict(self._server.predictions.get(version, {})))
        return [
            PredictionRef(id=task, task_id=task, model_version=version, score=score)
            for task, score in found.items()
        ]

    def set_order(self, project_id: int, version: str) -> None:
        self._call(lambda: self._server.switch(version))

    def delete_model_version(self, project_id: int, version: str) -> int:
        return self._call(lambda: self._server.delete(version)) or 0

    def views(self, project_id: int) -> list[Any]:
        raise LabelStudioError("no tabs here")


def project_info(project_id: int, model_version: str) -> ProjectInfo:
    return ProjectInfo(
        id=project_id,
        title="Line 1",
        label_config="",
        model_version=model_version,
        sampling="Uncertainty sampling",
        task_count=len(TASKS),
        labelled_count=0,
        maximum_annotations=1,
        show_predictions=True,
    )


def pause() -> None:
    parent = greenlet.getcurrent().parent
    if parent is not None:
        parent.switch()


@dataclass
class Install:
    """One DATA_DIR with the clock of its machine. Its last process has the job."""

    store: Store
    clock_is_off: timedelta = timedelta(0)
    processes: list[Process] = field(default_factory=list)


class Process:
    """One run of `score`."""

    def __init__(self, install: Install, server: FakeStudio, project_id: int) -> None:
        self.install = install
        self.project_id = project_id
        self.moved_at = server.clock
        self.version = fresh_version()
        self._wire: Any = Wire(server)
        self._greenlet = greenlet.greenlet(self._run)
        install.processes.append(self)

    @property
    def is_over(self) -> bool:
        return bool(self._greenlet.dead)

    def step(self, now: datetime) -> None:
        self.moved_at = now
        self._greenlet.switch()

    @property
    def has_job(self) -> bool:
        return self.install.processes[-1] is self

    def hold(self) -> None:
        if not self.has_job:
            raise JobLost

    def _run(self) -> None:
        store = self.install.store
        adopt_published(store, self._wire.project(self.project_id))
        made_of = Publication(
            model_version=self.version,
            project_id=self.project_id,
            state="preparing",
            detector="d1",
            encoder="e1",
            strategy="entropy",
            diversity_weight=0.4,
            strategy_weights={},
            ranked=0,
            created_at=START,
        )
        rows = [RankRow(place, task, 0.5) for place, task in enumerate(TASKS, start=1)]
        sender = OrderSender(self._wire, store, threshold=0.25)
        with contextlib.suppress(HardestFirstError, JobLost):
            sender.send(Draft(made_of, rows, (), None), Attempt(hold=self.hold))


class Orders(RuleBasedStateMachine):
    """Two installations that publish to one project."""

    stores: tuple[Store, Store]
    projects = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.server = FakeStudio()
        self.project = next(self.projects)
        self.installs = [Install(store) for store in self.stores]
        self.running: list[Process] = []
        self.names = count()

    def _token(self, _: int) -> str:
        """In place of a random part of the name: Hypothesis repeats what it finds."""
        return f"{next(self.names):04x}{self.project:06x}"

    def _step(self, process: Process) -> None:
        process.step(self.server.clock)
        self._only([other for other in self.running if not other.is_over])

    def _only(self, running: list[Process]) -> None:
        self.running = running
        self.server.being_sent = {process.version for process in running if process.has_job}

    @rule(who=st.integers(0, 1), finish=st.booleans())
    def score(self, who: int, finish: bool) -> None:
        """What ran at this installation sent no heartbeat for too long, or is over."""
        install = self.installs[who]
        now = self.server.clock + install.clock_is_off
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(versions, "_own_millisecond", lambda: now)
            patch.setattr(versions.secrets, "token_hex", self._token)
            process = Process(install, self.server, self.project)
        self._only([*self.running, process])
        while finish and not process.is_over:
            self._step(process)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), steps=st.integers(1, 40))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        process = data.draw(st.sampled_from(self.running))
        for _ in range(steps):
            if not process.is_over:
                self._step(process)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        killed = data.draw(st.sampled_from(self.running))
        self._only([process for process in self.running if process is not killed])

    @rule(minutes=st.sampled_from([1, 10, 59, 61, 600, 1500]))
    def time_goes_by(self, minutes: int) -> None:
        self.server.clock += timedelta(minutes=minutes)
        # A process that is stopped for a day is out of what is promised.
        limit = self.server.clock - ABANDONED / 2
        self._only([process for process in self.running if process.moved_at > limit])

    @rule(who=st.integers(0, 1), hours=st.sampled_from([-3, -1, 0, 1, 3]))
    def clock_jumps(self, who: int, hours: int) -> None:
        self.installs[who].clock_is_off = timedelta(hours=hours)

    @invariant()
    def nothing_in_use_is_deleted(self) -> None:
        assert self.server.faults == []
        live = self.server.model_version
        assert not live or self.server.predictions.get(live)


@pytest.mark.timeout(300)
def test_what_is_served_or_was_a_moment_ago_is_never_deleted(tmp_path: Path) -> None:
    Orders.stores = (
        Store(f"sqlite:///{tmp_path / 'one.sqlite3'}"),
        Store(f"sqlite:///{tmp_path / 'two.sqlite3'}"),
    )
    try:
        case = Orders.TestCase()
        case.settings = settings(
            max_examples=600,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case.runTest()
    finally:
        for store in Orders.stores:
            store.close()


def named(hour: int, minute: int) -> str:
    return f"hf-20260101-{hour:02d}{minute:02d}00-000-aaaa"


def test_clean_up_takes_what_broke_off_and_what_was_replaced_an_hour_ago() -> None:
    a, b, c, d = named(12, 0), named(11, 0), named(11, 1), named(11, 30)
    now = START + timedelta(minutes=1)
    there = [a, b, c, d, "someone-else", "hf-odd-name"]
    just_now = VersionNotes(replaced={a: START, b: START - GRACE}, live=c)
    assert stale_versions(there, just_now, now=now) == [b]
    assert stale_versions(there, VersionNotes(live=c, broke_off=[d]), now=now) == [d]


@pytest.mark.parametrize(
    ("age", "seen", "goes"),
    [
        (timedelta(hours=23), None, False),
        (timedelta(hours=25), None, True),
        (timedelta(hours=25), timedelta(hours=2), False),
        (timedelta(hours=60), timedelta(hours=25), True),
    ],
)
def test_what_others_left_goes_when_nobody_else_was_served_for_a_day(
    age: timedelta, seen: timedelta | None, goes: bool
) -> None:
    version = named(12, 0)
    now = START + age
    notes = VersionNotes(live=named(11, 0), stranger_seen=None if seen is None else now - seen)
    assert stale_versions([version], notes, now=now) == ([version] if goes else [])


def test_what_is_kept_of_a_version(store: Store) -> None:
    sent = SentVersions(store, 7)
    row = Publication("hf-a", 7, "preparing", "d1", "e1", "entropy", 0.4, {}, 1, START)
    store.save_publication(row, [RankRow(1, 30, 0.5)])
    assert sent.notes() == VersionNotes(broke_off=("hf-a",))
    sent.switching("hf-a", replaced="", now=START)
    assert sent.notes() == VersionNotes()
    sent.live("hf-a", now=START)
    assert sent.stranger("hf-a") == sent.stranger("A title") == ""
    stranger = named(12, 0)
    assert "another installation" in sent.stranger(stranger)
    store.save_publication(Publication("hf-b", *list(row.__dict__.values())[1:]), [])
    sent.switching("hf-b", replaced=stranger, now=START + GRACE)
    sent.live("hf-b", now=START + GRACE)
    assert sent.notes() == VersionNotes(
        replaced={"hf-a": START + GRACE}, live="hf-b", stranger_seen=START + GRACE
    )
    sent.forget(there=[])
    assert store.publication(7, "hf-a") is None
    assert store.ranks("hf-a") == []
    assert sent.notes().live == "hf-b"
