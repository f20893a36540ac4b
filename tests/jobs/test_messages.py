"""The carriers of messages: what they say when they cannot be used, and what they never do."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest

from backend.errors import QueueError
from backend.jobs.messages import Messages, make_huey
from tests.jobs.conftest import Plant
from tests.redis_server import redis_program, running_redis


def test_the_queue_file_is_made_with_its_folder(tmp_path: Path) -> None:
    huey = make_huey(tmp_path / "new" / "data", "")
    assert huey.pending_count() == 0
    huey.storage.close()
    assert (tmp_path / "new" / "data" / "queue.sqlite3").exists()


def test_a_queue_file_that_is_none_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite3").write_text("no database" * 100)
    with pytest.raises(QueueError, match=r"queue\.sqlite3 cannot be used .* may be deleted"):
        make_huey(tmp_path, "")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("pa55word", "no address of a Redis"),
        ("redis://:pa55/word@127.0.0.1:6379", "no address of a Redis"),
        ("redis://:pa55word@127.0.0.1:1", "no Redis answers there"),
    ],
)
def test_a_wrong_redis_address_is_one_line_without_the_password(
    tmp_path: Path, url: str, said: str
) -> None:
    with pytest.raises(QueueError, match=said) as raised:
        make_huey(tmp_path, url)
    assert "REDIS_URL" in str(raised.value)
    assert "pa55" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_redis_password_is_told(tmp_path: Path, redis_url: str) -> None:
    with pytest.raises(QueueError, match="AuthenticationError") as raised:
        make_huey(tmp_path, redis_url.replace("pa55word", "secret"))
    assert "secret" not in str(raised.value)


def test_a_job_is_kept_when_the_carrier_fails(
    plant: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = redis_program()
    if program is None:
        pytest.skip("no Redis server on this machine (Debian: apt-get install redis-server)")
    with running_redis(program, tmp_path, "pa55word") as url:
        huey = make_huey(tmp_path, url)
        plant.queue.messages = Messages(huey)
    with caplog.at_level(logging.WARNING):
        job = plant.queue.submit("effect", 3)
    huey.storage.pool.disconnect()
    assert plant.queue.get(job.id).state == "queued"
    assert "no worker could be told of a job that is due" in caplog.text
    assert "pa55word" not in caplog.text


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_a_message_cannot_run_code(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plant.folder)
    plant.huey.storage.enqueue(pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match="decode"):
        plant.huey.dequeue()
    assert not (plant.folder / "exploded").exists()
