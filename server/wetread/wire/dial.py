"""TCP and TLS to peers, fenced in as HTTP is (`fetch`): only to hosts of the operator's list, and only to the very
address that was checked."""

from __future__ import annotations

import asyncio
import socket
import ssl

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import PeerUnavailable
from wetread.wire.fetch import Resolver, resolved

_NEXT_ADDRESS_AFTER_S = 3.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(
    allowed: AllowedEndpoints,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    resolve: Resolver = resolved,
) -> Streams:
    """An open connection, with TLS for the name where `tls` is given. The caller sets the time limit.

    Raises Unsupported where the host, or any address that it has, is not allowed; PeerUnavailable where it has none;
    OSError (ssl.SSLError among it) where none of them answers.
    """
    allowed.check_listed(host)
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise PeerUnavailable(f"the name {host} has no address") from error
    for address in addresses:
        allowed.check_resolved(host, address)
    failure: OSError = OSError(0, "it has no address")
    for address in addresses:
        # One that is silent leaves time for the next.
        patience_s = None if address == addresses[-1] else _NEXT_ADDRESS_AFTER_S
        try:
            async with asyncio.timeout(patience_s):
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=tls, server_hostname=host if tls is not None else None
                )
        except ssl.SSLError:
            raise
        except OSError as error:  # TimeoutError among it
            failure = error
            continue
        opened: socket.socket = writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return reader, writer
    raise failure
