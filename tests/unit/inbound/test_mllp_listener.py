"""The MLLP listener over real sockets."""

import asyncio
import ipaddress
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hl7.client import MLLPClient
from tests.certificates import Authority

from wetread.errors import Misconfigured, StoreUnavailable
from wetread.inbound.mllp import Handle, MllpListener, Received
from wetread.inbound.tls_server import TurnedAway, untold
from wetread.wire.mllp import frame
from wetread.wire.tls import ServerTls, server_context

MESSAGE = b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5\rPID|1||4711||Roe^Jane\r"
ACK = b"MSH|^~\\&|C|D|A|B|2026||ACK|9|P|2.5\rMSA|AA|1\r"
LOCAL = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Office:
    """Keeps what it is given and answers as told."""

    def __init__(self, answer: Callable[[Received], Awaitable[bytes | None]] | None = None) -> None:
        self.received: list[Received] = []
        self._answer = answer

    async def __call__(self, received: Received) -> bytes | None:
        self.received.append(received)
        return ACK if self._answer is None else await self._answer(received)


@asynccontextmanager
async def listening(
    handle: Handle,
    *,
    limit_bytes: int = 10_000,
    idle_timeout_s: float | None = 30,
    max_connections: int = 8,
    allow: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = (),
    tls: ssl.SSLContext | None = None,
    turned_away: TurnedAway = untold,
) -> AsyncIterator[MllpListener]:
    listener = MllpListener(
        "127.0.0.1",
        0,
        handle,
        limit_bytes=limit_bytes,
        idle_timeout_s=idle_timeout_s,
        max_connections=max_connections,
        allow=allow,
        tls=tls,
        turned_away=turned_away,
    )
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close(grace_s=1)


async def connect(listener: MllpListener) -> Peer:
    return await asyncio.open_connection("127.0.0.1", listener.port)


async def say(peer: Peer, data: bytes) -> None:
    peer[1].write(data)
    await peer[1].drain()


async def hear(peer: Peer, timeout_s: float = 5) -> bytes:
    """The next frame's message."""
    async with asyncio.timeout(timeout_s):
        return (await peer[0].readuntil(b"\x1c\r"))[1:-2]


async def hung_up(peer: Peer, timeout_s: float = 5) -> bool:
    """Whether the listener closes the connection without another byte."""
    async with asyncio.timeout(timeout_s):
        try:
            return await peer[0].read() == b""
        except ConnectionError:
            return True
        finally:
            await hang_up(peer)


async def hang_up(*peers: Peer) -> None:
    for _, writer in peers:
        writer.transport.abort()
    await asyncio.sleep(0)


async def test_a_message_is_handed_over_and_its_answer_sent_in_one_frame() -> None:
    office = Office()
    async with listening(office) as listener:
        peer = await connect(listener)
        await say(peer, frame(MESSAGE))
        assert await hear(peer) == ACK
        (received,) = office.received
        assert (received.raw, received.oversize, received.listener) == (MESSAGE, None, listener.name)
        host, port = peer[1].get_extra_info("sockname")
        assert received.peer == f"{host}:{port}"
        await hang_up(peer)


async def test_a_message_in_many_pieces_and_many_in_one_piece_are_each_answered_in_order() -> None:
    async def echo(received: Received) -> bytes:
        assert received.raw is not None
        return received.raw

    async with listening(echo) as listener:
        peer = await connect(listener)
        for byte in frame(b"one"):
            await say(peer, bytes([byte]))
        assert await hear(peer) == b"one"
        await say(peer, b"".join(frame(b"%d" % n) for n in range(50)))
        assert [await hear(peer) for _ in range(50)] == [b"%d" % n for n in range(50)]
        await hang_up(peer)


async def test_one_connection_is_served_strictly_in_turn_and_others_beside_it() -> None:
    gate = asyncio.Event()
    at_work: list[bytes] = []

    async def slow(received: Received) -> bytes:
        assert received.raw is not None
        at_work.append(received.raw)
        if received.raw.startswith(b"slow"):
            await gate.wait()
        return received.raw

    async with listening(slow) as listener:
        first, second = await connect(listener), await connect(listener)
        await say(first, frame(b"slow 1") + frame(b"slow 2"))
        await say(second, frame(b"quick"))
        assert await hear(second) == b"quick"
        assert sorted(at_work) == [b"quick", b"slow 1"]
        gate.set()
        assert [await hear(first), await hear(first)] == [b"slow 1", b"slow 2"]
        await hang_up(first, second)


async def no_answer(_: Received) -> bytes | None:
    return None


async def store_is_down(_: Received) -> bytes | None:
    raise StoreUnavailable("The database does not answer.")


async def unexpected(received: Received) -> bytes | None:
    raise RuntimeError(f"cannot work on {received.raw!r}")


