"""MLLP framing (HL7 Minimal Lower Layer Protocol, release 1) without sockets: VT message FS CR.

Frames never depend on how the network cut the bytes. A message beyond the limit is not held in memory: its first
bytes, its size and its digest are kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

VT = b"\x0b"
FS = b"\x1c"
CR = b"\r"
END = FS + CR

HEAD_BYTES = 64 * 1024
JUNK_BYTES = 64 * 1024

_RESTART = VT + b"MSH"


def frame(message: bytes) -> bytes:
    """The message in its frame. VT or FS inside it would end it early, so such bytes are a ValueError."""
    if VT in message or FS in message:
        raise ValueError("An MLLP message must not contain the bytes VT (0x0B) or FS (0x1C).")
    return VT + message + END


@dataclass(frozen=True, slots=True)
class Frame:
    """One message as received."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Oversize:
    """A message beyond the limit: its first 64 kB, and the SHA-256 (hexadecimal) and size in bytes of all of it."""

    head: bytes = field(repr=False)
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes outside a frame, ignored. `excessive`: so many without a VT that the peer does not speak MLLP."""

    size: int
    excessive: bool


@dataclass(frozen=True, slots=True)
class Truncated:
    """A frame that never ended: the peer closed, or began a new one. `head` is at most its first 64 kB."""

    head: bytes = field(repr=False)
    size: int


Event = Frame | Oversize | Junk | Truncated


class Deframer:
    """Bytes of one connection in, events out. `limit` is the largest message, in bytes, that is delivered whole."""

    def __init__(self, limit: int, *, junk_limit: int = JUNK_BYTES) -> None:
        self._limit = limit
        self._junk_limit = junk_limit
        self._junk = 0
        self._open = False
        self._buffer = bytearray()
        self._excess: _Excess | None = None

    @property
    def in_frame(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._open

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes complete, in order."""
        events: list[Event] = []
        position = 0
        while position < len(data):
            position = self._inside(data, position, events) if self._open else self._outside(data, position, events)
        return events

    def close(self) -> list[Event]:
        """What the end of the connection leaves: the frame in hand, if there is one, is truncated."""
        if not self._open:
            return []
        head, size = bytes(self._buffer[:HEAD_BYTES]), len(self._buffer)
        if self._excess is not None:
            head, size = self._excess.head, self._excess.size + size
        self._begin(opened=False)
        return [Truncated(head, size)]

    def _begin(self, *, opened: bool) -> None:
        self._open = opened
        self._buffer = bytearray()
        self._excess = None
        self._junk = 0

    def _outside(self, data: bytes, position: int, events: list[Event]) -> int:
        start = data.find(VT, position)
        end = len(data) if start < 0 else start
        size = end - position - data.count(b"\r", position, end) - data.count(b"\n", position, end)
        if size:
            self._junk += size
            events.append(Junk(size, self._junk > self._junk_limit))
        if start >= 0:
            self._begin(opened=True)
        return end + 1

    def _inside(self, data: bytes, position: int, events: list[Event]) -> int:
        buffer = self._buffer
        if buffer.endswith(FS) and data.startswith(CR, position):
            del buffer[-1:]
            end, after = position, position + len(CR)
        else:
            end = data.find(END, position)
            after = end + len(END)
        if end < 0:
            buffer += data[position:]
            self._spill()
            return len(data)
        buffer += data[position:end]
        if self._excess is not None or len(buffer) > self._limit:
            excess = self._excess or _Excess()
            excess.add(buffer)
            events.append(Oversize(excess.head, excess.digest.hexdigest(), excess.size))
        else:
            events.extend(_resynchronised(bytes(buffer)))
        self._begin(opened=False)
        return after

    def _spill(self) -> None:
        """Digest what is beyond the limit; a last FS stays, since the CR that makes it an end may come next."""
        size = len(self._buffer) - self._buffer.endswith(FS)
        if self._excess is None and size <= self._limit:
            return
        self._excess = self._excess or _Excess()
        self._excess.add(self._buffer[:size])
        del self._buffer[:size]


class _Excess:
    __slots__ = ("digest", "head", "size")

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.head = b""
        self.size = 0

    def add(self, data: bytearray) -> None:
        if len(self.head) < HEAD_BYTES:
            self.head += bytes(data[: HEAD_BYTES - len(self.head)])
        self.digest.update(data)
        self.size += len(data)


def _resynchronised(payload: bytes) -> list[Event]:
    """A sender that broke off and began again leaves the start of a new message inside the frame: take that one."""
    restart = payload.rfind(_RESTART)
    if restart < 0:
        return [Frame(payload)]
    return [Truncated(payload[:restart][:HEAD_BYTES], restart), Frame(payload[restart + 1 :])]
