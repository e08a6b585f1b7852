"""HTTP to peers: where it may go, that it goes to the very address that was checked, and how much it takes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Misconfigured, PeerUnavailable, Unsupported
from wetread.wire import fetch as wire_fetch
from wetread.wire.fetch import Fetch, UnusableAnswer, max_age_s, trusted

from .conftest import Peer, ok, redirect

LOOPBACK = AllowedEndpoints.parse(("127.0.0.0/8",))
TRUSTED = trusted()
NAMED = AllowedEndpoints.parse(("idp.example.org",))


@pytest.fixture
async def fetch() -> AsyncIterator[Fetch]:
    fetch = Fetch(LOOPBACK, TRUSTED)
    yield fetch
    await fetch.close()


async def get(fetch: Fetch, url: str, *, limit: int = 1000, timeout_s: float = 5, redirects: int = 0) -> bytes:
    answer = await fetch.send("GET", url, limit_bytes=limit, timeout_s=timeout_s, redirects=redirects)
    return answer.content


async def test_json_comes_with_the_time_it_may_be_kept(fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: ok(b'{"keys":[]}', "Cache-Control: public, max-age=600")
    document = await fetch.get_json(peer.url("/jwks"), limit_bytes=1000, timeout_s=5)
    assert (document.content, document.max_age_s) == ({"keys": []}, 600)
    assert peer.asked[0].startswith("GET /jwks HTTP/1.1")


@pytest.mark.parametrize(
    ("control", "seconds"),
    [
        ("max-age=60", 60),
        ('private, Max-Age="60"', 60),
        ("s-maxage=60", 0),
        ("no-store, max-age=60", 0),
        ("max-age=60, no-cache", 0),
        ("max-age=-1", 0),
        ("", 0),
    ],
)
def test_how_long_an_answer_may_be_kept(control: str, seconds: int) -> None:
    assert max_age_s(httpx.Headers({"Cache-Control": control})) == seconds


@pytest.mark.parametrize("answer", [ok(b"<html>"), ok(b"[" * 100_000), b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"])
async def test_what_is_not_the_document_is_unusable(answer: bytes, fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: answer
    with pytest.raises(UnusableAnswer):
        await fetch.get_json(peer.url(), limit_bytes=1_000_000, timeout_s=5)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_passing_failure_may_be_tried_again(status: int, fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    with pytest.raises(PeerUnavailable):
        await fetch.get_json(peer.url(), limit_bytes=1000, timeout_s=5)


async def test_an_answer_above_the_limit_is_cut_off(fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: ok(b"x" * 2_000_000)
    with pytest.raises(UnusableAnswer, match="1000 bytes"):
        await get(fetch, peer.url())


async def test_an_endless_answer_is_cut_off(fetch: Fetch, peer: Peer) -> None:
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    peer.answer = lambda path: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 500
    with pytest.raises(UnusableAnswer, match="1000 bytes"):
        await get(fetch, peer.url())


async def test_a_compressed_answer_is_not_unpacked(fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: ok(b"\x1f\x8b", "Content-Encoding: gzip")
    with pytest.raises(UnusableAnswer, match="compressed"):
        await get(fetch, peer.url())
    assert "accept-encoding: identity" in peer.asked[0].lower()


async def test_a_peer_that_drips_its_answer_is_cut_off_in_time(fetch: Fetch, peer: Peer) -> None:
    peer.pause_s = 0.02
    peer.answer = lambda path: ok(b"x" * 500)
    with pytest.raises(PeerUnavailable, match=r"0\.3 s"):
        await get(fetch, peer.url(), timeout_s=0.3)


async def test_no_redirect_is_followed_unasked(fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: redirect("/elsewhere")
    assert await get(fetch, peer.url()) == b""
    assert len(peer.asked) == 1


async def test_a_redirect_that_was_asked_for_is_followed_up_to_its_number(fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: ok(b"here") if path == "/2" else redirect(f"/{int(path[1:]) + 1}")
    assert await get(fetch, peer.url("/0"), redirects=2) == b"here"
    answer = await fetch.send("GET", peer.url("/0"), limit_bytes=10, timeout_s=5, redirects=1)
    assert answer.status == 302


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "https://other.example.org/",
        "//other.example.org/",
        "file:///etc/passwd",
        "http://user@127.0.0.1/",
        "http://10.0.0.1/",
        "http://[",
    ],
)
async def test_a_redirect_to_where_it_may_not_go_is_refused(location: str, fetch: Fetch, peer: Peer) -> None:
    peer.answer = lambda path: redirect(location)
    with pytest.raises(Unsupported):
        await get(fetch, peer.url(), redirects=5)


async def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """DNS rebinding: the second answer of the name would be the metadata service."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    port = server.sockets[0].getsockname()[1]
    fetch = Fetch(NAMED, tls[1], rebinding)
    peer.answer = lambda path: ok(b"mine", "Connection: close")
    assert await get(fetch, f"https://idp.example.org:{port}/") == b"mine"
    assert f"Host: idp.example.org:{port}" in peer.asked[0]
    assert asked == ["idp.example.org"]
    with pytest.raises(Unsupported):
        await get(fetch, f"https://idp.example.org:{port}/")
    await fetch.close()
    server.close()


