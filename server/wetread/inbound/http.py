"""The HTTP listener: uvicorn, with bounds where it has none.

uvicorn's fast parser (httptools) takes heads of any size and waits for them for ever. Here a head is bounded in size
and time, a body has a slowest rate, a peer that does not read is dropped, and connections are counted. What leaves in
doubt where a message ends is refused by the parser itself (RFC 9112 6.3, 11.2); a second Host is refused here (3.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from wetread.domain.networks import Networks, address, within
from wetread.errors import Misconfigured
from wetread.inbound.tls_server import TlsServer, TurnedAway, untold
from wetread.inbound.websockets import WebsocketProtocol

logger = logging.getLogger(__name__)

_HANDSHAKE_S = 10.0
_GOODBYE_S = 2.0
"""How long a peer is waited for to close TLS in its turn; many never do."""
_UNREAD_MS = 60_000
_LONGEST_FRAME_BYTES = 8 * 1024
"""From a client. What we send is as long as it is."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer may use up. Sizes in bytes, times in seconds."""

    connections: int = 1000
    """Websockets not counted, of which the application lets in as many as it will."""
    head_bytes: int = 64 * 1024
    url_bytes: int = 32 * 1024
    head_s: float = 15.0
    body_grace_s: float = 20.0
    body_rate: int = 500
    """Bytes a second that a body must come at, on average, after the grace."""
    keep_alive_s: int = 75
    """Longer than the minute that proxies keep a connection, so that they are the ones who close it."""


