"""The audit record to an audit record repository: DICOM audit messages by syslog over TLS (RFC 5425, RFC 5424).

Syslog knows no acknowledgement. Records count as sent when the repository's machine has acknowledged their bytes (TCP)
and has not closed the connection; the batch in doubt is sent again, so a record may come twice, but none is lost short
of a crash of the repository itself, and their order is kept.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import socket
import ssl
import termios
from collections.abc import Sequence
from datetime import UTC

from wetread.errors import PeerUnavailable
from wetread.record.audit.dicom_message import audit_message
from wetread.record.audit.stream import Chained
from wetread.wire.tls import Contexts

_PRIORITY = 85  # facility 10 (security), severity 5 (notice): PS3.15 A.6.1
_MESSAGE_ID = "DICOM+RFC3881"  # PS3.15 A.6.1
_BOM = b"\xef\xbb\xbf"  # RFC 5424 6.4: the message is UTF-8
_TIMEOUT_S = 30.0
_REFUSAL_S = 0.3
"""So long a repository has to refuse our certificate, which TLS 1.3 tells only after the handshake (RFC 8446 4.4.2)."""
_ASK_S = 0.01


class SyslogSink:
    def __init__(self, name: str, host: str, port: int, contexts: Contexts) -> None:
        self.name = f"syslog:{name}"
        self._host, self._port, self._contexts = host, port, contexts
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def last(self) -> str | None:
        """A repository is not asked."""
        return None

    async def take(self, records: Sequence[Chained]) -> None:
        """Raises PeerUnavailable."""
        if not records:
            return
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = self._connection or await self._connected()
                self._connection = reader, writer
                _require_open(reader)
                for record in records:
                    writer.write(framed(message(record)))
                    await writer.drain()
                await _arrived(writer)
                _require_open(reader)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            raise PeerUnavailable("the audit record repository does not take messages now") from error

    async def close(self) -> None:
        if self._connection is not None:
            _, writer = self._connection
            self._connection = None
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 2.0)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._contexts(), server_hostname=self._host
        )
        writer.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1), _REFUSAL_S)
        return reader, writer


def message(record: Chained) -> bytes:
    """The syslog message of one record (RFC 5424 6)."""
    at = record.recorded.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    header = f"<{_PRIORITY}>1 {at} {_host_name()} wetread {os.getpid()} {_MESSAGE_ID} - "
    return header.encode("ascii") + _BOM + audit_message(json.loads(record.body))


def framed(content: bytes) -> bytes:
    """With its length in octets before it (RFC 5425 4.3)."""
    return b"%d %b" % (len(content), content)


def _host_name() -> str:
    """PRINTUSASCII, at most 255 (RFC 5424 6.2.4)."""
    name = "".join(character for character in socket.gethostname() if "!" <= character <= "~")
    return name[:255] or "-"


def _require_open(reader: asyncio.StreamReader) -> None:
    if reader.at_eof() or reader.exception() is not None:
        raise ConnectionResetError


async def _arrived(writer: asyncio.StreamWriter) -> None:
    """Waits until the peer's machine has acknowledged every byte."""
    connection: socket.socket = writer.get_extra_info("socket")
    while writer.transport.get_write_buffer_size() or _unacknowledged(connection):  # noqa: ASYNC110
        await asyncio.sleep(_ASK_S)


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes in the socket's queue (SIOCOUTQ, tcp(7)); 0 where the system does not tell."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]
