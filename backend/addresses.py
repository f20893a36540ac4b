"""Which addresses images may be fetched from: public ones, and those that a setting allows."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries, written out: what Python calls private differs by version.
_SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, with the metadata service of most clouds
        "168.63.129.16/32",  # a public number that reaches Azure's host
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
# All else of IPv6 is loopback, local, multicast, or maps an IPv4 address (mapped, NAT64).
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def is_public(address: str) -> bool:
    """Whether an IP address is on the open internet.

    >>> [is_public(a) for a in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::ffff:8.8.8.8")]
    [True, False, False, False]

    Raises:
        ValueError: it is no IP address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _SPECIAL_V4)
    return parsed in _GLOBAL_V6 and not any(parsed in network for network in _SPECIAL_V6)


@dataclass(frozen=True)
class AllowedHosts:
    """Hosts that may be fetched from although their address is private.

    Args:
        names: host names in lower case, each standing for whatever it resolves to.
        networks: addresses, under any name.
    """

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowedHosts:
        """Host names, IP addresses and networks, separated by commas.

        >>> AllowedHosts.parse("minio.lan, 10.1.0.0/16").allows("minio.lan", "192.168.1.4")
        True

        Raises:
            ValueError: an entry is none of these.
        """
        names: set[str] = set()
        networks: list[Network] = []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]")))
            except ValueError:
                # A name that ends in digits would be a mistyped address.
                if not _HOST_NAME.fullmatch(entry) or entry.rpartition(".")[2].isdigit():
                    raise ValueError(
                        f"{entry!r} is no host name, IP address or network such as 10.1.0.0/16"
                    ) from None
                names.add(entry)
        return cls(frozenset(names), tuple(networks))

    def allows(self, host: str, address: str) -> bool:
        """Whether `host`, which was found to be at the IP `address`, may be fetched from.

        Raises:
            ValueError: `address` is no IP address.
        """
        if is_public(address) or host.lower() in self.names:
            return True
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self.networks)
