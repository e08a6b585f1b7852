"""Addresses and the networks that they are in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks: TypeAlias = tuple[Network, ...]


def networks(texts: Iterable[str]) -> Networks:
    """Raises ValueError where one is not in CIDR form, or has bits set beyond its prefix."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def address(text: str) -> Address | None:
    """Without its zone; an IPv4-mapped IPv6 address is the IPv4 address (RFC 4291 2.5.5.2), as sockets that serve both
    tell it. None where it is no address."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def within(found: Address | None, allowed: Networks) -> bool:
    return found is not None and any(found in network for network in allowed)