class HttpListener:
    """Listens on one address. `port` 0 takes a free one, which `port` then tells.

    With `allow` peers outside these networks are turned away before they are read; `turned_away` is told of them, and
    of those whose TLS handshake failed.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        allow: Networks = (),
        tls: ssl.SSLContext | None = None,
        bounds: Bounds = Bounds(),
        turned_away: TurnedAway = untold,
    ) -> None:
        self.host = host
        self.port = port

        class Protocol(_Bounded):
            limits = bounds
            networks = allow
            told = staticmethod(turned_away)

        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Protocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # Who believes what a proxy says is decided in one place, api.forwarded.
            proxy_headers=False,
            timeout_keep_alive=bounds.keep_alive_s,
            ws=WebsocketProtocol,
            ws_max_size=_LONGEST_FRAME_BYTES,
            ws_per_message_deflate=False,  # it would keep 50 kB for each socket, busy or not
            ssl_context_factory=None if tls is None else lambda config, default: tls,
        )
        self._server = _Server(config, turned_away)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises Misconfigured when the address cannot be had."""
        _allow_many_files()
        self._serving = asyncio.create_task(self._server.serve())
        await asyncio.wait(
            {self._serving, begun := asyncio.create_task(self._server.begun.wait())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        begun.cancel()
        if self._serving.done():
            try:
                self._serving.result()
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise Misconfigured(
                    f"HTTP cannot listen on {self.host}:{self.port}: {reason}. Choose another address or port."
                ) from None
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def wait(self) -> None:
        """Until it has ended, by `close` or by a fault."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def close(self) -> None:
        """Take no more; let each request in hand be answered, then close."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


def _allow_many_files() -> None:
    """Each connection is an open file, and of those the system lets a process have few before it asks for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Server(uvicorn.Server):
    """Leaves signals to the process that runs the roles, and bounds the time of a TLS handshake."""

    def __init__(self, config: uvicorn.Config, turned_away: TurnedAway) -> None:
        super().__init__(config)
        self._turned_away = turned_away
        self.begun = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config = self.config

        def protocol() -> asyncio.Protocol:
            made: Any = config.http_protocol_class
            return made(config=config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[no-any-return]

        server: Any
        if config.ssl:
            server = TlsServer(
                protocol,
                config.ssl,
                handshake_s=_HANDSHAKE_S,
                goodbye_s=_GOODBYE_S,
                turned_away=self._turned_away,
            )
            await server.start(config.host, config.port, backlog=config.backlog)
        else:
            server = await asyncio.get_running_loop().create_server(
                protocol, host=config.host, port=config.port, backlog=config.backlog
            )
        self.servers = [server]
        self.started = True
        self.begun.set()


class _Refused(Exception):
    """The head of a request is not taken. Raised within the parser's callbacks."""


class _Bounded(HttpToolsProtocol):
    limits: ClassVar[Bounds]
    networks: ClassVar[Networks]
    told: Callable[[str, str], None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.heard = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = self._unfinished_bytes = self._body_bytes = 0
        self._body_since: float | None = None
        self._upgraded = False
        self._refusal = 400, "this is not a request of HTTP/1.1"
        peer = self.client[0] if self.client else ""
        if not peer or (self.networks and not within(address(peer), self.networks)):
            logger.warning("HTTP: turned %s away, it is not in the allow-list", peer or "a peer without address")
            self.told(peer, "not in the allow-list")
            transport.abort()
        elif self._count_open() > self.limits.connections and not self._make_room():
            logger.warning("HTTP: turned %s away, every connection is at work", peer)
            transport.abort()
        else:
            _drop_when_unread(transport)
            self._arm(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.heard = self.loop.time()
        if self._unfinished_bytes > self.limits.head_bytes:
            # Of a line that does not end, in the head or in a trailer, the parser tells nothing and keeps it all: so
            # whole pieces are counted that bring it to no end and no part of a body.
            self._refuse(431, "the head of the request is too large")
            return
        self._unfinished_bytes += len(data)
        if self._body_since is not None:
            self._body_bytes += len(data)
        super().data_received(data)
        if self._timer is None and not self.transport.is_closing() and not self._upgraded:
            if self._body_since is not None:
                self._arm(self.limits.body_grace_s)
            elif self._unfinished_bytes:
                self._arm(self.limits.head_s)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._refusal = 414, "the URL is too long"
            raise _Refused
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._refusal = 400, "a request names one Host"
            raise _Refused
        self._disarm()
        self._unfinished_bytes = 0
        self._body_since = self.loop.time()
        self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._disarm()
        self._body_since = None
        self._unfinished_bytes = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._disarm()
        self._upgraded = True
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to whatever its parser refuses, a callback's exception included."""
        self._refuse(*self._refusal)

    def _refuse(self, status: int, text: str) -> None:
        content = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            content += [name, b": ", value, b"\r\n"]
        body = text.encode() + b"\n"
        content += [
            b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\nconnection: close\r\n",
            b"content-length: %d\r\n\r\n" % len(body),
            body,
        ]
        self.transport.write(b"".join(content))
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes:
            self._refusal = 431, "the head of the request is too large"
            raise _Refused

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _count_open(self) -> int:
        """Of HTTP; to count one by one is only done where there are many."""
        if len(self.connections) <= self.limits.connections:
            return len(self.connections)
        return sum(isinstance(other, _Bounded) for other in self.connections)

    def _make_room(self) -> bool:
        """Drops the connection that has been quiet longest among those with no request in hand."""
        idle = [other for other in self.connections if isinstance(other, _Bounded) and not other._answering]
        quietest = min((other for other in idle if other is not self), key=lambda other: other.heard, default=None)
        if quietest is None:
            return False
        quietest.transport.abort()
        return True

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """A head is not whole in its time, or a body may be too slow: not while we are the ones who do not read."""
        self._timer = None
        now, bounds = self.loop.time(), self.limits
        if self._body_since is None:
            if self._answering:
                self._arm(bounds.head_s)
            elif self._unfinished_bytes:
                self._refuse(408, "the head of the request came too slowly")
            else:
                self.transport.abort()
            return
        if self.flow.read_paused or (self._answering and self.cycle.waiting_for_100_continue):
            self._body_since, self._body_bytes = now, 0
        left_s = self._body_since + bounds.body_grace_s + self._body_bytes / bounds.body_rate - now
        if left_s > 0:
            self._arm(left_s)
        else:
            logger.warning("HTTP: dropped %s, its body came too slowly", self.client[0] if self.client else "")
            self.transport.abort()


def _drop_when_unread(transport: asyncio.Transport) -> None:
    """Lets the kernel drop a peer that takes nothing of what waits for it (tcp(7), TCP_USER_TIMEOUT)."""
    connection = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
