"""Notifies workers that a job is due, by Huey: through a file, or through Redis.

A notification may be lost, and may come twice: the job table decides, a claim is atomic, and the
next sweep notifies again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huey import RedisHuey, SqliteHuey
from huey.api import Huey
from huey.registry import Message
from huey.serializer import Serializer
from redis import ConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.errors import QueueError

logger = logging.getLogger(__name__)

_NAME = "hardest-first"


def make_huey(data_dir: Path, redis_url: str) -> Huey:
    """The Huey: `queue.sqlite3` in `data_dir` (made if need be), or the Redis of `redis_url`.

    Raises:
        QueueError: the file cannot be used, or no Redis answers; the line holds no password.
    """
    if redis_url:
        return _redis(redis_url)
    path = data_dir / "queue.sqlite3"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return SqliteHuey(_NAME, filename=str(path), results=False, serializer=_JsonMessages())
    except (sqlite3.Error, OSError) as error:
        raise QueueError(
            f"The queue file {path} cannot be used ({error}): check that its folder is writable; "
            "the file itself may be deleted, as no job is lost with it."
        ) from None


def _redis(url: str) -> Huey:
    try:
        # One more try at once: a connection that was kept open may have been closed meanwhile.
        pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 1))
    except ValueError:
        raise QueueError(
            "REDIS_URL is no address of a Redis: give one like redis://:password@host:6379/0, "
            "or leave it empty; special characters of the password are percent-encoded."
        ) from None
    huey = RedisHuey(_NAME, connection_pool=pool, results=False, serializer=_JsonMessages())
    try:
        huey.storage.conn.ping()
    except RedisError as error:
        raise QueueError(
            f"REDIS_URL: no Redis answers there ({type(error).__name__}): "
            "check that it runs, and the address and password."
        ) from None
    return huey


class _JsonMessages(Serializer):  # type: ignore[misc]
    """JSON in place of Huey's pickle, which would run code that was written to the queue."""

    def serialize(self, data: Message) -> bytes:
        return json.dumps([data.id, data.name, data.args]).encode()

    def deserialize(self, data: bytes) -> Message:
        identity, name, arguments = json.loads(bytes(data))
        return Message(id=identity, name=name, args=tuple(arguments), kwargs={})


class Messages:
    """Sends notifications to workers, and receives them. One for each Huey.

    Args:
        huey: see `make_huey`.
    """

    def __init__(self, huey: Huey) -> None:
        self.huey = huey
        self._run: Callable[[int], None] = _refuse

        def job_due(job_id: int) -> None:
            self._run(job_id)

        self._job_due = huey.task()(job_due)

    def send(self, job_ids: Iterable[int]) -> None:
        """Enqueue a notification for each of these jobs, unless one is pending.

        A failure is logged: the jobs are stored, and the next sweep notifies again.
        """
        wanted = list(job_ids)
        if not wanted:
            return
        try:
            under_way = {task.args[0] for task in self.huey.pending()}
            for job_id in wanted:
                if job_id not in under_way:
                    self.huey.enqueue(self._job_due.s(job_id))
        except (sqlite3.Error, RedisError, OSError) as error:
            logger.warning(
                "no worker could be told of a job that is due (%s): it is kept and told of later",
                error,
            )

    def deliver_to(self, run: Callable[[int], None]) -> None:
        """Call `run` with the id of each job that is due (only where a consumer runs)."""
        self._run = run


def _refuse(job_id: int) -> Any:
    raise RuntimeError(f"job {job_id} was delivered to a process that runs no jobs")
