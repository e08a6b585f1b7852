"""HL7 v2 batches (2.5.1 2.10.3): a file or a request body with FHS, BHS, messages, BTS and FTS."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from itertools import pairwise

_ENVELOPE = (b"FHS", b"BHS", b"BTS", b"FTS")
_AROUND = b" \t\r\n\x0b\x1c"
_NAMES = rb"(?=(?:MSH|FHS|BHS|BTS|FTS)(?:[^A-Za-z0-9]|\Z))"
_AFTER_CR = re.compile(rb"(?<=\r)\n?" + _NAMES)
_AFTER_LF = re.compile(rb"(?<=\n)" + _NAMES)


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages of a batch in order, as received; `warnings` say which trailer's count is wrong."""

    messages: tuple[bytes, ...]
    warnings: tuple[str, ...]


def split_batch(raw: bytes) -> tuple[bytes, ...]:
    """The messages in these bytes, which may also be one message without an envelope."""
    return read_batch(raw).messages


def read_batch(raw: bytes) -> Batch:
    """The messages in these bytes and what is wrong with the envelope.

    A member that cannot be read is still a member, so that it gets its own answer and the rest goes on. A line feed
    ends segments only where there is no carriage return, as in a message.
    """
    body = raw.removeprefix(codecs.BOM_UTF8).strip(_AROUND)
    boundary = _AFTER_CR if b"\r" in body else _AFTER_LF
    cuts = [0, *(match.end() for match in boundary.finditer(body)), len(body)]
    messages: list[bytes] = []
    warnings: list[str] = []
    in_batch = batches = 0
    for start, end in pairwise(cuts):
        piece = body[start:end].strip(_AROUND)
        name = piece[:3]
        if name == b"BHS":
            batches += 1
            in_batch = 0
        elif name == b"BTS" and _count(piece) not in (None, in_batch):
            warnings.append(f"BTS-1 of batch {batches} does not match its {in_batch} messages")
        elif name == b"FTS" and _count(piece) not in (None, batches):
            warnings.append(f"FTS-1 does not match the {batches} batches of the file")
        elif piece and name not in _ENVELOPE:
            messages.append(piece)
            in_batch += 1
    return Batch(tuple(messages), tuple(warnings))


def _count(trailer: bytes) -> int | None:
    fields = re.split(rb"[^0-9A-Za-z]", trailer, maxsplit=2)
    return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else None
