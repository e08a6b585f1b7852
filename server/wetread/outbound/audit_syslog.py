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
import time
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
_SETTLED_S = 0.1
"""A repository that breaks off while it reads a batch gets all of it again."""


class SyslogSink:
    """Its socket blocks, in threads: so that it is known when the last byte has gone to the network."""

    def __init__(self, name: str, host: str, port: int, contexts: Contexts) -> None:
        self.name = f"syslog:{name}"
        self._host, self._port, self._contexts = host, port, contexts
        self._connection: ssl.SSLSocket | None = None

    async def last(self) -> str | None:
        """A repository is not asked."""
        return None

    async def take(self, records: Sequence[Chained]) -> None:
        """Raises PeerUnavailable."""
        if records:
            await asyncio.to_thread(self._send, b"".join(framed(message(record)) for record in records))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(_ended, connection)

    def _send(self, content: bytes) -> None:
        try:
            if self._connection is None:
                self._connection = self._connected()
            _require_open(self._connection, 0)
            self._connection.sendall(content)
            _require_arrival(self._connection)
            _require_open(self._connection, _SETTLED_S)
        except OSError as error:  # ssl.SSLError and TimeoutError are of its kind
            raise PeerUnavailable("the audit record repository does not take messages now") from error

    def _connected(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self._host, self._port), _TIMEOUT_S)
        try:
            connection = self._contexts().wrap_socket(plain, server_hostname=self._host)
        except OSError:
            plain.close()
            raise
        try:
            _require_open(connection, _REFUSAL_S)
        except OSError:
            connection.close()
            raise
        return connection


def _ended(connection: ssl.SSLSocket) -> None:
    """With TLS's own farewell, where the peer still listens (RFC 5425 4.4)."""
    connection.settimeout(1.0)
    with contextlib.suppress(OSError):
        connection.unwrap()
    connection.close()


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


def _require_open(connection: ssl.SSLSocket, wait_s: float) -> None:
    """A repository never says anything; so what can be read within this time is its end. Raises OSError."""
    connection.settimeout(wait_s)
    try:
        if not connection.recv(1):
            raise ConnectionResetError
    except (TimeoutError, ssl.SSLWantReadError):
        pass
    finally:
        connection.settimeout(_TIMEOUT_S)


def _require_arrival(connection: ssl.SSLSocket) -> None:
    """Waits until the peer's machine has acknowledged every byte. Raises OSError."""
    deadline = time.monotonic() + _TIMEOUT_S
    while _unacknowledged(connection):
        if time.monotonic() > deadline:
            raise TimeoutError
        _require_open(connection, _ASK_S)


def _unacknowledged(connection: ssl.SSLSocket) -> int:
    """Bytes in the socket's queue (SIOCOUTQ, tcp(7)); 0 where the system does not tell."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]
