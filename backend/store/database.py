"""The database under the store: connections, migrations and clear errors.

SQLite in WAL mode under DATA_DIR by default, PostgreSQL by DATABASE_URL. Every block of
`begin()` is one transaction: a run killed at any point loses at most the batch in its hands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from backend.disk import is_disk_full
from backend.errors import StoreError
from backend.settings import Settings

# Any number: it only has to be the same in every process that migrates.
_MIGRATION_LOCK = 7203118
_MIGRATIONS = Path(__file__).parent / "migrations"
# Each file's name begins with its revision.
_REVISIONS = {path.name[:4] for path in _MIGRATIONS.glob("versions/[0-9]*.py")}

DatabaseT = TypeVar("DatabaseT", bound="Database")


class Database:
    """One database. Safe to use from several threads and processes.

    Raises:
        StoreError: it cannot be opened, read or written; one line with the remedy.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            # What follows an '@' in a password would be taken for the host, and shown.
            if "@" in f"{parsed.host}{parsed.database if parsed.host else ''}":
                raise ValueError
        except (ArgumentError, ValueError):
            raise StoreError(
                "DATABASE_URL is no database address: "
                "give one like postgresql+psycopg://user:password@host/name, or leave it empty; "
                "special characters of the password are percent-encoded."
            ) from None
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        # Without the query, which may hold a password as well.
        self._where = parsed.set(query={}).render_as_string(hide_password=True)
        with self._clear_errors():
            self._engine = create_engine(parsed, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _tune_sqlite)
            try:
                _migrate(self._engine, self._where)
            except BaseException:
                # With its connection goes the lock of PostgreSQL.
                self._engine.dispose()
                raise

    @classmethod
    def from_settings(cls: type[DatabaseT], settings: Settings) -> DatabaseT:
        """The database that DATABASE_URL or DATA_DIR names."""
        url = settings.database_url.get_secret_value()
        if url:
            return cls(url)
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"DATA_DIR {settings.data_dir} cannot be made ({error.strerror}): "
                "name a folder this account may write to."
            ) from None
        return cls(f"sqlite:///{(settings.data_dir / 'store.sqlite3').absolute()}")

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

    def check(self) -> None:
        """Ask the database one thing."""
        with self.begin() as connection:
            connection.execute(text("SELECT 1"))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A connection in one transaction, committed when the block ends well."""
        with self._clear_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            if is_disk_full(error):
                raise StoreError(
                    f"The disk of the store {self._where} is full: free some space there, then "
                    "run again; what was stored before is kept."
                ) from error
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StoreError(
                f"The store {self._where} failed ({cause}): "
                "check that it is reachable and writable, then run again; "
                "what was stored before is kept."
            ) from error

    def upsert(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows, replacing those with the same primary key; of two alike the last counts."""
        if not rows:
            return
        insert = self._insert(table)
        keys = [column.name for column in table.primary_key]
        # PostgreSQL refuses to replace a row twice in one statement.
        last = {tuple(row[key] for key in keys): row for row in rows}
        values = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys}
        connection.execute(
            insert.on_conflict_do_update(index_elements=keys, set_=values), list(last.values())
        )

    def insert_new(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows, but for those whose primary key is there."""
        if rows:
            connection.execute(self._insert(table).on_conflict_do_nothing(), list(rows))

    def _insert(self, table: Table) -> Any:
        from sqlalchemy.dialects import postgresql, sqlite

        postgres = self._engine.dialect.name == "postgresql"
        return (postgresql.insert if postgres else sqlite.insert)(table)


def utc(moment: datetime) -> datetime:
    """A moment as stored, with its zone: SQLite forgets it, and UTC was written."""
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment


def _tune_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers go on beside one writer; a writer waits its turn instead of failing.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _migrate(engine: Engine, where: str) -> None:
    """Bring the tables to the newest schema; one process at a time does it.

    Raises:
        StoreError: a newer version made them.
    """
    with engine.connect() as connection:
        if _revision(connection) == max(_REVISIONS):
            return  # without alembic, which takes longer to import than all else

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})")
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        found = _revision(connection)
        if found is not None and found not in _REVISIONS:
            raise StoreError(
                f"The store {where} was made by a newer version (its schema is {found}, this "
                f"version knows {max(_REVISIONS)}): update this installation, or name another "
                "DATA_DIR or DATABASE_URL; nothing was changed."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})")


def _revision(connection: Connection) -> str | None:
    """The schema that the tables have; None: there are none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found
