"""MIME multipart/related as DICOMweb uses it (RFC 2387, PS3.18 8.6): parts out of a stream of chunks.

Forgiving where real clients err: quoted or bare parameters in any order, a preamble, LF for CRLF, white space after the
boundary, nothing after the closing one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from wetread.errors import InvalidInput, TooLarge

_PARAMETER = re.compile(r""";\s*([A-Za-z0-9_.-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))""")
_HEAD_BYTES = 16 * 1024


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """A Content-Type, or one entry of an Accept: the type in lower case, and its parameters by lower-case name."""
    kind, _, rest = header.partition(";")
    parameters = {
        found[1].lower(): re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
        for found in _PARAMETER.finditer(f";{rest}")
    }
    return kind.strip().lower(), parameters


@dataclass(frozen=True, slots=True)
class Part:
    """`headers` by lower-case name."""

    headers: dict[str, str]
    body: bytes


class Parts:
    """Feed it chunks; it gives each part when its end has been seen. Holds at most one part, of `limit_bytes`."""

    def __init__(self, boundary: str, limit_bytes: int) -> None:
        if not 0 < len(boundary) <= 70 or not boundary.isascii():
            raise InvalidInput("multipart/related needs a boundary parameter of at most 70 characters (RFC 2046 5.1.1)")
        self._delimiter = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary.encode()) + rb"(--|[ \t]*\r?\n)")
        self._overlap = len(boundary) + 80
        self._limit = limit_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._in_part = False
        self._ended = False

    def feed(self, chunk: bytes) -> Iterator[Part]:
        """The parts that this chunk completes. Raises TooLarge, or InvalidInput for a part without a header block."""
        if self._ended:
            return
        self._buffer += chunk
        while not self._ended and (found := self._delimiter.search(self._buffer, self._searched)):
            if self._in_part:
                self._check_size(found.start())
                yield self._part(bytes(memoryview(self._buffer)[: found.start()]))
            self._in_part = True
            self._ended = found[1] == b"--"
            # The line end stays: a part without headers begins with it, and so does the next search.
            del self._buffer[: found.end()]
            self._searched = 0
        self._check_size(len(self._buffer))
        self._searched = max(0, len(self._buffer) - self._overlap)

    def close(self) -> None:
        """Raises InvalidInput when the stream ended before its closing boundary."""
        if not self._ended:
            raise InvalidInput("the multipart body is cut short: its closing boundary is missing")

    def _check_size(self, size: int) -> None:
        if size > self._limit + _HEAD_BYTES:
            raise TooLarge(f"one part holds at most {self._limit} bytes")

    def _part(self, raw: bytes) -> Part:
        if raw[:1] == b"\n" or raw[:2] == b"\r\n":
            return Part({}, raw[raw.index(b"\n") + 1 :])
        end = re.search(rb"\r?\n\r?\n", raw[:_HEAD_BYTES])
        if end is None:
            raise InvalidInput("a part has no empty line after its headers (RFC 2046 5.1)")
        lines = raw[: end.start()].decode("latin-1").splitlines()
        pairs = (line.partition(":") for line in lines)
        return Part({name.strip().lower(): value.strip() for name, _, value in pairs}, raw[end.end() :])
