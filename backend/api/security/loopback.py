"""Whether an address, or the sender of a request, is on this machine.

A request counts as local only if nothing speaks against it. Before a key is made, this check alone
guards the API. Anybody can write headers, so they can only close it, never open it.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

# A proxy on this machine writes one of these for clients that are elsewhere.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address is this machine's own; of names only localhost is.

    >>> [is_loopback(h) for h in ("", "0.0.0.0", "127.0.0.1", "::1", "localhost", "example.org")]
    [False, False, True, True, True, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def is_from_this_machine(request: Request) -> bool:
    """Whether a program on this machine asks: by no proxy, and not for a foreign web page."""
    headers = request.headers
    if request.client is None or not is_loopback(request.client.host):
        return False
    if any(name in headers for name in _FORWARDED):
        return False
    # A web page in a browser on this machine is foreign: it may send forms here, and by a name of
    # its own that leads to 127.0.0.1 even read the answers.
    if not _names_loopback(f"//{headers.get('host', '')}"):
        return False
    if "origin" in headers and not _names_loopback(headers["origin"]):
        return False
    return headers.get("sec-fetch-site") != "cross-site"


def _names_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
