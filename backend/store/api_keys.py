"""The keys of the API: made, found, revoked. Only a hash of each secret is kept.

A key reads `hardest_ID_SECRET`: the first part shows people and secret scanners what it is, ID is
public and names the key in lists and logs, and SECRET is 256 random bits in hexadecimal.
SHA-256 is enough to keep them: slow hashes protect passwords, which can be guessed one by one,
and nobody gets through 2^256 secrets, however fast the hash is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import insert, or_, select, update

from backend.errors import ApiKeyError
from backend.store.database import Database, utc
from backend.store.tables import api_keys

_FORM = re.compile(r"hardest_([0-9a-f]{12})_([0-9a-f]{64})")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class ApiKey:
    """A key as stored.

    Args:
        id: its public part, 12 hexadecimal digits.
        name: what it was made for.
        may_write: False: it may only read.
        projects: the projects it is for; None: all.
        created_at: when it was made.
        expires_at: when it ends; None: never.
        revoked_at: when it was revoked; None: it was not.
        last_used_at: when it was last used, to some ten minutes; None: never.
        secret_hash: SHA-256 of the secret part, in hexadecimal.
    """

    id: str
    name: str
    may_write: bool
    projects: frozenset[int] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    secret_hash: str = field(repr=False)

    @property
    def has_expired(self) -> bool:
        """Whether its days are over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(timezone.utc)

    @property
    def state(self) -> str:
        """One of "live", "expired" and "revoked"."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.has_expired else "live"

    def opens_with(self, secret: str) -> bool:
        """Whether this is its secret; the time it takes does not reveal how near a guess came."""
        return hmac.compare_digest(_hash(secret), self.secret_hash)


class KeyStore:
    """Keys in the store. Safe for several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(
        self,
        name: str,
        *,
        projects: Iterable[int] | None = None,
        may_write: bool = True,
        days: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; returns it and its text, which is nowhere kept.

        Args:
            name: what it is for; no two live keys share one.
            projects: the projects it is for; None: all.
            may_write: False: it may only read.
            days: how long it lives; None: until it is revoked.

        Raises:
            ApiKeyError: the name is taken, empty, too long or not printable.
        """
        if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
            raise ApiKeyError(
                f"A key's name has 1 to {_LONGEST_NAME} printable characters: take another name."
            )
        now = datetime.now(timezone.utc)
        secret = secrets.token_hex(32)
        key = ApiKey(
            id=secrets.token_hex(6),
            name=name,
            may_write=may_write,
            projects=None if projects is None else frozenset(projects),
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
            revoked_at=None,
            last_used_at=None,
            secret_hash=_hash(secret),
        )
        with self._database.begin() as connection:
            taken = select(api_keys.c.id).where(_is_live(), api_keys.c.name == name)
            if connection.scalar(taken) is not None:
                raise ApiKeyError(f"There is a key {name!r}: revoke it, or take another name.")
            connection.execute(insert(api_keys).values(**_row(key)))
        return key, f"hardest_{key.id}_{secret}"

    def all(self) -> list[ApiKey]:
        """Every key ever made, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        with self._database.begin() as connection:
            return [_key(row) for row in connection.execute(query)]

    def any_made(self) -> bool:
        """Whether a key was ever made; if so, the API asks for one."""
        with self._database.begin() as connection:
            return connection.scalar(select(api_keys.c.id).limit(1)) is not None

    def revoke(self, name_or_id: str) -> ApiKey:
        """End a key for good; returns it as it was.

        Raises:
            ApiKeyError: there is no such key, or it was revoked before.
        """
        c = api_keys.c
        wanted = select(api_keys).where(_is_live(), or_(c.id == name_or_id, c.name == name_or_id))
        with self._database.begin() as connection:
            # An id goes before another key's name that reads the same.
            row = connection.execute(wanted.order_by(c.id != name_or_id)).first()
            if row is None:
                raise ApiKeyError(
                    "There is no such key that is not revoked: `python -m backend keys list` "
                    "shows names and ids."
                )
            connection.execute(
                update(api_keys).where(c.id == row.id).values(revoked_at=datetime.now(timezone.utc))
            )
        return _key(row)

    def mark_used(self, key_id: str) -> None:
        """Say that a key is used just now."""
        with self._database.begin() as connection:
            connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id)
                .values(last_used_at=datetime.now(timezone.utc))
            )


def split_key(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key; None: this is no key of ours."""
    found = _FORM.fullmatch(text)
    return None if found is None else (found[1], found[2])


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _is_live() -> Any:
    return api_keys.c.revoked_at.is_(None)


def _row(key: ApiKey) -> dict[str, Any]:
    projects = None if key.projects is None else sorted(key.projects)
    return {**key.__dict__, "projects": json.dumps(projects)}


def _key(row: Any) -> ApiKey:
    values = dict(row._mapping)
    projects = json.loads(values["projects"])
    values["projects"] = None if projects is None else frozenset(projects)
    for name in ("created_at", "expires_at", "revoked_at", "last_used_at"):
        values[name] = None if values[name] is None else utc(values[name])
    return ApiKey(**values)