@pytest.mark.parametrize("fault", [no_answer, store_is_down, unexpected])
async def test_without_an_answer_nothing_is_sent_and_the_connection_closes(
    fault: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office(fault)
    with caplog.at_level(logging.DEBUG):
        async with listening(office) as listener:
            peer = await connect(listener)
            await say(peer, frame(MESSAGE) + frame(MESSAGE))
            assert await hung_up(peer)
            assert len(office.received) == 1
    assert "Roe" not in caplog.text
    assert "4711" not in caplog.text
    assert ("no ACK" in caplog.text) == (fault is not no_answer)


async def test_no_bytes_as_an_answer_sends_nothing_and_goes_on() -> None:
    async def quiet(received: Received) -> bytes:
        return b"" if received.raw == b"quiet" else ACK

    async with listening(quiet) as listener:
        peer = await connect(listener)
        await say(peer, frame(b"quiet") + frame(b"loud"))
        assert await hear(peer) == ACK
        await hang_up(peer)


async def test_a_message_beyond_the_limit_is_handed_over_as_its_head_and_digest_and_the_next_is_whole() -> None:
    office = Office()
    async with listening(office, limit_bytes=1000) as listener:
        peer = await connect(listener)
        await say(peer, frame(b"x" * 300_000) + frame(MESSAGE))
        assert [await hear(peer), await hear(peer)] == [ACK, ACK]
        big, small = office.received
        assert big.raw is None
        assert big.oversize is not None
        assert (big.oversize.size, len(big.oversize.head)) == (300_000, 64 * 1024)
        assert small.raw == MESSAGE
        await hang_up(peer)


async def test_garbage_without_a_frame_is_ignored_up_to_a_cap_and_then_dropped() -> None:
    office = Office()
    async with listening(office) as listener:
        peer = await connect(listener)
        await say(peer, b"GET / HTTP/1.1\r\n\r\n" + frame(MESSAGE))
        assert await hear(peer) == ACK
        await say(peer, b"z" * 200_000)
        assert await hung_up(peer)
        assert len(office.received) == 1


async def test_a_frame_broken_off_is_handed_over_as_torn_and_never_answered(caplog: pytest.LogCaptureFixture) -> None:
    office = Office()
    async with listening(office) as listener:
        peer = await connect(listener)
        await say(peer, b"\x0b" + MESSAGE)
        peer[1].write_eof()
        assert await hung_up(peer)
        (received,) = office.received
        assert (received.raw, received.oversize) == (None, None)
        assert received.truncated is not None
        assert (received.truncated.head, received.truncated.size) == (MESSAGE, len(MESSAGE))
    assert f"broken off after {len(MESSAGE)} bytes" in caplog.text
    assert "Roe" not in caplog.text


async def test_a_silent_connection_is_closed_after_its_time() -> None:
    async with listening(Office(), idle_timeout_s=0.1) as listener:
        silent, stuck = await connect(listener), await connect(listener)
        await say(stuck, b"\x0bMSH|")
        assert await hung_up(silent)
        assert await hung_up(stuck)


async def test_the_quietest_connection_makes_room_for_a_new_one() -> None:
    async with listening(Office(), max_connections=2) as listener:
        quiet = await connect(listener)
        await say(quiet, frame(MESSAGE))
        await hear(quiet)
        talker = await connect(listener)
        await say(talker, frame(MESSAGE))
        await hear(talker)
        third = await connect(listener)
        assert await hung_up(quiet)
        for peer in (talker, third):
            await say(peer, frame(MESSAGE))
            assert await hear(peer) == ACK
        assert listener.connections == 2
        await hang_up(talker, third)


async def test_with_every_connection_at_work_a_new_one_is_turned_away() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Received) -> bytes:
        begun.set()
        await gate.wait()
        return ACK

    async with listening(wait, max_connections=1) as listener:
        worker = await connect(listener)
        await say(worker, frame(MESSAGE))
        await begun.wait()
        assert await hung_up(await connect(listener))
        gate.set()
        assert await hear(worker) == ACK
        await hang_up(worker)


async def test_peers_outside_the_allow_list_are_turned_away() -> None:
    office = Office()
    heard: list[tuple[str, str]] = []
    elsewhere = (ipaddress.ip_network("10.0.0.0/8"),)
    async with listening(office, allow=elsewhere, turned_away=lambda *told: heard.append(told)) as listener:
        peer = await connect(listener)
        assert await hung_up(peer)
        assert office.received == []
        assert heard == [("127.0.0.1", "not in the allow-list")]
    async with listening(office, allow=LOCAL) as listener:
        peer = await connect(listener)
        await say(peer, frame(MESSAGE))
        assert await hear(peer) == ACK
        await hang_up(peer)


async def test_closing_answers_the_message_in_hand_then_hangs_up_and_takes_no_more() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Received) -> bytes:
        begun.set()
        await gate.wait()
        return ACK

    office = Office(wait)
    async with listening(office) as listener:
        worker, idle = await connect(listener), await connect(listener)
        await say(worker, frame(MESSAGE) + frame(MESSAGE))
        await begun.wait()
        closing = asyncio.create_task(listener.close())
        assert await hung_up(idle)
        gate.set()
        assert await hear(worker) == ACK
        assert await hung_up(worker)
        await closing
        assert len(office.received) == 1
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await connect(listener)


