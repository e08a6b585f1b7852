"""Connections that are kept between requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import PeerUnavailable
from wetread.wire.fetch import Fetch, Keeping

LOOPBACK = AllowedEndpoints.parse(("127.0.0.0/8",))


@dataclass
class Peer:
    """Counts its connections, and the parts in which each request comes."""

    port: int = 0
    opened: int = 0
    parts: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    pause_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.writers.append(writer)
        while part := await reader.read(1 << 20):
            self.parts.append(part)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(self.pause_s)
            self.at_once -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
        peer.port = server.sockets[0].getsockname()[1]
        yield peer
        for writer in peer.writers:
            writer.close()


async def _post(fetch: Fetch, peer: Peer) -> None:
    answer = await fetch.send("POST", peer.url, content=b"{}", limit_bytes=None, timeout_s=5)
    assert answer.status == 200


async def test_the_next_request_goes_on_the_same_connection_in_one_part(peer: Peer) -> None:
    fetch = Fetch(LOOPBACK)
    for _ in range(3):
        await _post(fetch, peer)
    await fetch.close()
    assert peer.opened == 1
    assert [part.endswith(b"\r\n\r\n{}") for part in peer.parts] == [True] * 3, "head and body came apart"


async def test_one_that_the_peer_has_closed_is_not_used_again(peer: Peer) -> None:
    fetch = Fetch(LOOPBACK)
    await _post(fetch, peer)
    peer.writers[0].close()
    await asyncio.sleep(0.1)
    await _post(fetch, peer)
    await fetch.close()
    assert peer.opened == 2


async def test_no_more_are_kept_than_asked_for_and_not_for_longer(peer: Peer) -> None:
    peer.pause_s = 0.1
    fetch = Fetch(LOOPBACK, keeping=Keeping(most_open=None, most_idle=2, idle_s=0.3))
    await asyncio.gather(*(_post(fetch, peer) for _ in range(5)))
    assert (peer.opened, peer.most_at_once) == (5, 5)
    await asyncio.gather(*(_post(fetch, peer) for _ in range(3)))
    assert peer.opened == 6, "two of the five were kept"
    await asyncio.sleep(0.5)
    await _post(fetch, peer)
    await fetch.close()
    assert peer.opened == 7, "one that was idle for too long was used"


async def test_no_more_are_open_at_once_than_asked_for(peer: Peer) -> None:
    peer.pause_s = 0.05
    fetch = Fetch(LOOPBACK, keeping=Keeping(most_open=2))
    await asyncio.gather(*(_post(fetch, peer) for _ in range(6)))
    await fetch.close()
    assert (peer.opened, peer.most_at_once) == (2, 2)


async def test_a_place_that_ran_into_its_time_is_free_again(peer: Peer) -> None:
    peer.pause_s = 5.0
    fetch = Fetch(LOOPBACK, keeping=Keeping(most_open=1))
    with pytest.raises(PeerUnavailable):
        await fetch.send("POST", peer.url, content=b"{}", limit_bytes=None, timeout_s=0.1)
    peer.pause_s = 0.0
    await _post(fetch, peer)
    await fetch.close()
    assert peer.opened == 2
