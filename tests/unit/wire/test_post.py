"""Requests of whose answers only the status counts: kept connections, and where they may go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.certificates import Authority

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import PeerUnavailable, Unsupported
from wetread.wire.fetch import trusted, trusted_contexts
from wetread.wire.post import Post
from wetread.wire.tls import ServerTls, server_context

from .conftest import Peer, ok, redirect

LOOPBACK = AllowedEndpoints.parse(("127.0.0.0/8",))
NAMED = AllowedEndpoints.parse(("ehr.example.org", "idp.example.org"))
TRUSTED = trusted()


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    post = Post(LOOPBACK, lambda: TRUSTED, kept_s=1.0)
    yield post
    await post.close()


async def _sent(post: Post, url: str, timeout_s: float = 5) -> int:
    return await post.send("POST", url, [("Content-Type", "application/fhir+json")], b"{}", timeout_s)


@dataclass
class Counting:
    """Counts its connections, and the parts in which each request comes."""

    url: str = ""
    opened: int = 0
    parts: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.writers.append(writer)
        while part := await reader.read(1 << 20):
            self.parts.append(part)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()


@pytest.fixture
async def counting() -> AsyncIterator[Counting]:
    counting = Counting()
    async with await asyncio.start_server(counting.serve, "127.0.0.1", 0) as server:
        counting.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        yield counting
        for writer in counting.writers:
            writer.close()


async def test_the_next_request_goes_on_the_same_connection_head_and_body_together(
    post: Post, counting: Counting
) -> None:
    assert [await _sent(post, counting.url) for _ in range(3)] == [200, 200, 200]
    assert counting.opened == 1
    assert [part.endswith(b"\r\n\r\n{}") for part in counting.parts] == [True] * 3, "head and body came apart"


async def test_one_that_the_peer_has_closed_is_not_used_again(post: Post, counting: Counting) -> None:
    await _sent(post, counting.url)
    counting.writers[0].close()
    await asyncio.sleep(0.1)
    assert await _sent(post, counting.url) == 200
    assert counting.opened == 2


async def test_one_that_nobody_has_used_for_long_is_not_used_again(post: Post, counting: Counting) -> None:
    await _sent(post, counting.url)
    await asyncio.sleep(1.2)
    await _sent(post, counting.url)
    assert counting.opened == 2


async def test_files_that_were_replaced_are_used_for_the_next_request(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    in_use = [tls[1]]
    post = Post(LOOPBACK, lambda: in_use[-1])
    assert await _sent(post, url) == 200
    in_use.append(TRUSTED)
    with pytest.raises(PeerUnavailable, match="Certificate"):
        await _sent(post, url)
    in_use.append(tls[1])
    assert await _sent(post, url) == 200
    await post.close()
    server.close()


async def test_an_authority_that_was_replaced_vouches_for_the_next_connection(peer: Peer, tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    file = tmp_path / "hospital-ca.pem"
    file.write_bytes(old.certificate.read_bytes())
    urls, servers = [], []
    for authority, name in ((old, "old-ehr"), (new, "new-ehr")):
        theirs = authority.issue(name)
        context = server_context(ServerTls(theirs.certificate, theirs.key))
        servers.append(await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context))
        urls.append(f"https://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}/")
    post = Post(LOOPBACK, trusted_contexts(file))
    assert await _sent(post, urls[0]) == 200
    with pytest.raises(PeerUnavailable, match="Certificate"):
        await _sent(post, urls[1])
    file.write_bytes(new.certificate.read_bytes())
    assert await _sent(post, urls[1]) == 200
    with pytest.raises(PeerUnavailable, match="Certificate"):
        await _sent(post, urls[0])
    await post.close()
    for server in servers:
        server.close()


async def test_many_peers_are_asked_at_once(post: Post, peer: Peer) -> None:
    peer.pause_s = 0.005
    found = await asyncio.gather(*(_sent(post, peer.url(f"/{n}")) for n in range(150)))
    assert found == [200] * 150


async def test_what_is_sent_is_what_was_given_and_little_else(post: Post, peer: Peer) -> None:
    await post.send("PUT", peer.url("/a%2Fb?c=%20d"), [("X-Own", "1")], b"", 5)
    [head] = peer.asked
    lines = head.strip().split("\r\n")
    assert lines[0] == "PUT /a%2Fb?c=%20d HTTP/1.1"
    assert {line.partition(":")[0].lower() for line in lines[1:]} == {
        "host", "user-agent", "accept-encoding", "accept", "x-own", "content-length",
    }  # fmt: skip
    assert "Accept-Encoding: identity" in lines


async def test_what_a_client_wants_said_is_said_in_place_of_our_own(post: Post, peer: Peer) -> None:
    await post.send("POST", peer.url(), [("user-agent", "ward 3"), ("Accept-Encoding", "gzip")], b"{}", 5)
    [head] = peer.asked
    assert head.lower().count("user-agent:") == head.lower().count("accept-encoding:") == 1
    assert "user-agent: ward 3" in head


async def test_cookies_are_not_kept(post: Post, peer: Peer) -> None:
    peer.answer = lambda path: ok(b"", "Set-Cookie: a=b")
    await _sent(post, peer.url())
    await _sent(post, peer.url())
    assert all("cookie:" not in head.lower() for head in peer.asked)


async def test_no_redirect_is_followed(post: Post, peer: Peer) -> None:
    peer.answer = lambda path: redirect("/elsewhere", 307)
    assert await _sent(post, peer.url()) == 307
    assert len(peer.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
)
async def test_an_answer_that_is_none_is_no_answer(answer: bytes, post: Post, peer: Peer) -> None:
    peer.answer = lambda path: answer or b"\x00"
    with pytest.raises(PeerUnavailable):
        await _sent(post, peer.url(), timeout_s=0.5)


async def test_a_huge_or_compressed_body_is_not_read(post: Post, peer: Peer) -> None:
    peer.answer = lambda path: ok(b"\x1f\x8b" + b"x" * 5_000_000, "Content-Encoding: gzip")
    assert await _sent(post, peer.url()) == 200
    peer.answer = lambda path: ok(b"")
    assert await _sent(post, peer.url()) == 200


async def test_the_time_is_for_all_of_the_answer(post: Post, peer: Peer) -> None:
    peer.pause_s = 0.02
    peer.answer = lambda path: ok(b"x" * 500)
    with pytest.raises(PeerUnavailable, match=r"0\.3 s"):
        await _sent(post, peer.url(), timeout_s=0.3)


async def test_a_name_is_resolved_for_each_connection_which_goes_to_what_was_checked(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """DNS rebinding: the second answer of the name would be the metadata service."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    port = server.sockets[0].getsockname()[1]
    post = Post(NAMED, lambda: tls[1], rebinding)
    peer.answer = lambda path: ok(b"", "Connection: close")
    assert await _sent(post, f"https://idp.example.org:{port}/") == 200
    assert f"Host: idp.example.org:{port}" in peer.asked[0]
    with pytest.raises(Unsupported, match="never called"):
        await _sent(post, f"https://idp.example.org:{port}/")
    await post.close()
    server.close()