async def test_closing_waits_no_longer_than_its_grace() -> None:
    async def forever(_: Received) -> bytes:
        await asyncio.Event().wait()
        return ACK

    async with listening(forever) as listener:
        peer = await connect(listener)
        await say(peer, frame(MESSAGE))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            await listener.close(grace_s=0.1)
        assert await hung_up(peer)


async def test_an_address_in_use_is_told_as_a_wrong_setting() -> None:
    async with listening(Office()) as listener:
        other = MllpListener(
            "127.0.0.1", listener.port, Office(), limit_bytes=1, idle_timeout_s=None, max_connections=1
        )
        with pytest.raises(Misconfigured, match=str(listener.port)):
            await other.start()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One self-signed certificate that plays server, client and authority."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subject = ["-subj", "/CN=ris.example", "-addext", "subjectAltName=DNS:ris.example,IP:127.0.0.1"]
    subprocess.run([*command.split(), *files, *subject], cwd=folder, check=True, capture_output=True)
    return folder


async def test_with_mutual_tls_the_names_of_the_client_are_known_and_strangers_get_nowhere(certificates: Path) -> None:
    cert, key = certificates / "cert.pem", certificates / "key.pem"
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    server.load_cert_chain(cert, key)
    server.verify_mode = ssl.CERT_REQUIRED
    known = ssl.create_default_context(cafile=str(cert))
    known.load_cert_chain(cert, key)
    stranger = ssl.create_default_context(cafile=str(cert))
    office = Office()
    async with listening(office, tls=server) as listener:
        peer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=known)
        await say(peer, frame(MESSAGE))
        assert await hear(peer) == ACK
        assert office.received[0].certificate_names == ("ris.example", "ris.example", "127.0.0.1")
        await hang_up(peer)
        # In TLS 1.3 the client learns only after its handshake that it was turned away.
        other = await asyncio.open_connection("127.0.0.1", listener.port, ssl=stranger)
        other[1].write(frame(MESSAGE))
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await hear(other)
        await hang_up(other)
        assert len(office.received) == 1


async def test_openssl_needs_a_certificate_where_it_is_required_and_new_files_hold_for_new_connections(
    tmp_path: Path,
) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    own, known, stranger = authority.issue("server"), clients.issue("known"), authority.issue("stranger")
    office = Office()

    def said(port: int, *identity: str | Path, trusted: Authority = authority) -> bytes:
        """What comes back for one message, until the listener closes the idle connection."""
        where = ("-connect", f"127.0.0.1:{port}", "-CAfile", trusted.certificate, "-verify_return_error")
        done = subprocess.run(
            ["openssl", "s_client", "-quiet", *where, *identity],
            input=frame(MESSAGE),
            capture_output=True,
            check=False,
            timeout=20,
        )
        return done.stdout

    context = server_context(ServerTls(own.certificate, own.key, clients.certificate))
    heard: list[str] = []
    async with listening(
        office, tls=context, idle_timeout_s=0.5, turned_away=lambda _, why: heard.append(why)
    ) as listener:
        identity = ("-cert", known.certificate, "-key", known.key)
        assert await asyncio.to_thread(said, listener.port, *identity) == frame(ACK)
        assert await asyncio.to_thread(said, listener.port) == b""
        wrong = ("-cert", stranger.certificate, "-key", stranger.key)
        assert await asyncio.to_thread(said, listener.port, *wrong) == b""
        assert await asyncio.to_thread(said, listener.port, *identity, "-tls1_2") == b""
        assert len(office.received) == 1
        assert heard == [
            "TLS handshake failed: peer did not return a certificate",
            "TLS handshake failed: certificate verify failed",
            "TLS handshake failed: unsupported protocol",
        ]

        later = Authority(tmp_path, "later")
        later.issue("server", into=own)
        assert await asyncio.to_thread(said, listener.port, *identity) == b""
        assert await asyncio.to_thread(said, listener.port, *identity, trusted=later) == frame(ACK)


async def test_any_number_of_broken_peers_does_not_disturb_the_others() -> None:
    async with listening(Office(), max_connections=64) as listener:
        good = await connect(listener)
        for noise in (b"", b"\x0b", b"\x1c\r", b"\x0b\x1c", b"\x00" * 1000, b"\x0bMSH" * 100, b"\x0b\x1c\r"):
            bad = await connect(listener)
            await say(bad, noise)
            await hang_up(bad)
            await say(good, frame(MESSAGE))
            assert await hear(good) == ACK
        await hang_up(good)


async def test_the_client_of_another_library_is_served() -> None:
    office = Office()

    def deliver(port: int) -> bytes:
        with MLLPClient("127.0.0.1", port) as client:
            reply: bytes = client.send_message(MESSAGE)
            return reply

    async with listening(office) as listener:
        assert await asyncio.to_thread(deliver, listener.port) == frame(ACK)
        assert office.received[0].raw == MESSAGE
