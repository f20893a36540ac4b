"""How often a key may ask, and how often an address may show a wrong one.

Counted by the `limits` library in fixed windows: in the memory of this server, or in Redis, where
all servers count together.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.errors import SettingsError

logger = logging.getLogger(__name__)

_FAILURES = parse("30/minute")
_REDIS_SECONDS = 1.0
_REDIS_PAUSE_SECONDS = 10.0


class RateLimits:
    """Counts requests. Safe for several threads.

    While Redis does not answer, which is logged, this server counts for itself.

    Args:
        rate: what a key may do, as API_RATE says it: "1200/minute".
        redis_url: the Redis that all servers count in; "": this server counts for itself.

    Raises:
        ValueError: the rate is malformed.
        SettingsError: the address is.
    """

    def __init__(self, rate: str, redis_url: str = "") -> None:
        self._rate = parse(rate)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._shared = FixedWindowRateLimiter(_redis(redis_url)) if redis_url else None
        self._shared_from = 0.0

    @property
    def rate(self) -> str:
        """The rate of a key, in words."""
        return str(self._rate)

    def take_request(self, key_id: str) -> int:
        """Count a request of a key; returns the seconds to wait, 0: it may go on."""
        return self._take(self._rate, "key", key_id)

    def take_failure(self, address: str) -> int:
        """Count a wrong key from an address; returns the seconds to wait, 0: it may try again."""
        return self._take(_FAILURES, "failure", _network(address))

    def _take(self, rate: RateLimitItem, kind: str, who: str) -> int:
        if self._shared is not None and time.monotonic() >= self._shared_from:
            try:
                return _hit(self._shared, rate, kind, who)
            except StorageError as error:
                logger.warning(
                    "REDIS_URL: no Redis answers there (%s): this server counts the requests of "
                    "keys for itself meanwhile",
                    type(error.storage_error).__name__,
                )
                self._shared_from = time.monotonic() + _REDIS_PAUSE_SECONDS
        return _hit(self._own, rate, kind, who)


def _hit(limiter: FixedWindowRateLimiter, rate: RateLimitItem, kind: str, who: str) -> int:
    if limiter.hit(rate, kind, who):
        return 0
    ends_at = limiter.get_window_stats(rate, kind, who).reset_time
    return max(1, math.ceil(ends_at - time.time()))


def _redis(url: str) -> RedisStorage:
    try:
        pool = ConnectionPool.from_url(
            url,
            # One more try at once: a connection that was kept open may have been closed meanwhile.
            retry=Retry(NoBackoff(), 1),
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_REDIS_SECONDS,
        )
    except ValueError:
        raise SettingsError(
            "REDIS_URL is no address of a Redis: give one like redis://:password@host:6379/0, "
            "or leave it empty; special characters of the password are percent-encoded."
        ) from None
    return RedisStorage(url, pool, key_prefix="hardest-first", wrap_exceptions=True)


def _network(address: str) -> str:
    """Client identity: IPv6 addresses are grouped by /64, since one host has 2^64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
