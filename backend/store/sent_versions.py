"""What this store knows of the versions in Label Studio, so that clean-up spares what is in use.

Several installations may publish to one project, processes stop at any point and go on later, and
clocks jump. So nothing is guessed from names: a version is `preparing` before the first of it is
sent, `switching` just before the switch, `live` after it, and `superseded` once another is live.
`shown` is one that only auto-label sent. A version that is still `switching` may have been served,
and is treated like one of another installation.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import delete, select, update

from backend.label_studio.versions import VersionNotes, is_ours
from backend.store import tables
from backend.store.database import utc
from backend.store.scores import Store

_c = tables.publications.c


def stranger_name(project_id: int) -> str:
    """Under what it is kept when an order of another installation was last served."""
    return f"stranger_seen:{project_id}"


class SentVersions:
    """The versions of one project.

    Args:
        store: where they are kept. All times are Label Studio's.
        project_id: the project.

    Raises:
        StoreError: (from the methods) the store cannot be read or written.
    """

    def __init__(self, store: Store, project_id: int) -> None:
        self._store = store
        self._of_project = _c.project_id == project_id
        self._kept_as = stranger_name(project_id)
        self._project_id = project_id

    def switching(self, version: str, *, replaced: str, now: datetime) -> None:
        """Keep that Label Studio may serve this version from now on, instead of `replaced`."""
        stranger = self.stranger(replaced)
        with self._store.begin() as connection:
            connection.execute(
                update(tables.publications)
                .where(self._of_project, _c.model_version == version, _c.state == "preparing")
                .values(state="switching")
            )
            if stranger:
                seen = {"name": self._kept_as, "value": now.isoformat()}
                self._store.upsert(connection, tables.kept, [seen])

    def live(self, version: str, *, now: datetime) -> None:
        """Keep that Label Studio serves this version, and ceased to serve the others by `now`.

        Nothing changes where another process replaced it meanwhile.
        """
        mine = self._of_project & (_c.model_version == version)
        with self._store.begin() as connection:
            found = connection.execute(
                update(tables.publications)
                .where(mine, _c.state.in_(("switching", "live")))
                .values(state="live")
            )
            if found.rowcount == 0:
                return
            connection.execute(
                update(tables.publications)
                .where(self._of_project, ~mine, _c.state.in_(("live", "shown")))
                .values(state="superseded")
            )
            connection.execute(
                update(tables.publications)
                .where(self._of_project, _c.state == "superseded", _c.replaced_at.is_(None))
                .values(replaced_at=now)
            )

    def stranger(self, served: str) -> str:
        """A line for people where `served` is an order of another installation; else ""."""
        known = self._store.publication(self._project_id, served) is not None
        if known or not is_ours(served):
            return ""
        return (
            f"Project {self._project_id} was served by the order {served}, which this store did "
            "not publish: another installation publishes to the project too; stop one of them, "
            "or give both the same DATABASE_URL"
        )

    def notes(self) -> VersionNotes:
        """What is known."""
        with self._store.begin() as connection:
            rows = list(
                connection.execute(
                    select(_c.model_version, _c.state, _c.replaced_at).where(self._of_project)
                )
            )
            seen = connection.scalar(
                select(tables.kept.c.value).where(tables.kept.c.name == self._kept_as)
            )
        return VersionNotes(
            broke_off=tuple(row.model_version for row in rows if row.state == "preparing"),
            replaced={
                row.model_version: utc(row.replaced_at)
                for row in rows
                if row.state == "superseded" and row.replaced_at is not None
            },
            live=next((row.model_version for row in rows if row.state == "live"), ""),
            stranger_seen=None if seen is None else datetime.fromisoformat(seen),
        )

    def forget(self, *, there: Iterable[str]) -> None:
        """Forget the versions that Label Studio holds no predictions of; `there` are those it does.

        The live one is kept, whatever became of it.
        """
        gone = select(_c.model_version).where(
            self._of_project, _c.state != "live", _c.model_version.not_in(list(there))
        )
        with self._store.begin() as connection:
            connection.execute(delete(tables.ranks).where(tables.ranks.c.model_version.in_(gone)))
            connection.execute(delete(tables.publications).where(_c.model_version.in_(gone)))
