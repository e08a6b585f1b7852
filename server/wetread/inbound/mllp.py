"""The MLLP listener: frames in, acknowledgements out, one message at a time on each connection.

What a message means, and whether it is safely stored, is the caller's: `handle` answers with the ACK to send. Without
one the connection is closed and nothing is sent, since engines send again after silence but take AE and AR as final.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wetread.domain.networks import Networks, address, within
from wetread.errors import Misconfigured, Unreachable
from wetread.inbound.tls_server import TlsServer, TurnedAway, untold
from wetread.wire.mllp import Deframer, Event, Frame, Junk, Oversize, Truncated, frame

logger = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_CLOSE_S = 5.0
_HANDSHAKE_S = 10.0
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


@dataclass(frozen=True, slots=True)
class Received:
    """One message off the wire: `raw`; or `oversize`, beyond the limit; or `truncated`, its frame broken off: nobody
    waits for an answer. Never two of them."""

    raw: bytes | None = field(repr=False)
    oversize: Oversize | None
    peer: str
    """Address and port of the sender."""
    listener: str
    truncated: Truncated | None = None
    certificate_names: tuple[str, ...] = ()
    """Subject common name and alternative names of the client's certificate, with mutual TLS."""


Handle = Callable[[Received], Awaitable[bytes | None]]
"""Gives the ACK to send, no bytes (`b""`) to send nothing and go on, or None to close without an answer."""


