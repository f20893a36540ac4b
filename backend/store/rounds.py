"""Training rounds and their results, and which model serves each project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from backend.errors import PromotionError
from backend.store import tables
from backend.store.database import Database, utc

# The weights that MODEL names: what serves until a trained model is promoted.
BASE = "base"


@dataclass(frozen=True)
class RoundRow:
    """One training.

    Args:
        project_id: whose annotations it was trained on.
        round: its number in the project, from 1.
        job_id: the job that runs it: a repeated job resumes its own round.
        state: training or judged.
        version: its name, `rN-` and the beginning of its content hash; "" until it is trained.
        content_hash: SHA-256 of the weights file.
        detector: the version of its scores in the store.
        labels: images it was trained on.
        boxes: boxes on them.
        judged_on: images of the hold-out it was evaluated on.
        judgement: see `evaluate.Evaluation.as_json`; besides, `savings`, and `boxes_by_class`:
            class name -> the boxes it was trained on.
        promoted: whether the evaluation promoted it.
        reason: why, in one line.
        seconds: how long training and evaluation took.
        created_at: when it began.
    """

    project_id: int
    round: int
    job_id: int
    state: str = "training"
    version: str = ""
    content_hash: str = ""
    detector: str = ""
    labels: int = 0
    boxes: int = 0
    judged_on: int = 0
    judgement: Mapping[str, Any] = field(default_factory=dict)
    promoted: bool = False
    reason: str = ""
    seconds: float = 0.0
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


class RoundStore:
    """Rounds and promotions in the store. Safe for several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, project_id: int, job_id: int) -> RoundRow:
        """The round of this job: a new one, or the one an earlier attempt of the job began.

        One training of a project runs at a time: an unfinished earlier round is discarded, and
        its number is reused.
        """
        c = tables.rounds.c
        mine = select(tables.rounds).where(c.project_id == project_id, c.job_id == job_id)
        last = select(func.max(c.round)).where(c.project_id == project_id)
        with self._database.begin() as connection:
            found = connection.execute(mine).first()
            if found is not None:
                return _round(found)
            connection.execute(
                delete(tables.rounds).where(c.project_id == project_id, c.state == "training")
            )
            row = RoundRow(project_id, (connection.scalar(last) or 0) + 1, job_id)
            connection.execute(tables.rounds.insert(), [_values(row)])
        return row

    def close(self, row: RoundRow) -> None:
        """Store an evaluated round and, where it says so, promote its model: both or neither."""
        with self._database.begin() as connection:
            self._database.upsert(connection, tables.rounds, [_values(row)])
            if row.promoted and _serving(connection, row.project_id) != row.version:
                _promote(connection, row.project_id, row.version)

    def rounds(self, project_id: int) -> list[RoundRow]:
        """The evaluated rounds of a project, first one first."""
        c = tables.rounds.c
        query = (
            select(tables.rounds)
            .where(c.project_id == project_id, c.state == "judged")
            .order_by(c.round)
        )
        with self._database.begin() as connection:
            return [_round(row) for row in connection.execute(query)]

    def find(self, project_id: int, version: str) -> RoundRow | None:
        """The round that made a version."""
        return next((row for row in self.rounds(project_id) if row.version == version), None)

    def serving(self, project_id: int) -> RoundRow | None:
        """The round whose model serves a project; None: the weights that MODEL names do."""
        with self._database.begin() as connection:
            version = _serving(connection, project_id)
        return None if version == BASE else self.find(project_id, version)

    def promoted(self, project_id: int) -> list[str]:
        """The versions that serve or can be rolled back to, the one that serves last."""
        c = tables.promotions.c
        query = (
            select(c.version)
            .where(c.project_id == project_id, c.withdrawn.is_(False))
            .order_by(c.id)
        )
        with self._database.begin() as connection:
            return list(connection.scalars(query))

    def promote(self, project_id: int, version: str) -> None:
        """Let a version, or `BASE`, serve from now on.

        Raises:
            PromotionError: the project has no such version, or it serves already.
        """
        known = list(dict.fromkeys([BASE, *(row.version for row in self.rounds(project_id))]))
        if version not in known:
            raise PromotionError(
                f"Project {project_id} has no version {version!r}: it has {', '.join(known)}"
            )
        with self._database.begin() as connection:
            if _serving(connection, project_id) == version:
                raise PromotionError(f"Project {project_id} is served by {version} already")
            _promote(connection, project_id, version)

    def roll_back(self, project_id: int) -> tuple[str, str]:
        """Take the last promotion back; returns what served and what serves now.

        Raises:
            PromotionError: nothing was ever promoted.
        """
        c = tables.promotions.c
        with self._database.begin() as connection:
            last = connection.scalar(
                select(func.max(c.id)).where(c.project_id == project_id, c.withdrawn.is_(False))
            )
            if last is None:
                raise PromotionError(
                    f"Project {project_id} is served by the weights that MODEL names: there is "
                    "nothing to roll back to"
                )
            before = _serving(connection, project_id)
            connection.execute(update(tables.promotions).where(c.id == last).values(withdrawn=True))
            return before, _serving(connection, project_id)


def _serving(connection: Connection, project_id: int) -> str:
    c = tables.promotions.c
    query = (
        select(c.version)
        .where(c.project_id == project_id, c.withdrawn.is_(False))
        .order_by(c.id.desc())
        .limit(1)
    )
    return connection.scalar(query) or BASE


def _promote(connection: Connection, project_id: int, version: str) -> None:
    row = {
        "project_id": project_id,
        "version": version,
        "promoted_at": datetime.now(timezone.utc),
        "withdrawn": False,
    }
    connection.execute(tables.promotions.insert(), [row])


def _values(row: RoundRow) -> dict[str, Any]:
    return {**asdict(row), "judgement": json.dumps(row.judgement)}


def _round(row: Any) -> RoundRow:
    values = dict(row._mapping)
    values["judgement"] = json.loads(values["judgement"])
    return RoundRow(**{**values, "created_at": utc(values["created_at"])})
