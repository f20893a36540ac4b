"""Connections to public hosts only, each with one deadline for all it does.

A name is resolved here, its addresses are checked, and a checked address is what is connected to:
whatever the name resolves to a moment later, nothing else is reached. TLS and the Host header keep
the name. Every redirect is a request of its own and passes here again.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from backend.addresses import AllowedHosts

LIMITS = httpx.Limits(max_connections=32, max_keepalive_connections=16)

# When the download that this thread is at has to be over, by `time.monotonic`.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class PrivateHostError(Exception):
    """A host has no address that images may be fetched from. `host` is its name."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


@contextmanager
def ending_at(deadline: float) -> Iterator[None]:
    """Let no connection of this thread wait beyond `deadline` (`time.monotonic`) in the block."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def origin(address: str | httpx.URL) -> tuple[str, str, int]:
    """(scheme, host, port), as httpx reads them: it is httpx that will connect.

    Raises:
        httpx.InvalidURL: it is no address.
    """
    url = httpx.URL(address)
    standard = {"http": 80, "https": 443}.get(url.scheme, 0)
    return url.scheme, url.raw_host.decode("ascii"), standard if url.port is None else url.port


class CheckedTransport(httpx.BaseTransport):
    """Sends requests to Label Studio as they are, and all others to allowed addresses only.

    The proxy that the environment may name is used for Label Studio alone: a proxy resolves names
    itself, so that nothing here could be checked.

    Args:
        url: address of Label Studio.
        allowed: which private hosts may be fetched from.

    Raises:
        PrivateHostError: (on a request) a host has no allowed address.
    """

    def __init__(self, url: str, allowed: AllowedHosts) -> None:
        self._studio_origin = origin(url)
        proxy = _proxy_to(url)
        self._studio = (
            httpx.HTTPTransport(proxy=proxy, limits=LIMITS) if proxy else _DirectTransport(None)
        )
        self._others = _DirectTransport(allowed)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        is_studio = origin(request.url) == self._studio_origin
        return (self._studio if is_studio else self._others).handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._studio.close()
        self._others.close()


class _DirectTransport(httpx.HTTPTransport):
    """httpx's transport over a network of ours."""

    def __init__(self, allowed: AllowedHosts | None) -> None:
        super().__init__(limits=LIMITS)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=LIMITS.max_connections,
            max_keepalive_connections=LIMITS.max_keepalive_connections,
            keepalive_expiry=LIMITS.keepalive_expiry,
            network_backend=_Network(allowed),
        )


class _Network(httpcore.NetworkBackend):
    """Connects to allowed addresses; None allows all."""

    def __init__(self, allowed: AllowedHosts | None) -> None:
        self._allowed = allowed
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._addresses(host, port):
            try:
                stream = self._plain.connect_tcp(
                    address, port, _left(timeout), local_address, socket_options
                )
                return _TimedStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or PrivateHostError(host)

    def _addresses(self, host: str, port: int) -> list[str]:
        """The allowed IP addresses of `host`, in the order the system prefers them."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = [str(entry[4][0]) for entry in found]
        if self._allowed is None:
            return addresses
        return [address for address in addresses if self._allowed.allows(host, address)]


class _TimedStream(httpcore.NetworkStream):
    """A connection that waits no longer than the download at hand may take."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


def _left(timeout: float | None) -> float | None:
    """Seconds that may still be waited, at most `timeout`; None: for ever."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the whole took too long")
    return timeout if left == math.inf else min(left, timeout or left)


def _proxy_to(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    scheme, host, _ = origin(url)
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")
