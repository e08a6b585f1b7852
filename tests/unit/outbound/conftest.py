"""A peer that takes HTTP posts, as the tests script it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from wetread.outbound import deliverer
from wetread.store.database import Database

if TYPE_CHECKING:
    from .subscribing import Server

HANG = -1


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"


@dataclass
class Sink:
    """`answer` gives the status for each request, after `pause_s`; 0 closes the connection without one, HANG never
    answers, and bytes go out as they stand before it closes."""

    port: int = 0
    answer: Callable[[Received], int | bytes] = lambda received: 200
    pause_s: float = 0.0
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                received = Received(request.split()[1], headers, body, request.split()[0])
                self.received.append(received)
                status = self.answer(received)
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)
                if isinstance(status, bytes):
                    writer.write(status)
                    break
                if status == HANG:
                    await asyncio.sleep(3600)
                if not status:
                    break
                location = f"Location: {self.url}\r\n" if 300 <= status < 400 else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    sink = Sink()
    server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
    sink.port = server.sockets[0].getsockname()[1]
    yield sink
    server.close()


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    """The notifying parts of a server."""
    from .subscribing import Server  # which builds on what stands above

    made = Server(database)
    yield made
    await made.peers.close()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deliverer that stops waits for nobody for long."""
    monkeypatch.setattr(deliverer, "_GRACE_S", 0.2)
