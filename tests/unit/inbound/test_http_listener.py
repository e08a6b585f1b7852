"""The HTTP listener on real sockets: where a request ends, sizes, slow peers, who may come, TLS."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Authority, Pair

from wetread.errors import Misconfigured
from wetread.inbound.http import Bounds, HttpListener
from wetread.wire.tls import ServerTls, server_context

HEAD = b"Host: wetread.test\r\n"


class Recorder:
    """An ASGI application that answers with what it understood of the request."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.two_came = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.seen.append(f"{scope['method']} {scope['path']}")
        if len(self.seen) == 2:
            self.two_came.set()
        await self.hold.wait()
        answer = {"path": scope["path"], "body": len(body), "client": scope["client"][0], "scheme": scope["scheme"]}
        if scope["path"] == "/large":
            answer["filler"] = "x" * 50_000_000
        content = json.dumps(answer).encode()
        headers = [(b"content-length", str(len(content)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def listening(app: Any, **named: Any) -> AsyncIterator[HttpListener]:
    listener = HttpListener(app, "127.0.0.1", 0, **named)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


async def answers(listener: HttpListener, *pieces: bytes, wait_s: float = 0.0) -> bytes:
    """All that comes back until the peer closes, or falls silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    heard = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(wait_s)
        while True:
            async with asyncio.timeout(0.5 if heard else 2):
                data = await reader.read(65536)
            if not data:
                return heard
            heard += data
    except (TimeoutError, ConnectionError):
        return heard
    finally:
        writer.close()


def statuses(heard: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", heard)]


@pytest.fixture
def app() -> Recorder:
    return Recorder()


class TestWhereARequestEnds:
    """RFC 9112 6.1, 6.3, 11.2: what a proxy before us could read otherwise than we is refused, and the connection
    closed, so that nothing can hide behind it."""

    SMUGGLED = b"GET /hidden HTTP/1.1\r\n" + HEAD + b"\r\n"

    @pytest.mark.parametrize(
        "head",
        [
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
            b"Content-Length: 0, 44\r\n\r\n",
            b"Content-Length: +0\r\n\r\n",
            b"Content-Length: 0x0\r\n\r\n",
            b"Content-Length : 0\r\n\r\n",
            b"Content-Length: -1\r\n\r\n",
            b"Content-Length: 99999999999999999999999\r\n\r\n",
            b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
            b"X-Folded: a\r\n b\r\nX: y\r\nContent-Length: 0\r\n\x0b: x\r\n\r\n",
            b"No colon in this line\r\n\r\n",
            b"X: a\rb\r\n\r\n",
            b"X: a\0b\r\n\r\n",
            b"Host: other.test\r\n\r\n",
        ],
    )
    async def test_is_never_in_doubt(self, app: Recorder, head: bytes) -> None:
        async with listening(app) as listener:
            heard = await answers(listener, b"POST /first HTTP/1.1\r\n" + HEAD + head + self.SMUGGLED)
        assert statuses(heard)[-1:] == [400], heard
        assert "GET /hidden" not in app.seen

    async def test_a_request_without_a_host_is_refused(self, app: Recorder) -> None:
        async with listening(app) as listener:
            assert statuses(await answers(listener, b"GET / HTTP/1.1\r\n\r\n")) == [400]
            assert statuses(await answers(listener, b"GET / HTTP/1.0\r\n\r\n")) == [200]

    async def test_requests_in_a_row_on_one_connection_are_answered_in_turn(self, app: Recorder) -> None:
        async with listening(app) as listener:
            post = b"POST /a HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            heard = await answers(listener, post + post + self.SMUGGLED)
        assert statuses(heard) == [200, 200, 200]
        assert app.seen == ["POST /a", "POST /a", "GET /hidden"]

    async def test_the_answer_names_no_software(self, app: Recorder) -> None:
        async with listening(app) as listener:
            heard = await answers(listener, b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")
            heard += await answers(listener, b"nonsense\r\n\r\n")
        assert statuses(heard) == [200, 400]
        assert b"server:" not in heard.lower()
        assert b"uvicorn" not in heard.lower()


class TestSizes:
    BOUNDS = Bounds(head_bytes=4096, url_bytes=1024)

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 200),
            (b"GET /" + b"a" * 1100 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 414),
            (b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 4000 + b"\r\n\r\n", 200),
            (b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 5000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\n" + HEAD + b"X: a\r\n" * 1000 + b"\r\n", 431),
        ],
    )
    async def test_of_urls_and_heads_are_bounded(self, app: Recorder, request_: bytes, status: int) -> None:
        async with listening(app, bounds=self.BOUNDS) as listener:
            assert statuses(await answers(listener, request_)) == [status]

    @pytest.mark.parametrize(
        "begin",
        [
            b"GET / HTTP/1.1\r\n" + HEAD + b"X: ",
            b"GET /",
            b"",
            b"POST / HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ",
            b"POST / HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1;x=",
        ],
    )
    async def test_of_a_line_without_end_too(self, app: Recorder, begin: bytes) -> None:
        async with listening(app, bounds=self.BOUNDS) as listener:
            heard = await answers(listener, begin, *[b"a" * 1024] * 12, wait_s=0.01)
        assert statuses(heard) in ([400], [414], [431], [])  # what is still coming can overtake the answer
        assert app.seen == []

    async def test_a_large_body_and_the_next_request_are_no_head(self, app: Recorder) -> None:
        body = b"b" * 300_000
        post = b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 300000\r\n\r\n" + body
        async with listening(app, bounds=self.BOUNDS) as listener:
            heard = await answers(listener, post, post[:100], post[100:] + post)
        assert statuses(heard) == [200, 200, 200]


class TestSlowPeers:
    BOUNDS = Bounds(head_s=0.3, body_grace_s=0.3, body_rate=1_000, keep_alive_s=1)

    @pytest.mark.parametrize("begin", [b"", b"GET / HT", b"GET / HTTP/1.1\r\n" + HEAD, b"\r\n"])
    async def test_a_head_that_does_not_end_is_not_waited_for(self, app: Recorder, begin: bytes) -> None:
        async with listening(app, bounds=self.BOUNDS) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            began = time.monotonic()
            writer.write(begin)
            try:
                while time.monotonic() - began < 5:
                    writer.write(b"X: y\r\n" if begin.endswith(HEAD) else b"")
                    async with asyncio.timeout(0.1):
                        heard = await reader.read()
                        break
            except TimeoutError:
                heard = await asyncio.wait_for(reader.read(), 10)
            except ConnectionError:
                heard = b""
            assert time.monotonic() - began < 10
            assert statuses(heard) in ([408], [])
            writer.close()
        assert app.seen == []

    async def test_a_body_that_drips_is_dropped_and_one_at_a_fair_rate_is_not(self, app: Recorder) -> None:
        head = b"POST /%s HTTP/1.1\r\n" + HEAD + b"Content-Length: 10000\r\n\r\n"
        async with listening(app, bounds=self.BOUNDS) as listener:
            fair = answers(listener, head % b"fair", *[b"x" * 2000] * 5, wait_s=0.15)
            heard, of_the_slow = await asyncio.gather(fair, _dripped(listener, head % b"slow"))
        assert statuses(heard) == [200]
        assert statuses(of_the_slow) in ([408], [])
        assert app.seen == ["POST /fair"]

    async def test_a_client_is_not_blamed_while_we_are_the_slow_ones(self, app: Recorder) -> None:
        app.hold.clear()
        request = b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 3\r\n\r\nabc"
        async with listening(app, bounds=self.BOUNDS) as listener:
            waiting = asyncio.create_task(_whole_answer(listener, request))
            await asyncio.sleep(0.8)
            app.hold.set()
            assert statuses(await asyncio.wait_for(waiting, 20)) == [200]

    async def test_an_idle_connection_is_closed(self, app: Recorder) -> None:
        async with listening(app, bounds=self.BOUNDS) as listener:
            began = time.monotonic()
            assert statuses(await _whole_answer(listener, b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")) == [200]
            assert 0.5 < time.monotonic() - began < 4  # uvicorn's own limit is 5 s


async def _dripped(listener: HttpListener, head: bytes) -> bytes:
    """What comes back until the peer closes, which it does long before the body is whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(head)

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        dripping.cancel()
        writer.close()


async def _whole_answer(listener: HttpListener, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


class TestWhoMayConnect:
    async def test_only_the_networks_that_are_listed(self, app: Recorder) -> None:
        request = b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n"
        async with listening(app, allow=(ipaddress.ip_network("10.1.0.0/16"),)) as listener:
            assert await answers(listener, request) == b""
        async with listening(app, allow=(ipaddress.ip_network("127.0.0.1/32"),)) as listener:
            assert statuses(await answers(listener, request)) == [200]
        assert app.seen == ["GET /"]

    async def test_beyond_the_most_connections_one_with_nothing_in_hand_makes_room(self, app: Recorder) -> None:
        async with listening(app, bounds=Bounds(connections=3)) as listener:
            idle = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(3)]
            await asyncio.sleep(0.05)
            heard = await asyncio.wait_for(answers(listener, b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n"), 5)
            assert statuses(heard) == [200]
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(idle[0][0].readexactly(1), 10)
            for _, writer in idle:
                writer.close()

    async def test_and_where_all_are_at_work_the_next_is_turned_away(self, app: Recorder) -> None:
        app.hold.clear()
        request = b"GET / HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
        async with listening(app, bounds=Bounds(connections=2)) as listener:
            at_work = [asyncio.create_task(_whole_answer(listener, request)) for _ in range(2)]
            await asyncio.wait_for(app.two_came.wait(), 5)
            assert await answers(listener, request) == b""
            app.hold.set()
            assert [statuses(await work) for work in at_work] == [[200], [200]]

    async def test_a_port_that_is_taken_is_a_setting_to_mend(self, app: Recorder) -> None:
        async with listening(app) as listener:
            with pytest.raises(Misconfigured, match="cannot listen"):
                await HttpListener(app, "127.0.0.1", listener.port).start()


def curl(port: int, authority: Authority, *more: str | Path) -> dict[str, Any] | None:
    """What the listener understood; None where curl was refused."""
    done = subprocess.run(
        ["curl", "-s", "--max-time", "10", "--cacert", authority.certificate, *more, f"https://127.0.0.1:{port}/x"],
        capture_output=True,
        check=False,
        timeout=20,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def shown(pair: Pair) -> Sequence[str | Path]:
    return ["--cert", pair.certificate, "--key", pair.key]


class TestTls:
    async def test_curl_is_served_by_1_3_and_with_1_2_only_where_it_is_allowed(
        self, app: Recorder, tmp_path: Path
    ) -> None:
        authority = Authority(tmp_path)
        pair = authority.issue("server")
        async with listening(app, tls=server_context(ServerTls(pair.certificate, pair.key))) as listener:
            answer = await asyncio.to_thread(curl, listener.port, authority)
            assert answer is not None
            assert answer["scheme"] == "https"
            assert await asyncio.to_thread(curl, listener.port, authority, "--tls-max", "1.2") is None
        older = server_context(ServerTls(pair.certificate, pair.key, minimum="1.2"))
        async with listening(app, tls=older) as listener:
            assert await asyncio.to_thread(curl, listener.port, authority, "--tls-max", "1.2")

    async def test_curl_needs_a_certificate_where_it_is_required(self, app: Recorder, tmp_path: Path) -> None:
        authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
        pair, known, stranger = authority.issue("server"), clients.issue("known"), authority.issue("stranger")
        mutual = server_context(ServerTls(pair.certificate, pair.key, clients.certificate))
        heard: list[str] = []
        async with listening(app, tls=mutual, turned_away=lambda _, why: heard.append(why)) as listener:
            assert await asyncio.to_thread(curl, listener.port, authority, *shown(known))
            assert await asyncio.to_thread(curl, listener.port, authority) is None
            assert await asyncio.to_thread(curl, listener.port, authority, *shown(stranger)) is None
        assert heard == [
            "TLS handshake failed: peer did not return a certificate",
            "TLS handshake failed: certificate verify failed",
        ]

    async def test_a_certificate_that_is_replaced_holds_for_the_next_connection(
        self, app: Recorder, tmp_path: Path
    ) -> None:
        first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
        pair = first.issue("server")
        async with listening(app, tls=server_context(ServerTls(pair.certificate, pair.key))) as listener:
            assert await asyncio.to_thread(curl, listener.port, first)
            second.issue("server", into=pair)
            assert await asyncio.to_thread(curl, listener.port, first) is None
            assert await asyncio.to_thread(curl, listener.port, second)

    async def test_plain_http_and_silence_do_not_hold_up_others(self, app: Recorder, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        pair = authority.issue("server")
        heard: list[str] = []
        context = server_context(ServerTls(pair.certificate, pair.key))
        async with listening(app, tls=context, turned_away=lambda _, why: heard.append(why)) as listener:
            silent = await asyncio.open_connection("127.0.0.1", listener.port)
            probe = await asyncio.open_connection("127.0.0.1", listener.port)
            probe[1].close()
            assert statuses(await answers(listener, b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")) == []
            assert await asyncio.to_thread(curl, listener.port, authority)
            silent[1].close()
        assert heard == ["TLS handshake failed: http request"]
