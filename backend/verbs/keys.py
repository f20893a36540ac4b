"""`keys`: the keys of the API are made, listed and revoked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.verbs.console import Json, note, output, say, settings_with, table

if TYPE_CHECKING:
    from backend.store.api_keys import ApiKey, KeyStore

keys = typer.Typer(help="Make, list and revoke keys of the API.", no_args_is_help=True)


@keys.command()
def make(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    project: Annotated[
        list[int] | None,
        typer.Option(help="A project it is for; give it again for more. None: all.", min=1),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It may only read.")] = False,
    days: Annotated[
        int | None,
        typer.Option(help="Days until it expires; none: when it is revoked.", min=1, max=36500),
    ] = None,
) -> None:
    """Make a key and show it, once: only a hash of it is kept."""
    with _key_store() as store:
        key, text = store.make(name, projects=project or None, may_write=not read_only, days=days)
    # Alone on stdout, so that a script can take it from there.
    print(text)
    ends = "" if key.expires_at is None else f" until {key.expires_at:%Y-%m-%d}"
    note(f"key {key.id} {_may(key)} {_projects(key)}{ends}; it is not shown again")


@keys.command("list")
def show(as_json: Json = False) -> None:
    """Show the keys, and what each may."""
    with _key_store() as store:
        found = store.all()
    if as_json:
        print(json.dumps([_as_json(key) for key in found]))
        return
    columns = ("id", "name", "may", "for", "made", "expires", "last used", "state")
    rows = table("keys, oldest first", *columns, text=columns)
    for key in found:
        days = (_day(key.created_at), _day(key.expires_at), _day(key.last_used_at))
        rows.add_row(key.id, key.name, _may(key), _projects(key), *days, key.state)
    output.print(rows)


@keys.command()
def revoke(name: Annotated[str, typer.Argument(help="The key's name or id.")]) -> None:
    """End a key for good; running servers refuse it within seconds."""
    with _key_store() as store:
        key = store.revoke(name)
    say(f"key {key.id} is revoked")


@contextmanager
def _key_store() -> Iterator[KeyStore]:
    from backend.store.api_keys import KeyStore
    from backend.store.database import Database

    database = Database.from_settings(settings_with())
    try:
        yield KeyStore(database)
    finally:
        database.close()


def _may(key: ApiKey) -> str:
    return "reads and writes" if key.may_write else "reads"


def _projects(key: ApiKey) -> str:
    if key.projects is None:
        return "all projects"
    numbers = ", ".join(str(number) for number in sorted(key.projects))
    return f"project {numbers}" if len(key.projects) == 1 else f"projects {numbers}"


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d}"


def _as_json(key: ApiKey) -> dict[str, Any]:
    def moment(value: datetime | None) -> str | None:
        return None if value is None else value.isoformat()

    return {
        "id": key.id,
        "name": key.name,
        "state": key.state,
        "may_write": key.may_write,
        "projects": None if key.projects is None else sorted(key.projects),
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "last_used_at": moment(key.last_used_at),
    }
