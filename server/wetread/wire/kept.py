"""Open connections to peers, kept between requests.

In place of httpcore's own pool, which looks at every connection that it has for every request: to hundreds of endpoints
that costs more than the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpcore

_AT_ONCE = 64 * 1024
"""So many bytes wait for more before they are sent: the head of a request goes with its body."""


_Peer: TypeAlias = tuple[bytes, bytes, int]
"""Scheme, host and port."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How many connections may be open at once (None: no limit), and how many are kept for how long when idle."""

    most_open: int | None = 100
    most_idle: int = 20
    idle_s: float = 5.0


class KeptConnections:
    """HTTP/1.1. A connection carries one request at a time. Close it when done."""

    def __init__(self, context: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend, keeping: Keeping) -> None:
        self._context = context
        self._backend = _Gathering(backend)
        self._keeping = keeping
        self._open = asyncio.Semaphore(keeping.most_open) if keeping.most_open is not None else None
        self._idle: dict[httpcore.AsyncHTTPConnection, _Peer] = {}
        """The one that has been idle for longest first."""
        self._idle_to: dict[_Peer, list[httpcore.AsyncHTTPConnection]] = {}

    async def aclose(self) -> None:
        while self._idle:
            await self._close(next(iter(self._idle)))

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """The answer must be closed. Raises what httpcore's connections raise."""
        if self._open is not None:
            await self._open.acquire()
        connection: httpcore.AsyncHTTPConnection | None = None
        try:
            while True:
                connection = await self._for(request.url.origin)
                try:
                    answer = await connection.handle_async_request(request)
                except httpcore.ConnectionNotAvailable:
                    await connection.aclose()
                    continue
                break
        except BaseException:
            if self._open is not None:
                self._open.release()
            if connection is not None:
                await connection.aclose()
            raise
        assert isinstance(answer.stream, AsyncIterable)  # noqa: S101
        body = _Body(answer.stream, self, connection, request.url.origin)
        return httpcore.Response(answer.status, headers=answer.headers, content=body, extensions=answer.extensions)

    async def _for(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        while idle := self._idle_to.get(_peer(origin)):
            connection = idle[-1]
            self._forget(connection)
            if not connection.has_expired() and not connection.is_closed():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            origin, self._context, keepalive_expiry=self._keeping.idle_s, network_backend=self._backend
        )

    async def take_back(self, connection: httpcore.AsyncHTTPConnection, origin: httpcore.Origin) -> None:
        """After a request: keeps the connection where it can carry another."""
        if self._open is not None:
            self._open.release()
        if not connection.is_idle():
            await connection.aclose()
            return
        self._idle[connection] = _peer(origin)
        self._idle_to.setdefault(_peer(origin), []).append(connection)
        while self._idle:
            oldest = next(iter(self._idle))
            if len(self._idle) <= self._keeping.most_idle and not oldest.has_expired():
                break
            await self._close(oldest)

    async def _close(self, connection: httpcore.AsyncHTTPConnection) -> None:
        self._forget(connection)
        with contextlib.suppress(httpcore.NetworkError):
            await connection.aclose()

    def _forget(self, connection: httpcore.AsyncHTTPConnection) -> None:
        peer = self._idle.pop(connection)
        self._idle_to[peer].remove(connection)
        if not self._idle_to[peer]:
            del self._idle_to[peer]


def _peer(origin: httpcore.Origin) -> _Peer:
    return origin.scheme, origin.host, origin.port


class _Body:
    """Gives the connection back when it is closed."""

    def __init__(
        self,
        parts: AsyncIterable[bytes],
        kept: KeptConnections,
        connection: httpcore.AsyncHTTPConnection,
        origin: httpcore.Origin,
    ) -> None:
        self._parts = parts
        self._kept = kept
        self._connection = connection
        self._origin = origin
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            close: Any = getattr(self._parts, "aclose", None)
            if close is not None:
                await close()
        finally:
            await self._kept.take_back(self._connection, self._origin)


class _Gathering(httpcore.AsyncNetworkBackend):
    """Sends in one go what httpcore writes in parts."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that httpcore gives it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Gathered(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))


class _Gathered(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._waiting = bytearray()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._waiting += buffer
        if len(self._waiting) >= _AT_ONCE:
            await self._send(timeout)

    async def _send(self, timeout: float | None) -> None:  # noqa: ASYNC109
        if self._waiting:
            together, self._waiting = bytes(self._waiting), bytearray()
            await self._stream.write(together, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        await self._send(timeout)
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Gathered(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
