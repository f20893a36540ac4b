"""Checks API keys."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping

import anyio.to_thread
from fastapi import HTTPException, status

from backend.api.security.rate_limits import RateLimits
from backend.errors import StoreError
from backend.store.api_keys import ApiKey, KeyStore, split_key

logger = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""How long a server may go on with what it knows of keys: a revoked one opens no longer."""

_NOTE_USE_EVERY_SECONDS = 600.0
_THREADS = 4

_NONE_MADE = (
    "no key was made yet: make one with `python -m backend keys make NAME` and send it as "
    "`Authorization: Bearer KEY`; without, only programs on the server's own machine are answered"
)
_NONE_SHOWN = "no key: send one as `Authorization: Bearer KEY`"
_UNKNOWN = "wrong key: it is not one of this server's, or not all of it was sent"


class Gate:
    """Checks API keys. One for each server; safe for several threads.

    It caches all keys and reloads them every two seconds: requests cost no query, and guesses
    cost next to nothing. It has its own threads, so that it answers while all others are busy.

    Args:
        keys: the keys.
        rates: counts the requests of each.
    """

    def __init__(self, keys: KeyStore, rates: RateLimits) -> None:
        self._keys = keys
        self._rates = rates
        self._lock = threading.Lock()
        self._known: Mapping[str, ApiKey] = {}
        self._read_at = -math.inf
        self._noted_at: dict[str, float] = {}
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def admit(
        self, shown: str | None, *, address: str, from_this_machine: bool
    ) -> ApiKey | None:
        """The key that a request shows; None: no key was ever made, and none is needed here.

        Args:
            shown: the text of the key; None: the request shows none.
            address: where the request comes from.
            from_this_machine: see `loopback.is_from_this_machine`.

        Raises:
            HTTPException: 401 or 429, as one line.
            StoreError: the keys cannot be read.
        """
        return await anyio.to_thread.run_sync(
            self._admit, shown, address, from_this_machine, limiter=self._threads
        )

    def _admit(self, shown: str | None, address: str, from_this_machine: bool) -> ApiKey | None:
        if shown is None:
            known = self._fresh(FRESH_SECONDS)
            if not known and from_this_machine:
                return None
            raise _unauthorised(_NONE_SHOWN if known else _NONE_MADE)
        key = self._opened_by(shown, address)
        wait = self._rates.take_request(key.id)
        if wait:
            raise _too_many(f"more than {self._rates.rate} with this key (API_RATE)", wait)
        return key

    def is_use_due(self, key: ApiKey) -> bool:
        """Whether the recorded last use of a key is more than ten minutes old."""
        noted_at = self._noted_at.get(key.id, -math.inf)
        return time.monotonic() - noted_at > _NOTE_USE_EVERY_SECONDS

    def note_use(self, key: ApiKey) -> None:
        """Record a use of a key now. It may wait for the database."""
        self._noted_at[key.id] = time.monotonic()
        try:
            self._keys.mark_used(key.id)
        except StoreError as error:
            logger.warning("the last use of key %s was not kept: %s", key.id, error)

    def _opened_by(self, shown: str, address: str) -> ApiKey:
        parts = split_key(shown)
        if parts is None:
            raise self._failure(address, _UNKNOWN)
        key_id, secret = parts
        key = self._fresh(FRESH_SECONDS).get(key_id)
        if key is None:
            # Made a moment ago, or made up: the store is asked which only so often.
            failure = self._failure(address, _UNKNOWN)
            if failure.status_code == status.HTTP_401_UNAUTHORIZED:
                key = self._fresh(0.0).get(key_id)
            if key is None:
                raise failure
        if not key.opens_with(secret):
            raise self._failure(address, _UNKNOWN)
        if key.revoked_at is not None:
            raise self._failure(address, "this key was revoked: ask for another")
        if key.has_expired:
            raise self._failure(address, "this key has expired: ask for another")
        return key

    def _fresh(self, at_most_seconds: float) -> Mapping[str, ApiKey]:
        with self._lock:
            now = time.monotonic()
            if now - self._read_at > at_most_seconds:
                self._known = {key.id: key for key in self._keys.all()}
                self._read_at = now
            return self._known

    def _failure(self, address: str, line: str) -> HTTPException:
        wait = self._rates.take_failure(address)
        return (
            _too_many("too many wrong keys from this address", wait)
            if wait
            else _unauthorised(line)
        )


def _unauthorised(line: str) -> HTTPException:
    return HTTPException(status.HTTP_401_UNAUTHORIZED, line, headers={"WWW-Authenticate": "Bearer"})


def _too_many(line: str, wait_seconds: int) -> HTTPException:
    return HTTPException(
        status.HTTP_429_TOO_MANY_REQUESTS,
        f"{line}: try again in {wait_seconds} s",
        headers={"Retry-After": str(wait_seconds)},
    )