async def test_tls_is_for_the_name_and_by_an_authority_that_is_trusted(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def local(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    port = server.sockets[0].getsockname()[1]
    trusting, doubting = Post(NAMED, lambda: tls[1], local), Post(NAMED, lambda: TRUSTED, local)
    assert await _sent(trusting, f"https://idp.example.org:{port}/") == 200
    with pytest.raises(PeerUnavailable, match="Certificate"):
        await _sent(trusting, f"https://ehr.example.org:{port}/")
    with pytest.raises(PeerUnavailable, match="Certificate"):
        await _sent(doubting, f"https://idp.example.org:{port}/")
    assert len(peer.asked) == 1
    await trusting.close()
    await doubting.close()
    server.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fe80::1%1", "::ffff:169.254.169.254", "0.0.0.0"])
async def test_a_listed_name_never_leads_to_these_addresses(address: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", address]

    post = Post(NAMED, lambda: TRUSTED, resolve)
    with pytest.raises(Unsupported, match="never called"):
        await _sent(post, "https://ehr.example.org/")
    await post.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://[::ffff:169.254.169.254]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://10.0.0.1/",
        "http://user@127.0.0.1/",
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1:x/",
        "http://[/",
        "http:///hook",
        "ftp://127.0.0.1/",
        "127.0.0.1/hook",
        "https://evil.example.org/",
        "http://127.0.0.1/hook HTTP/1.1",
        "http://127.0.0.1/hook\r\nX-Own: 1",
        "http://127.0.0.1/a\tb",
        "http://127.0.0.1/\x00",
        "http://127.0.0.1/\x0b",
        "http://127.0.0.1/\x7f",
        "http://127.0.0.1/füße",
        "http://localhost\u3002/",
    ],
)
async def test_nothing_leaves_for_what_is_not_listed(url: str, post: Post) -> None:
    with pytest.raises(Unsupported):
        await _sent(post, url)


async def test_a_name_without_an_address_is_a_peer_that_does_not_answer() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    post = Post(NAMED, lambda: TRUSTED, nowhere)
    with pytest.raises(PeerUnavailable):
        await _sent(post, "https://ehr.example.org/")
    await post.close()


async def test_the_next_address_of_a_name_is_tried_where_the_first_does_not_answer(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def two(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    post = Post(NAMED, lambda: tls[1], two)
    assert await _sent(post, f"https://idp.example.org:{server.sockets[0].getsockname()[1]}/") == 200
    await post.close()
    server.close()


async def test_proxies_of_the_environment_are_ignored(post: Post, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await _sent(post, peer.url()) == 200