class MllpListener:
    """Listens on one address. `port` 0 takes a free one, which `port` then tells.

    `limit_bytes` is the largest message handed over whole. A connection that says nothing for `idle_timeout_s` is
    closed. Beyond `max_connections` the one that has been quiet longest makes room. With `allow`, peers outside these
    networks are turned away; `turned_away` is told of them, and of those whose TLS handshake failed.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handle: Handle,
        *,
        limit_bytes: int,
        idle_timeout_s: float | None,
        max_connections: int,
        allow: Networks = (),
        tls: ssl.SSLContext | None = None,
        turned_away: TurnedAway = untold,
    ) -> None:
        self.host = host
        self.port = port
        self.handle = handle
        self.limit_bytes = limit_bytes
        self.idle_timeout_s = idle_timeout_s
        self._max_connections = max_connections
        self._allow = allow
        self._tls = tls
        self._turned_away = turned_away
        self._server: asyncio.Server | TlsServer | None = None
        self._connections: set[_Connection] = set()

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many peers are connected."""
        return len(self._connections)

    async def start(self) -> None:
        """Raises Misconfigured when the address cannot be had."""
        try:
            self._server = await self._listen()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Misconfigured(
                f"MLLP cannot listen on {self.name}: {reason}. Choose another address or port."
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server | TlsServer:
        if self._tls is None:
            return await asyncio.start_server(self._accept, self.host, self.port)
        server = TlsServer(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._accept),
            self._tls,
            handshake_s=_HANDSHAKE_S,
            goodbye_s=_CLOSE_S,
            turned_away=self._turned_away,
        )
        await server.start(self.host, self.port)
        return server

    async def close(self, *, grace_s: float = 10.0) -> None:
        """Take no more; let each message in hand be answered (at most `grace_s`), then close."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.stop()
        tasks = {connection.task for connection in self._connections}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        if not peer:
            writer.transport.abort()  # gone already
        elif self._allow and not within(address(peer), self._allow):
            logger.warning("MLLP %s: turned %s away, it is not in the allow-list", self.name, peer)
            self._turned_away(peer, "not in the allow-list")
            writer.transport.abort()
        elif len(self._connections) >= self._max_connections and not self._make_room():
            logger.warning("MLLP %s: turned %s away, every connection is at work", self.name, peer)
            writer.transport.abort()
        else:
            _keep_alive(writer)
            connection = _Connection(self, reader, writer)
            self._connections.add(connection)
            connection.task.add_done_callback(lambda _: self._forget(connection))

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        connection.abandon()

    def _make_room(self) -> bool:
        idle = [connection for connection in self._connections if not connection.busy]
        if not idle:
            return False
        quietest = min(idle, key=lambda connection: connection.last_heard)
        logger.warning("MLLP %s: dropped %s, quiet longest, to make room", self.name, quietest.peer)
        self._connections.discard(quietest)
        quietest.stop()
        return True


class _Connection:
    """One peer. Its task reads, hands over and answers in turn, so the peer's next bytes wait in the network."""

    def __init__(self, listener: MllpListener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listener = listener
        self._reader = reader
        self._writer = writer
        self._stopping = False
        self.peer = _peer_name(writer)
        self.busy = False
        self.last_heard = asyncio.get_running_loop().time()
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Close now when idle, after the answer when a message is in hand."""
        self._stopping = True
        if not self.busy:
            self.task.cancel()

    def abandon(self) -> None:
        """Free the socket, also of a connection whose task was cancelled before it began."""
        self._writer.close()

    async def _run(self) -> None:
        deframer = Deframer(self._listener.limit_bytes)
        try:
            await self._serve(deframer)
        except TimeoutError:
            logger.info("MLLP %s: closed %s, nothing heard", self._listener.name, self.peer)
        except OSError as error:
            logger.info("MLLP %s: lost %s: %s", self._listener.name, self.peer, type(error).__name__)
        finally:
            for event in deframer.close():
                await self._note(event)
            self._writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._writer.wait_closed()

    async def _serve(self, deframer: Deframer) -> None:
        while not self._stopping:
            async with asyncio.timeout(self._listener.idle_timeout_s):
                data = await self._reader.read(_READ_BYTES)
            if not data:
                return
            self.last_heard = asyncio.get_running_loop().time()
            for event in deframer.feed(data):
                if isinstance(event, Frame | Oversize):
                    if not await self._answer(event) or self._stopping:
                        return
                else:
                    await self._note(event)
                    if isinstance(event, Junk) and event.excessive:
                        return

    async def _answer(self, event: Frame | Oversize) -> bool:
        """Hand the message over and send its ACK; False when there is none and the connection must close."""
        raw, oversize = (event.payload, None) if isinstance(event, Frame) else (None, event)
        self.busy = True
        try:
            names = _certificate_names(self._writer.get_extra_info("peercert"))
            ack = await self._listener.handle(
                Received(raw, oversize, self.peer, self._listener.name, certificate_names=names)
            )
            framed = frame(ack) if ack else b""
        except Unreachable as error:
            logger.warning("MLLP %s: no ACK to %s, closed: %s", self._listener.name, self.peer, error.code)
            return False
        except Exception as error:
            # The text of an unknown exception may hold patient data: only its type and place are logged.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            logger.error("MLLP %s: no ACK to %s, closed: %s", self._listener.name, self.peer, where)
            return False
        else:
            if ack is None:
                return False
            if framed:
                self._writer.write(framed)
                async with asyncio.timeout(self._listener.idle_timeout_s):
                    await self._writer.drain()
            return True
        finally:
            self.busy = False

    async def _note(self, event: Event) -> None:
        if isinstance(event, Junk):
            logger.warning("MLLP %s: %d bytes outside a frame from %s", self._listener.name, event.size, self.peer)
        elif isinstance(event, Truncated):
            logger.warning("MLLP %s: frame broken off after %d bytes by %s", self._listener.name, event.size, self.peer)
            try:
                await self._listener.handle(Received(None, None, self.peer, self._listener.name, truncated=event))
            except Exception as error:
                logger.error("MLLP %s: the torn frame is not kept: %s", self._listener.name, type(error).__name__)


def _peer_name(writer: asyncio.StreamWriter) -> str:
    host, port = writer.get_extra_info("peername")[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Find dead peers and keep VPN tunnels open; asyncio has set TCP_NODELAY already."""
    sock: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):  # the peer may be gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _certificate_names(certificate: dict[str, Any] | None) -> tuple[str, ...]:
    if not certificate:
        return ()
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    alternative = [value for _, value in certificate.get("subjectAltName", ()) if isinstance(value, str)]
    return (*subject, *alternative)
