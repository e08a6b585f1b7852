"""TLS of listeners and clients: versions, client certificates, and files that are replaced while we run."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.certificates import Authority, Pair

from wetread.errors import Misconfigured
from wetread.wire.tls import ClientTls, ServerTls, client_contexts, server_context

REFUSED = (ssl.SSLError, ConnectionError, EOFError)
"""asyncio closes after a failed handshake, mostly before its alert has left."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server", common_name="first")


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def greeting(port: int, context: ssl.SSLContext) -> tuple[str, str, str]:
    """TLS version, cipher and the server's common name, after a byte has come: with TLS 1.3 a client learns only then
    that its certificate was refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        assert await reader.readexactly(5) == b"hello"
        tls = writer.get_extra_info("ssl_object")
        return tls.version(), tls.cipher()[0], tls.getpeercert()["subject"][0][0][1]
    finally:
        writer.close()


def trusting(authority: Authority, pair: Pair | None = None, *, most: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    if most is not None:
        context.maximum_version = most
    return context


class TestVersions:
    async def test_a_peer_that_knows_only_1_2_is_refused_by_default(self, authority: Authority, pair: Pair) -> None:
        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            assert (await greeting(port, trusting(authority)))[0] == "TLSv1.3"
            with pytest.raises(REFUSED):
                await greeting(port, trusting(authority, most=ssl.TLSVersion.TLSv1_2))

    async def test_1_2_where_the_operator_says_so_and_only_with_good_ciphers(
        self, authority: Authority, pair: Pair
    ) -> None:
        context = server_context(ServerTls(pair.certificate, pair.key, minimum="1.2"))
        async with serving(context) as port:
            older = trusting(authority, most=ssl.TLSVersion.TLSv1_2)
            version, cipher, _ = await greeting(port, older)
            assert version == "TLSv1.2"
            assert re.fullmatch(r"ECDHE-.*(GCM|CHACHA).*", cipher)
            older.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
            with pytest.raises(REFUSED):
                await greeting(port, older)

    async def test_clients_keep_the_same_rule(self, authority: Authority, pair: Pair) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.load_cert_chain(pair.certificate, pair.key)
        async with serving(old) as port:
            with pytest.raises(REFUSED):
                await greeting(port, client_contexts(ClientTls(authority.certificate))())
            lenient = client_contexts(ClientTls(authority.certificate, minimum="1.2"))
            assert (await greeting(port, lenient()))[0] == "TLSv1.2"


class TestClientCertificates:
    async def test_are_required_of_the_authority(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        context = server_context(ServerTls(pair.certificate, pair.key, authority.certificate))
        async with serving(context) as port:
            assert (await greeting(port, trusting(authority, authority.issue("client"))))[2] == "first"
            other = Authority(tmp_path, "other").issue("stranger")
            for unknown in (None, other, authority.issue("expired", days=-1)):
                with pytest.raises(REFUSED):
                    await greeting(port, trusting(authority, unknown))

    async def test_may_be_optional_but_never_wrong(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        context = server_context(ServerTls(pair.certificate, pair.key, authority.certificate, required=False))
        async with serving(context) as port:
            await greeting(port, trusting(authority))
            with pytest.raises(REFUSED):
                await greeting(port, trusting(authority, Authority(tmp_path, "other").issue("stranger")))

    async def test_ours_is_shown_to_a_peer_that_asks(self, authority: Authority, pair: Pair) -> None:
        context = server_context(ServerTls(pair.certificate, pair.key, authority.certificate))
        own = authority.issue("own")
        async with serving(context) as port:
            await greeting(port, client_contexts(ClientTls(authority.certificate, own.certificate, own.key))())

    async def test_a_peer_must_bear_the_name_by_which_it_is_called(self, authority: Authority, pair: Pair) -> None:
        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            contexts = client_contexts(ClientTls(authority.certificate))
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("127.0.0.1", port, ssl=contexts(), server_hostname="pacs.example.org")


class TestFilesThatAreReplaced:
    async def test_hold_for_the_next_connection(self, authority: Authority, pair: Pair) -> None:
        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            assert (await greeting(port, trusting(authority)))[2] == "first"
            authority.issue("server", common_name="second", into=pair)
            assert (await greeting(port, trusting(authority)))[2] == "second"

    async def test_also_for_a_client_that_names_no_host(self, authority: Authority, pair: Pair) -> None:
        def common_name(port: int) -> str:
            done = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-noservername"],
                input=b"",
                capture_output=True,
                check=False,
                timeout=20,
            )
            return next(line for line in done.stdout.decode().splitlines() if line.startswith("subject="))

        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            authority.issue("server", common_name="second", into=pair)
            assert "second" in await asyncio.to_thread(common_name, port)

    async def test_that_are_broken_are_logged_and_the_old_ones_kept(
        self, authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            pair.certificate.write_text("half a certif")
            with caplog.at_level(logging.ERROR):
                for _ in range(3):
                    assert (await greeting(port, trusting(authority)))[2] == "first"
            assert len([line for line in caplog.messages if "what was in use is kept" in line]) == 1

            pair.certificate.unlink()
            assert (await greeting(port, trusting(authority)))[2] == "first"

            authority.issue("server", common_name="mended", into=pair)
            assert (await greeting(port, trusting(authority)))[2] == "mended"

    async def test_whose_key_comes_after_its_certificate_are_taken_when_both_are_there(
        self, authority: Authority, pair: Pair
    ) -> None:
        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            new = authority.issue("new", common_name="second")
            pair.certificate.write_bytes(new.certificate.read_bytes())
            assert (await greeting(port, trusting(authority)))[2] == "first"
            pair.key.write_bytes(new.key.read_bytes())
            assert (await greeting(port, trusting(authority)))[2] == "second"

    async def test_change_whom_we_let_in_also_those_who_were_here_before(
        self, authority: Authority, pair: Pair, tmp_path: Path
    ) -> None:
        clients = Authority(tmp_path, "clients")
        client = clients.issue("client")
        context = server_context(ServerTls(pair.certificate, pair.key, clients.certificate))
        known = trusting(authority, client)
        async with serving(context) as port:
            await greeting(port, known)
            clients.certificate.write_bytes(Authority(tmp_path, "others").certificate.read_bytes())
            with pytest.raises(REFUSED):
                await greeting(port, known)

    async def test_hold_for_the_next_call_of_a_client(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(Authority(tmp_path, "other").certificate.read_bytes())
        contexts = client_contexts(ClientTls(trusted))
        async with serving(server_context(ServerTls(pair.certificate, pair.key))) as port:
            with pytest.raises(ssl.SSLCertVerificationError):
                await greeting(port, contexts())
            trusted.write_bytes(authority.certificate.read_bytes())
            await greeting(port, contexts())


class TestWhatCannotBeUsed:
    def test_is_refused_at_start_and_its_content_is_not_told(self, authority: Authority, pair: Pair) -> None:
        other = authority.issue("other")
        for wanted in (
            ServerTls(pair.certificate, other.key),
            ServerTls(pair.key, pair.key),
            ServerTls(pair.certificate, pair.certificate),
            ServerTls(pair.certificate, pair.key, client_ca=pair.key),
        ):
            with pytest.raises(Misconfigured) as caught:
                server_context(wanted)
            assert "BEGIN" not in caught.value.message

    def test_a_key_with_a_password_is_refused_without_asking_for_it(self, pair: Pair, tmp_path: Path) -> None:
        locked = tmp_path / "locked.key"
        subprocess.run(
            ["openssl", "pkcs8", "-topk8", "-in", pair.key, "-out", locked, "-passout", "pass:hush"],
            check=True,
            capture_output=True,
        )
        with pytest.raises(Misconfigured, match="without a password"):
            server_context(ServerTls(pair.certificate, locked))
