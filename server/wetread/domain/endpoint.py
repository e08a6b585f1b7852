"""Where this server may post to: the operator's list, which no client can widen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from wetread.errors import Misconfigured, Unsupported

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class AllowedEndpoints:
    """Host names (lower case) and networks. A name counts only where it is listed: it is never resolved to decide, so
    a name that a client controls cannot be pointed into an allowed network."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, allow: tuple[str, ...]) -> AllowedEndpoints:
        """From the setting `outbound.allow`: each item is a network (`10.1.0.0/16`, `::1/128`) or a host name."""
        networks: list[_Network] = []
        hosts: set[str] = set()
        for item in allow:
            try:
                networks.append(ipaddress.ip_network(item))
            except ValueError:
                if "/" in item or not item:
                    raise Misconfigured(f"outbound.allow: {item!r} is neither a network nor a host name") from None
                hosts.add(item.lower())
        return cls(frozenset(hosts), tuple(networks))

    def check(self, url: str) -> None:
        """Raises Unsupported (422) with what to do. Beyond loopback only https is allowed."""
        try:
            parts = urlsplit(url)
            host, _port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise Unsupported("the endpoint is not a URL") from None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise Unsupported("the endpoint must be an http(s) URL with a host and without a user")
        loopback = host == "localhost"
        listed = host in self.hosts
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            listed = listed or (loopback and any(network.is_loopback for network in self.networks))
        else:
            loopback = address.is_loopback
            listed = listed or any(address in network for network in self.networks)
        if not listed:
            raise Unsupported("this server may not post to that host; its operator can add it to outbound.allow")
        if parts.scheme == "http" and not loopback:
            raise Unsupported("beyond loopback the endpoint must be https: notifications tell of patients")
