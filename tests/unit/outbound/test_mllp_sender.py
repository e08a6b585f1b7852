"""The MLLP sender over real sockets: accepted, refused, or not reached."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import hl7
import pytest
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server

from wetread.errors import InvalidInput, PeerUnavailable, Refused
from wetread.outbound.mllp import MllpConnection, RefusedByPeer, send
from wetread.wire.mllp import frame


def message(control_id: str = "MSG1", text: str = "critical") -> bytes:
    return (
        f"MSH|^~\\&|WETREAD|AI|EHR|HOSP|20260304||ORU^R01^ORU_R01|{control_id}|P|2.5.1||||||UNICODE UTF-8\r"
        f"OBX|1|TX|X||{text}||||||P\r"
    ).encode()


def reply(code: str = "AA", control_id: str = "MSG1", rest: str = "") -> bytes:
    return frame(f"MSH|^~\\&|EHR|HOSP|WETREAD|AI|20260304||ACK|7|P|2.5.1\rMSA|{code}|{control_id}{rest}\r".encode())


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A destination that plays a script for each connection; `port` is where."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0


@asynccontextmanager
async def playing(script: Script) -> AsyncIterator[Peer]:
    peer = Peer(0)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        await server.wait_closed()


def answering(*answers: bytes) -> Script:
    """Each answer to one message, in turn, on one connection; then the connection closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\x1c\r")
            writer.write(answer)
            await writer.drain()

    return script


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


@pytest.mark.parametrize("code", ["AA", "CA"])
async def test_an_accepted_message_gives_its_acknowledgement(code: str) -> None:
    async with playing(answering(reply(code, rest="|all well"))) as peer:
        ack = await send("127.0.0.1", peer.port, message(), timeout_s=5)
    assert (ack.code, ack.control_id, ack.text) == (code, "MSG1", "all well")
    assert ack.raw == reply(code, rest="|all well")[1:-2]


@pytest.mark.parametrize("code", ["AE", "AR", "CE", "CR"])
async def test_a_refusal_is_final_and_keeps_code_error_and_place_but_no_free_text(code: str) -> None:
    rest = "|no such patient Roe\rERR||PID^1^3|204^Unknown key^HL70357|E||||Roe"
    async with playing(answering(reply(code, rest=rest))) as peer:
        with pytest.raises(Refused, match=rf"answered {code} with error 204 at PID\^1\^3\.$") as refused:
            await send("127.0.0.1", peer.port, message(), timeout_s=5)
    assert "Roe" not in str(refused.value)
    assert isinstance(refused.value, RefusedByPeer)
    assert refused.value.ack.text == "no such patient Roe"


async def test_an_old_error_segment_is_understood() -> None:
    rest = "\rERR|ORC^1^2^101&Required field missing&HL70357"
    async with playing(answering(reply("AE", rest=rest))) as peer:
        with pytest.raises(RefusedByPeer, match=r"with error 101 at ORC\^1\^2") as refused:
            await send("127.0.0.1", peer.port, message(), timeout_s=5)
    assert refused.value.ack.text == "Required field missing"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply(control_id="OTHER"), "MSA-2"),
        (reply("AR", control_id=""), "MSA-2"),
        (reply("XX"), "code"),
        (frame(b""), "not an HL7 message"),
        (frame(b"thank you"), "not an HL7 message"),
        (frame(b"MSH|^~\\&|A\r"), "no MSA"),
        (b"", "without an answer"),
        (b"OK\r\n", "without an answer"),
        (b"\x0bMSH|^~\\&|A", "broke off"),
        (b"z" * 200_000, "not an MLLP"),
    ],
)
async def test_anything_but_an_answer_to_this_message_is_worth_another_try(answer: bytes, why: str) -> None:
    async with playing(answering(answer)) as peer:
        with pytest.raises(PeerUnavailable, match=why):
            await send("127.0.0.1", peer.port, message(), timeout_s=5)


async def test_no_answer_in_time_is_worth_another_try() -> None:
    async with playing(silent) as peer:
        with pytest.raises(PeerUnavailable, match=r"within 0\.1 s"):
            await send("127.0.0.1", peer.port, message(), timeout_s=0.1)


async def test_nobody_at_the_address_is_worth_another_try() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnavailable, match="cannot be reached"):
            await send("127.0.0.1", reserved.getsockname()[1], message(), timeout_s=5)


async def test_a_message_without_a_control_id_is_never_sent() -> None:
    with pytest.raises(InvalidInput, match="control id"):
        await send("127.0.0.1", 1, message(""), timeout_s=5)


async def test_a_kept_connection_carries_many_messages_one_at_a_time() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            received = await reader.readuntil(b"\x1c\r")
            writer.write(reply(control_id=received.split(b"|")[9].decode()))
            await writer.drain()

    async with playing(echo) as peer:
        connection = MllpConnection("127.0.0.1", peer.port)
        sends = (send("127.0.0.1", peer.port, message(f"M{n}"), timeout_s=5, connection=connection) for n in range(20))
        assert [ack.control_id for ack in await asyncio.gather(*sends)] == [f"M{n}" for n in range(20)]
        assert peer.connections == 1
        await connection.close()


async def test_a_refusal_leaves_the_kept_connection_open() -> None:
    async with playing(answering(reply("AE", "M1"), reply("AA", "M2"))) as peer:
        connection = MllpConnection("127.0.0.1", peer.port)
        with pytest.raises(RefusedByPeer):
            await connection.exchange(message("M1"), timeout_s=5)
        assert (await connection.exchange(message("M2"), timeout_s=5)).code == "AA"
        assert peer.connections == 1
        await connection.close()


async def test_a_kept_connection_that_the_peer_closed_is_opened_again() -> None:
    async with playing(answering(reply())) as peer:
        connection = MllpConnection("127.0.0.1", peer.port)
        for _ in range(3):
            assert (await connection.exchange(message(), timeout_s=5)).code == "AA"
        assert peer.connections == 3
        await connection.close()


async def test_an_answer_that_comes_too_late_is_never_taken_for_the_next_one() -> None:
    late = asyncio.Event()

    async def slow_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.readuntil(b"\x1c\r")
        if b"|M1|" in received:
            await late.wait()
        writer.write(reply(control_id=received.split(b"|")[9].decode()))
        await writer.drain()

    async with playing(slow_once) as peer:
        connection = MllpConnection("127.0.0.1", peer.port)
        with pytest.raises(PeerUnavailable):
            await connection.exchange(message("M1"), timeout_s=0.1)
        late.set()
        assert (await connection.exchange(message("M2"), timeout_s=5)).control_id == "M2"
        await connection.close()


async def test_the_server_of_another_library_is_understood() -> None:
    seen: list[hl7.Message] = []

    async def serve(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        received = await reader.readmessage()
        seen.append(received)
        writer.writemessage(received.create_ack())
        await writer.drain()
        writer.close()

    server = await start_hl7_server(serve, host="127.0.0.1", port=0, encoding="utf-8")
    async with server:
        ack = await send("127.0.0.1", server.sockets[0].getsockname()[1], message(text="Zoë"), timeout_s=5)
    assert ack.code == "AA"
    assert str(seen[0].segment("OBX")[5]) == "Zoë"
