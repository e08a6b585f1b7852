"""One POST: what is passing, what is permanent, and where it may go."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import PeerUnavailable, Unsupported
from wetread.outbound.http import HttpPoster, RefusedByPeer
from wetread.wire.post import Post

from .conftest import Sink

LOOPBACK = AllowedEndpoints.parse(("127.0.0.0/8",))


@pytest.fixture
async def poster() -> AsyncIterator[HttpPoster]:
    peers = Post(LOOPBACK)
    yield HttpPoster(peers)
    await peers.close()


async def test_body_and_headers_arrive_as_they_are(poster: HttpPoster, sink: Sink) -> None:
    await poster.post(sink.url, b'{"a":1.10}', [("Content-Type", "application/fhir+json"), ("X-Own", "1")], 5)
    [received] = sink.received
    assert received.body == b'{"a":1.10}'
    assert received.headers["content-type"] == "application/fhir+json"
    assert received.headers["x-own"] == "1"


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_a_passing_answer_may_be_tried_again(status: int, poster: HttpPoster, sink: Sink) -> None:
    sink.answer = lambda received: status
    with pytest.raises(PeerUnavailable, match=str(status)):
        await poster.post(sink.url, b"", [], 5)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 301, 307])
async def test_a_permanent_answer_is_final_and_no_redirect_is_followed(
    status: int, poster: HttpPoster, sink: Sink
) -> None:
    sink.answer = lambda received: status
    with pytest.raises(RefusedByPeer, match=str(status)):
        await poster.post(sink.url, b"", [], 5)
    assert len(sink.received) == 1


async def test_a_peer_that_hangs_up_or_is_not_there_is_unavailable(poster: HttpPoster, sink: Sink) -> None:
    sink.answer = lambda received: 0
    with pytest.raises(PeerUnavailable):
        await poster.post(sink.url, b"", [], 5)
    closed = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
    port = closed.sockets[0].getsockname()[1]
    closed.close()
    await closed.wait_closed()
    with pytest.raises(PeerUnavailable):
        await poster.post(f"http://127.0.0.1:{port}/", b"", [], 5)


async def test_a_peer_that_does_not_answer_in_time_is_unavailable(poster: HttpPoster) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(PeerUnavailable, match=r"within 0\.2 s"):
        await poster.post(f"http://127.0.0.1:{port}/", b"", [], 0.2)
    server.close()


async def test_nothing_leaves_for_a_host_that_the_operator_has_not_listed(sink: Sink) -> None:
    peers = Post(AllowedEndpoints.parse(("ehr.example.org",)))
    with pytest.raises(Unsupported, match=r"outbound\.allow"):
        await HttpPoster(peers).post(sink.url, b"", [], 5)
    await peers.close()
    assert sink.received == []
