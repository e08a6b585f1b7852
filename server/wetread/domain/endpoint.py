"""Which peers this server may call by HTTP: the operator's list, which no client can widen."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from wetread.errors import Misconfigured, Unsupported

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Never a peer, whatever is listed: "this network", link-local, multicast, reserved and broadcast (RFC 6890), and the
# addresses outside of them where clouds give out credentials (Azure, Alibaba, Oracle, AWS by IPv6).
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32",
        "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128",
    )
)  # fmt: skip
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052 2.1
_V4_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291 2.5.5.1

# A name whose last label is a number is an IPv4 address in some spelling (WHATWG URL, "ends in a number checker"):
# 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to the resolver.
_NUMERIC = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AllowedEndpoints:
    """Host names (lower case) and networks. A name counts only where it is listed: it is never resolved to decide, so
    a name that a client controls cannot be pointed into an allowed network. With `plain` they may be called by http,
    too; without it http stays on this machine."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[_Network, ...] = ()
    plain: bool = False

    @classmethod
    def parse(cls, allow: tuple[str, ...], *, plain: bool = False) -> AllowedEndpoints:
        """From the setting `outbound.allow`: each item is a network (`10.1.0.0/16`, `::1/128`) or a host name."""
        networks: list[_Network] = []
        hosts: set[str] = set()
        for item in allow:
            try:
                networks.append(ipaddress.ip_network(item))
            except ValueError:
                if "/" in item or not item:
                    raise Misconfigured(f"outbound.allow: {item!r} is neither a network nor a host name") from None
                if not item.isascii():
                    raise Misconfigured(f"outbound.allow: {item!r}: write other letters as xn--") from None
                hosts.add(item.lower())
        return cls(frozenset(hosts), tuple(networks), plain)

    def check(self, url: str) -> None:
        """Raises Unsupported (422) with what to do."""
        if not is_written_out(url):
            raise Unsupported("write the endpoint in ASCII without spaces: %20 for a space, xn-- for other letters")
        try:
            parts = urlsplit(url)
            host, _port = parts.hostname or "", parts.port
        except ValueError:
            raise Unsupported("the endpoint is not a URL") from None
        if not host or parts.username is not None:
            raise Unsupported("the endpoint must be an http(s) URL with a host and without a user")
        self.check_host(parts.scheme, host)

    def check_host(self, scheme: str, host: str) -> None:
        """The host of a URL as it is written there, before it is resolved. Raises Unsupported."""
        if scheme not in ("http", "https"):
            raise Unsupported("the endpoint must be an http(s) URL with a host and without a user")
        self.check_listed(host)
        if scheme == "http" and not self.plain and not is_loopback_host(host):
            raise Unsupported("beyond loopback the endpoint must be https")

    def check_listed(self, host: str) -> None:
        """Whether any protocol may call the host. Raises Unsupported."""
        host = host.lower().rstrip(".")
        listed = host in self.hosts
        try:
            address = _address(host)
        except ValueError:
            if _NUMERIC.search(host):
                raise Unsupported("write the address of the endpoint in its usual form, e.g. 10.1.2.3") from None
            listed = listed or (host == "localhost" and any(network.is_loopback for network in self.networks))
        else:
            listed = listed or self._in_networks(address)
            _refuse_never(address)
        if not listed:
            raise Unsupported("this server may not call that host; its operator can add it to outbound.allow")

    def check_resolved(self, host: str, resolved: str) -> None:
        """`resolved` is an address that `host`, which passed check_host, has now. Raises Unsupported.

        A listed name may resolve anywhere but to the addresses that are never a peer; `localhost` only to loopback.
        """
        host = host.lower().rstrip(".")
        try:
            address = _address(resolved)
        except ValueError:
            raise Unsupported("that host has an address that is none") from None
        _refuse_never(address)
        if host in self.hosts:
            return
        if host == "localhost" and address.is_loopback:
            return
        if not (_is_address(host, address) and self._in_networks(address)):
            raise Unsupported("this server may not call that host; its operator can add it to outbound.allow")

    def _in_networks(self, address: _Address) -> bool:
        return any(address in network for network in self.networks)


def is_written_out(url: str) -> bool:
    """Whether it is of characters that stand in a URL (RFC 3986 2): in a request line others would be another request,
    or none."""
    return url.isascii() and url.isprintable() and " " not in url


def is_loopback_host(host: str) -> bool:
    """Whether the host of a URL, without brackets, stays on this machine."""
    try:
        return _address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _address(text: str) -> _Address:
    """An IPv4-mapped IPv6 address is the IPv4 address that the system connects to (RFC 4291 2.5.5.2)."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_address(host: str, address: _Address) -> bool:
    try:
        return _address(host) == address
    except ValueError:
        return False


def _refuse_never(address: _Address) -> None:
    inner: list[_Address] = [address]
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        # A gateway takes the packet on to the IPv4 address inside: NAT64, 6to4 and the old IPv4-compatible form.
        if address in _NAT64 or address in _V4_COMPATIBLE:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None:
            inner.append(address.sixtofour)
    if any(each in network for each in inner for network in _NEVER):
        raise Unsupported("link-local, metadata, multicast and reserved addresses are never called, whatever is listed")
