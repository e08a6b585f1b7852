"""The MLLP sender: one message out, its acknowledgement back, told apart as accepted, refused or not reached."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from wetread.errors import InvalidInput, PeerUnavailable, Refused
from wetread.wire.hl7 import Message, parse
from wetread.wire.hl7_ack import recover_control_id
from wetread.wire.mllp import Deframer, Frame, Junk, Oversize, frame
from wetread.wire.tls import Contexts

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial: TypeAlias = Callable[[], Awaitable[Streams]]
"""Opens a connection, TLS included. Raises OSError and PeerUnavailable."""

_REPLY_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024
_CLOSE_S = 2.0
_ACCEPTED = ("AA", "CA")
_REFUSED = ("AE", "AR", "CE", "CR")


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement: MSA-1, MSA-2, what it says in words (may hold patient data), and all of it."""

    code: str
    control_id: str
    text: str = field(repr=False)
    raw: bytes = field(repr=False)


class RefusedByPeer(Refused):
    """The destination answered AE, AR, CE or CR: sending the same again is of no use. `ack` is its answer."""

    code = "refused-by-peer"
    http_status = 502

    def __init__(self, message: str, ack: Ack) -> None:
        super().__init__(message)
        self.ack = ack


class MllpConnection:
    """A connection to one destination, opened when first needed and kept open; one message at a time.

    A connection that is in doubt (timeout, wrong answer) is never used again, so that a late ACK cannot be taken for
    the next message's.
    """

    def __init__(self, host: str, port: int, *, tls: Contexts | None = None, dial: Dial | None = None) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self._dial = dial or self._connect
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    async def open(self, *, timeout_s: float) -> None:
        """Connects, TLS included, where the connection is not open; sends nothing. Raises PeerUnavailable."""
        async with self._in_turn(timeout_s):
            if not self._is_open():
                self._abandon()
                self._streams = await self._dial()

    async def exchange(self, message: bytes, *, timeout_s: float) -> Ack:
        """Send and wait for the answer, connecting included, at most `timeout_s`.

        Raises RefusedByPeer for AE, AR, CE and CR; PeerUnavailable when there is no connection, no answer in time, or
        none that answers this message; InvalidInput when the message has no MSH-10.
        """
        expected = recover_control_id(message)
        if not expected:
            raise InvalidInput("A message to send needs a control id.", location="MSH^1^10")
        framed = frame(message)
        async with self._in_turn(timeout_s):
            reply = await self._round_trip(framed)
            ack, detail = self._understand(reply, expected)
        if ack.code in _REFUSED:
            raise RefusedByPeer(f"{self.name} answered {ack.code}{detail}.", ack)
        return ack

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is None:
            return
        streams[1].close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await streams[1].wait_closed()
        except (OSError, TimeoutError):
            streams[1].transport.abort()

    @contextlib.asynccontextmanager
    async def _in_turn(self, timeout_s: float) -> AsyncIterator[None]:
        """Alone on the connection, which is given up where anything goes wrong. Waiting for the turn takes no more than
        `timeout_s` either."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._lock.acquire()
        except TimeoutError:
            raise PeerUnavailable(f"{self.name} is busy with other messages.") from None
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            self._abandon()
            raise PeerUnavailable(f"{self.name} did not answer within {timeout_s:g} s.") from None
        except OSError as error:
            self._abandon()
            raise PeerUnavailable(f"{self.name} cannot be reached: {_reason(error)}.") from None
        except BaseException:
            self._abandon()
            raise
        finally:
            self._lock.release()

    def _is_open(self) -> bool:
        kept = self._streams
        return kept is not None and not kept[0].at_eof() and not kept[1].is_closing()

    async def _connect(self) -> Streams:
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self._tls() if self._tls else None)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return reader, writer

    async def _round_trip(self, framed: bytes) -> bytes:
        if self._streams is not None and self._is_open():
            try:
                return await self._ask(*self._streams, framed)
            except ConnectionError:
                # The peer gave up the idle connection as we wrote; nothing tells that this message is at fault.
                pass
        self._abandon()
        self._streams = await self._dial()
        return await self._ask(*self._streams, framed)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, framed: bytes) -> bytes:
        writer.write(framed)
        await writer.drain()
        deframer = Deframer(_REPLY_BYTES)
        while data := await reader.read(_READ_BYTES):
            for event in deframer.feed(data):
                if isinstance(event, Frame):
                    return event.payload
                if isinstance(event, Oversize) or (isinstance(event, Junk) and event.excessive):
                    raise PeerUnavailable(f"{self.name} answered with something that is not an MLLP acknowledgement.")
        if deframer.in_frame:
            raise PeerUnavailable(f"{self.name} broke off its answer.")
        raise ConnectionResetError(0, "it closed the connection without an answer")

    def _understand(self, reply: bytes, expected: str) -> tuple[Ack, str]:
        try:
            message = parse(reply)
        except InvalidInput:
            raise PeerUnavailable(f"The answer of {self.name} is not an HL7 message.") from None
        msa = message.first("MSA")
        if msa is None:
            raise PeerUnavailable(f"The answer of {self.name} has no MSA segment.")
        code = msa.value(1).strip().upper()
        if expected not in (msa.raw(2).strip(), msa.value(2)):
            raise PeerUnavailable(f"{self.name} answered another message: MSA-2 is not what was sent.")
        if code not in _ACCEPTED + _REFUSED:
            raise PeerUnavailable(f"The answer of {self.name} has no known acknowledgement code.")
        return Ack(code, expected, _text(message), reply), _detail(message)

    def _abandon(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def send(
    host: str,
    port: int,
    message: bytes,
    *,
    timeout_s: float,
    tls: Contexts | None = None,
    connection: MllpConnection | None = None,
) -> Ack:
    """Send one message, on `connection` when given (then host, port and tls are its own), else on one just for it.

    Raises as `MllpConnection.exchange`.
    """
    if connection is not None:
        return await connection.exchange(message, timeout_s=timeout_s)
    once = MllpConnection(host, port, tls=tls)
    try:
        return await once.exchange(message, timeout_s=timeout_s)
    finally:
        await once.close()


def _reason(error: OSError) -> str:
    """What the system says; of a certificate, OpenSSL's own words."""
    told = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return told or type(error).__name__


def _text(message: Message) -> str:
    msa, err = message.first("MSA"), message.first("ERR")
    said = msa.value(3) if msa else ""
    return said or (err.value(8) or err.value(3, 2) or err.value(1, 4, 2) if err else "")


def _detail(message: Message) -> str:
    """Error code and place, when they look like ones: never free text, in which peers repeat values."""
    err = message.first("ERR")
    if err is None:
        return ""
    code = err.value(3) or err.value(1, 4)
    place = "^".join(err.value(2, part) or err.value(1, part) for part in (1, 2, 3)).rstrip("^")
    said = f" with error {code}" if re.fullmatch(r"\d{1,5}", code) else ""
    return said + (f" at {place}" if re.fullmatch(r"[A-Z][A-Z0-9]{2}(\^\d{1,4}){0,2}", place) else "")
