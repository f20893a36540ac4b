"""The keys of the API, on both databases a user may have."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import update

from backend.errors import ApiKeyError
from backend.store.api_keys import KeyStore, split_key
from backend.store.scores import Store
from backend.store.tables import api_keys


def test_none_is_made_by_itself(store: Store) -> None:
    assert KeyStore(store).all() == []
    assert not KeyStore(store).any_made()


def test_a_key_comes_back_as_it_was_made(store: Store) -> None:
    keys = KeyStore(store)
    key, text = keys.make("dash [bold]board é", projects=[12, 3], may_write=False, days=30)
    assert keys.all() == [key]
    assert keys.any_made()
    assert (key.projects, key.may_write, key.state) == (frozenset({3, 12}), False, "live")
    assert key.expires_at is not None
    assert key.expires_at - key.created_at == timedelta(days=30)
    parts = split_key(text)
    assert parts is not None
    assert parts[0] == key.id
    assert key.opens_with(parts[1])


def test_a_key_opens_with_its_own_secret_alone(store: Store) -> None:
    keys = KeyStore(store)
    (one, text), (_, other) = keys.make("one"), keys.make("two")
    secret = text.rpartition("_")[2]
    near = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    for wrong in ("", near, secret[:-1], secret.upper() + "A", other.rpartition("_")[2], "é"):
        assert not one.opens_with(wrong)
    # What is stored opens nothing either: the database holds no key.
    assert not one.opens_with(one.secret_hash)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hardest",
        "hardest__",
        "hardest_0123456789ab_" + "0" * 63,
        "hardest_0123456789ab_" + "0" * 65,
        "hardest_0123456789AB_" + "0" * 64,
        "hf_0123456789ab_" + "0" * 64,
        " hardest_0123456789ab_" + "0" * 64,
        "hardest_0123456789ab_" + "0" * 64 + "\n",
        "hardest_0123456789ab_" + "\u0660" * 64,
    ],
)
def test_what_is_no_key_is_told_by_its_form(text: str) -> None:
    assert split_key(text) is None


def test_neither_the_database_nor_a_repr_holds_a_secret(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    key, text = KeyStore(store).make("ci")
    KeyStore(store).mark_used(key.id)
    secret = text.rpartition("_")[2]
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    store.close()
    assert any(key.id.encode() in content for content in files)
    assert not any(secret.encode() in content for content in files)
    assert secret not in repr(key)
    assert key.secret_hash not in repr(key)


def test_a_name_is_free_again_once_its_key_is_revoked(store: Store) -> None:
    keys = KeyStore(store)
    first, _ = keys.make("ci")
    with pytest.raises(ApiKeyError, match=r"There is a key 'ci': revoke it"):
        keys.make("ci")
    assert keys.revoke("ci").id == first.id
    second, _ = keys.make("ci")
    states = {key.id: key.state for key in keys.all()}
    assert states == {first.id: "revoked", second.id: "live"}
    # By name it is the live one that is meant, and each ends only once.
    assert keys.revoke("ci").id == second.id
    for gone in ("ci", first.id, "never"):
        with pytest.raises(ApiKeyError, match="no such key"):
            keys.revoke(gone)
    assert keys.any_made()


def test_an_id_goes_before_a_name_that_reads_the_same(store: Store) -> None:
    keys = KeyStore(store)
    meant, _ = keys.make("meant")
    other, _ = keys.make(meant.id)
    assert keys.revoke(meant.id).id == meant.id
    assert keys.revoke(meant.id).id == other.id


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines", "bell\a"])
def test_a_name_that_cannot_be_listed_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ApiKeyError, match="printable"):
        KeyStore(store).make(name)
    assert KeyStore(store).all() == []


def test_a_key_ends_with_its_last_day(store: Store) -> None:
    keys = KeyStore(store)
    key, _ = keys.make("short", days=1)
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    with store.begin() as connection:
        connection.execute(update(api_keys).values(expires_at=past))
    (found,) = keys.all()
    assert (key.state, found.state) == ("live", "expired")
    assert dataclasses.replace(found, revoked_at=past).state == "revoked"


def test_the_last_use_is_kept(store: Store) -> None:
    keys = KeyStore(store)
    (used, _), (idle, _) = keys.make("used"), keys.make("idle")
    keys.mark_used(used.id)
    by_id = {key.id: key.last_used_at for key in keys.all()}
    assert by_id[idle.id] is None
    assert by_id[used.id] is not None