async def test_tls_is_for_the_name_not_for_the_address(peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def local(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    port = server.sockets[0].getsockname()[1]
    allowed = AllowedEndpoints.parse(("idp.example.org", "other.example.org"))
    fetch = Fetch(allowed, tls[1], local)
    assert await get(fetch, f"https://idp.example.org:{port}/") == b"{}"
    with pytest.raises(PeerUnavailable, match="ConnectError"):
        await get(fetch, f"https://other.example.org:{port}/")
    assert len(peer.asked) == 1
    await fetch.close()
    server.close()


async def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    fetch = Fetch(LOOPBACK, TRUSTED)
    with pytest.raises(PeerUnavailable, match="ConnectError"):
        await get(fetch, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    await fetch.close()
    server.close()


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1",
        "fe80::1%1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
async def test_a_listed_name_never_leads_to_these_addresses(address: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", address]

    fetch = Fetch(NAMED, TRUSTED, resolve)
    with pytest.raises(Unsupported, match="never called"):
        await get(fetch, "https://idp.example.org/")
    await fetch.close()


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.0", "[::]", "255.255.255.255"],
)
async def test_nor_does_a_network_that_holds_them(host: str) -> None:
    fetch = Fetch(AllowedEndpoints.parse(("0.0.0.0/0", "::/0")), TRUSTED)
    with pytest.raises(Unsupported, match="never called"):
        await get(fetch, f"https://{host}/")
    await fetch.close()


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.0x1"])
async def test_other_spellings_of_an_address_are_refused(host: str, peer: Peer, fetch: Fetch) -> None:
    with pytest.raises(Unsupported):
        await get(fetch, peer.url(host=host))
    assert peer.asked == []


async def test_an_ipv4_mapped_address_counts_as_the_ipv4_address(peer: Peer, fetch: Fetch) -> None:
    assert await get(fetch, peer.url(host="[::ffff:127.0.0.1]")) == b"{}"
    elsewhere = Fetch(AllowedEndpoints.parse(("10.0.0.0/8",)), TRUSTED)
    with pytest.raises(Unsupported):
        await get(elsewhere, peer.url(host="[::ffff:127.0.0.1]"))
    await elsewhere.close()


async def test_localhost_is_loopback_or_nothing(peer: Peer) -> None:
    async def poisoned(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "10.0.0.1"]

    fetch = Fetch(LOOPBACK, TRUSTED, poisoned)
    with pytest.raises(Unsupported):
        await get(fetch, peer.url(host="localhost"))
    await fetch.close()


async def test_an_unlisted_name_is_not_even_resolved() -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    fetch = Fetch(LOOPBACK, TRUSTED, resolve)
    with pytest.raises(Unsupported, match=r"outbound\.allow"):
        await get(fetch, "https://evil.example.org/")
    assert asked == []
    await fetch.close()


async def test_beyond_loopback_only_https() -> None:
    fetch = Fetch(NAMED, TRUSTED)
    with pytest.raises(Unsupported, match="https"):
        await get(fetch, "http://idp.example.org/")
    await fetch.close()


async def test_the_next_address_of_a_name_is_tried_where_the_first_does_not_answer(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def two(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    fetch = Fetch(NAMED, tls[1], two)
    assert await get(fetch, f"https://idp.example.org:{server.sockets[0].getsockname()[1]}/") == b"{}"
    await fetch.close()
    server.close()


async def test_a_silent_address_of_a_name_leaves_time_for_the_next(
    peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(wire_fetch, "_NEXT_ADDRESS_AFTER_S", 0.2)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls[0])
    port = server.sockets[0].getsockname()[1]
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.2", port))
        deaf.listen(0)  # its queue holds one, and nobody takes from it: Linux drops what comes then
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        fetch = Fetch(NAMED, tls[1], two)
        assert await get(fetch, f"https://idp.example.org:{port}/", timeout_s=10) == b"{}"
        await fetch.close()
    server.close()


async def test_proxies_of_the_environment_are_ignored(
    peer: Peer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await get(fetch, peer.url()) == b"{}"


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(Misconfigured, match=r"outbound\.authority"):
        trusted(tmp_path / "ca.pem")
