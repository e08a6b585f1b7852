"""What an operator sets for an endpoint: bodies are signed, and our certificate is shown."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.certificates import Authority

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Misconfigured, PeerUnavailable
from wetread.outbound.endpoints import Endpoint, EndpointPoster, Endpoints, Poster, signature
from wetread.outbound.http import HttpPoster
from wetread.settings import load
from wetread.wire.post import Post
from wetread.wire.tls import ClientTls, Contexts, ServerTls, client_contexts, server_context

from .conftest import Sink

ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8",))
AT = datetime.fromtimestamp(1614265330, UTC)
SECRET = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def test_a_signature_is_that_of_the_published_example() -> None:
    """The example of the Standard Webhooks libraries' own tests."""
    headers = dict(signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", AT, b'{"test": 2432232314}'))
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://ehr.example/hooks", "https://ehr.example/hooks"),
        ("https://ehr.example/hooks/a", "https://ehr.example/hooks"),
        ("https://ehr.example:443/hooks/a?b=c", "https://ehr.example/hooks"),
        ("https://EHR.example/hooks/critical/1", "https://ehr.example/hooks/critical/"),
        ("https://ehr.example/hooksandmore", None),
        ("https://ehr.example/", None),
        ("http://ehr.example/hooks", None),
        ("https://ehr.example:8443/hooks", None),
        ("https://ehr.example.evil.example/hooks", None),
        ("mllps://engine.example:2575", "mllps://engine.example:2575"),
        ("mllps://engine.example:2575/", "mllps://engine.example:2575"),
        ("mllps://engine.example:2576", None),
    ],
)
def test_the_longest_beginning_counts(url: str, found: str | None) -> None:
    known = ["https://ehr.example/hooks", "https://ehr.example/hooks/critical/", "mllps://engine.example:2575"]
    endpoint = Endpoints([Endpoint(each) for each in known]).of(url)
    assert (endpoint.url if endpoint else None) == found


def test_a_secret_is_in_no_text() -> None:
    assert "hush" not in repr(Endpoint("https://ehr.example", b"hush"))


def _never(contexts: Contexts) -> Poster:
    raise AssertionError("no TLS is set")


async def test_a_body_is_signed_under_its_idempotency_key(sink: Sink) -> None:
    peers = Post(ALLOWED)
    poster = EndpointPoster(HttpPoster(peers), Endpoints([Endpoint(sink.url, SECRET)]), _never, lambda: AT)
    for _ in range(2):
        await poster.post(sink.url, b"{}", [("Idempotency-Key", "s-7")], 5)
    await poster.post(sink.url, b"{}", [], 5)
    await poster.post(f"http://127.0.0.1:{sink.port}/other", b"{}", [], 5)
    await peers.close()
    first, again, handshake, other = sink.received
    assert dict(signature(SECRET, "s-7", AT, b"{}")).items() <= first.headers.items()
    assert again.headers == first.headers
    assert handshake.headers["webhook-id"] not in ("", "s-7")
    assert "webhook-signature" not in other.headers


@asynccontextmanager
async def asking_for_a_certificate(context: ssl.SSLContext) -> AsyncIterator[tuple[str, list[str]]]:
    """An https endpoint, and the serial numbers of the certificates that it was shown."""
    shown: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.append(writer.get_extra_info("peercert")["serialNumber"])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", shown
    finally:
        server.close()


async def test_our_certificate_is_shown_to_the_endpoint_that_it_is_set_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    theirs, ours = authority.issue("ehr"), authority.issue("wetread")
    asking = server_context(ServerTls(theirs.certificate, theirs.key, client_ca=authority.certificate))
    opened: list[Post] = []

    def over(contexts: Contexts) -> Poster:
        opened.append(Post(ALLOWED, contexts))
        return HttpPoster(opened[-1])

    async with asking_for_a_certificate(asking) as (url, shown):
        usual = Post(ALLOWED, client_contexts(ClientTls(authority.certificate)))
        tls = client_contexts(ClientTls(authority.certificate, ours.certificate, ours.key))
        await EndpointPoster(HttpPoster(usual), Endpoints([Endpoint(url, tls=tls)]), over, lambda: AT).post(
            url, b"{}", [], 5
        )
        with pytest.raises(PeerUnavailable):
            await EndpointPoster(HttpPoster(usual), Endpoints(), over, lambda: AT).post(url, b"{}", [], 5)
        assert len(shown) == 1
    for peers in [usual, *opened]:
        await peers.close()


def _refused(folder: Path, lines: Sequence[str]) -> str:
    file = folder / "wetread.toml"
    file.write_text("[[outbound.endpoints]]\n" + "\n".join(lines))
    with pytest.raises(Misconfigured) as refusal:
        load(file)
    return refusal.value.message


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["url = 'ehr.example'"], "expected e.g. https://"),
        (["url = 'ftp://ehr.example'"], "expected e.g. https://"),
        (["url = 'https://ehr.example/?x=1'"], "expected e.g. https://"),
        (["url = 'https://ehr.example'", "hmac_secret = 'short'"], "at least 24 bytes"),
        (["url = 'https://ehr.example'", "hmac_secret = 'whsec_not base64'"], "is not base64"),
        (["url = 'mllps://ehr.example:2575'", f"hmac_secret = '{'x' * 32}'"], "not signed"),
        (["url = 'http://ehr.example'", "tls = {}"], "must begin with https"),
        (["url = 'https://a.example'", "[[outbound.endpoints]]", "url = 'https://a.example'"], "stands there twice"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(lines: Sequence[str], complaint: str, tmp_path: Path) -> None:
    message = _refused(tmp_path, lines)
    assert complaint in message
    assert "whsec_not" not in message
