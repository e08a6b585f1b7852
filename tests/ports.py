"""Ports for servers under test."""

from __future__ import annotations

import random
import socket

_BELOW_OUTGOING = range(10_000, 32_000)
"""Under net.ipv4.ip_local_port_range, so that no outgoing connection is given one before its server listens."""
_chosen = random.SystemRandom()
_claims: list[socket.socket] = []


def free_port() -> int:
    """One that nobody listens on, and that no other call gets as long as the process of tests lives that asked for it.
    What keeps it is a name that the kernel gives once and takes back with the process (unix(7), abstract)."""
    while True:
        port = _chosen.choice(_BELOW_OUTGOING)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0wetread-test-port-{port}")
            socket.create_server(("", port)).close()
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port
