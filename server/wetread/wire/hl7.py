"""Reading HL7 v2 messages (2.1 to 2.9), lazily and without loss.

Bytes are decoded and cut into segments; fields, repetitions and components are cut when they are asked for. Every
segment is kept, in order, whatever its name: nothing here knows message structures (chapter 4) but `order_groups`.
Time is linear in the size of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from wetread.errors import InvalidInput
from wetread.wire.hl7_batch import split_batch
from wetread.wire.hl7_text import Delimiters, decode, escape, unescape

__all__ = [
    "Delimiters",
    "Message",
    "OrderGroup",
    "Segment",
    "escape",
    "order_groups",
    "parse",
    "split_batch",
    "unescape",
]

NULL = '""'
"""The field value that says delete (2.5.1 2.5.3); an empty field says nothing."""

_BLANK = b" \t\r\n"
_HEADERS = ("MSH", "FHS", "BHS")
_AFTER_BARE_LF = re.compile(r"\n(?=(?:MSH|EVN|PID|PD1|NK1|PV1|PV2|MRG|AL1|DG1|ORC|OBR|OBX|NTE|TQ1|IPC|ZDS|IN1|GT1)(.))")
_NAME = re.compile(r"[A-Z][A-Z0-9]{2}")


class Segment:
    """One segment. Fields, components, subcomponents and repetitions count from 1; MSH-1 is the field separator."""

    __slots__ = ("_charset", "_delimiters", "_fields", "_repetitions", "name", "text")

    def __init__(self, text: str, delimiters: Delimiters, charset: str) -> None:
        self.text = text
        """As received, without its terminator."""
        self.name = text.split(delimiters.field, 1)[0].strip().upper()
        self._delimiters = delimiters
        self._charset = charset
        self._fields: list[str] | None = None
        self._repetitions: dict[int, list[str]] = {}

    def __repr__(self) -> str:
        return f"Segment({self.name})"

    @property
    def fields(self) -> int:
        """How many fields the segment carries."""
        return len(self._cut()) - 1

    def value(self, field: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str:
        """The unescaped text there; empty when it is absent, or null (ask `is_null`)."""
        text = self.raw(field, repetition)
        if self._is_delimiter_field(field):
            return text if component == subcomponent == 1 else ""
        text = _part(_part(text, self._delimiters.component, component), self._delimiters.subcomponent, subcomponent)
        return "" if text == NULL else unescape(text, self._delimiters, self._charset)

    def repetitions(self, field: int) -> int:
        """How often the field repeats; 0 when it is empty or absent."""
        cut = self._cut_repetitions(field)
        return 0 if cut == [""] else len(cut)

    def is_null(self, field: int, component: int | None = None, repetition: int = 1) -> bool:
        """Whether the field (all of it, or one component) is `""`: the sender deletes the value."""
        if component is None:
            return self.raw(field) == NULL
        return _part(self.raw(field, repetition), self._delimiters.component, component) == NULL

    def raw(self, field: int, repetition: int | None = None) -> str:
        """The field, or one repetition of it, as received, with delimiters and escapes; empty when absent."""
        if repetition is None:
            cut = self._cut()
            return cut[field] if 0 < field < len(cut) else ""
        repeated = self._cut_repetitions(field)
        return repeated[repetition - 1] if 0 < repetition <= len(repeated) else ""

    def _is_delimiter_field(self, field: int) -> bool:
        return field <= 2 and self.name in _HEADERS

    def _cut(self) -> list[str]:
        if self._fields is None:
            self._fields = self.text.split(self._delimiters.field)
            if self.name in _HEADERS:
                self._fields.insert(1, self._delimiters.field)
        return self._fields

    def _cut_repetitions(self, field: int) -> list[str]:
        cut = self._repetitions.get(field)
        if cut is None:
            raw = self.raw(field)
            cut = [raw] if self._is_delimiter_field(field) else raw.split(self._delimiters.repetition)
            self._repetitions[field] = cut
        return cut


def _part(text: str, delimiter: str, number: int) -> str:
    parts = text.split(delimiter, number)
    return parts[number - 1] if 0 < number <= len(parts) else ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as received. `charset` is the Python codec its text was read with.

    Neither `warnings` nor the printed form holds patient data.
    """

    raw: bytes = field(repr=False)
    charset: str
    delimiters: Delimiters
    segments: tuple[Segment, ...]
    warnings: tuple[str, ...]

    @property
    def header(self) -> Segment:
        """MSH."""
        return self.segments[0]

    def first(self, name: str) -> Segment | None:
        return next((segment for segment in self.segments if segment.name == name), None)

    def all(self, name: str) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.name == name)

    @property
    def message_code(self) -> str:
        return self.header.value(9)

    @property
    def trigger_event(self) -> str:
        """MSH-9.2, or EVN-1 of an ADT that leaves it empty (2.1)."""
        stated = self.header.value(9, 2)
        if stated or self.message_code != "ADT":
            return stated
        event = self.first("EVN")
        return event.value(1) if event else ""

    @property
    def control_id(self) -> str:
        return self.header.value(10)

    @property
    def version(self) -> str:
        """MSH-12.1."""
        return self.header.value(12)

    @property
    def sending_application(self) -> str:
        return self.header.value(3)

    @property
    def sending_facility(self) -> str:
        return self.header.value(4)

    @property
    def processing_id(self) -> str:
        return self.header.value(11)


def parse(raw: bytes, *, default_charset: str | None = None) -> Message:
    """The message in these bytes (no MLLP frame around them).

    `default_charset`, a Python codec, is what the peer writes when MSH-18 is empty. Raises InvalidInput, with the
    place as its location, when there is no MSH, when its delimiters cannot be, or when the bytes are not of their
    character set.
    """
    body = raw.lstrip(_BLANK)
    text, charset, warnings = decode(body, _declared_charsets(body), default_charset)
    text = text.lstrip()
    if not text.startswith("MSH"):
        raise InvalidInput("The message does not start with an MSH segment.", location="MSH^1")
    separator = text[3:4]
    lines, mixed = _lines(text, separator)
    delimiters = Delimiters.of_header(lines[0])
    segments = tuple(Segment(line, delimiters, charset) for line in lines)
    if mixed:
        warnings += ("Segment terminators are mixed: a line feed before a known segment name was taken as one",)
    if not lines[0].split(separator, 2)[1]:
        warnings += ("MSH-2 is empty: the usual encoding characters were assumed",)
    if any(not _NAME.fullmatch(segment.name) for segment in segments):
        warnings += ("A line does not start with a segment name; it was kept as it came",)
    if any(not segment.text.startswith(segment.name) for segment in segments):
        warnings += ("A segment name is in lower case or indented",)
    return Message(raw, charset, delimiters, segments, warnings)


def _declared_charsets(body: bytes) -> tuple[str, ...]:
    """The repetitions of MSH-18, read before the character set is known (which `decode` finds by itself in UTF-16)."""
    head = body[:100_000]
    # The same rule as `_lines`: beside carriage returns a line feed ends the header only if a segment follows.
    end = rb"\r|\n(?=[A-Z][A-Z0-9]{2}" + re.escape(head[3:4]) + rb")" if b"\r" in head else rb"\n"
    header = re.split(end, head, maxsplit=1)[0].decode("latin-1")
    fields = header.split(header[3:4] or "|", 18)
    if not header.startswith("MSH") or len(fields) < 18:
        return ()
    repetition = fields[1][1:2] or "~"
    return tuple(name.strip() for name in fields[17].split(repetition))


def _lines(text: str, separator: str) -> tuple[list[str], bool]:
    """The segments' text, and whether terminators were mixed.

    Carriage return ends a segment (2.5.1 2.5.1); line feed does where there is no carriage return at all. In a message
    with carriage returns a line feed is data, unless a known segment name and the separator follow it.
    """
    if "\r" not in text:
        return [line for line in text.split("\n") if line.strip()], False
    lines = [line.strip("\n") for line in text.split("\r")]
    mixed = False
    kept: list[str] = []
    for line in lines:
        if "\n" in line:
            pieces = _cut_at_bare_line_feeds(line, separator)
            mixed = mixed or len(pieces) > 1
            kept += pieces
        else:
            kept.append(line)
    return [line for line in kept if line.strip()], mixed


def _cut_at_bare_line_feeds(line: str, separator: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    for match in _AFTER_BARE_LF.finditer(line):
        # "PID" may be the last line of a free text (pelvic inflammatory disease), and there it is no segment.
        in_free_text = line.startswith(("OBX", "NTE"), start) and line.startswith("PID", match.end())
        if match[1] == separator and not in_free_text:
            pieces.append(line[start : match.start()])
            start = match.end()
    return [*pieces, line[start:]]


@dataclass(frozen=True, slots=True)
class OrderGroup:
    """One order of a message, with everything that belongs to it, in the order received."""

    segments: tuple[Segment, ...]

    def first(self, name: str) -> Segment | None:
        return next((segment for segment in self.segments if segment.name == name), None)

    def all(self, name: str) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.name == name)


_PATIENT_LEVEL = frozenset({"MSH", "PID", "PD1", "PV1", "PV2", "MRG", "NK1", "IN1", "IN2", "IN3", "GT1", "AL1"})
_MAY_LEAD = frozenset({"ZDS", "IPC", "DG1"})


def order_groups(message: Message) -> tuple[OrderGroup, ...]:
    """The orders of a message, whatever its structure says (2.5.1 4.4.1, 4.4.6; IHE RAD-4).

    Each ORC opens one, or each OBR where there is no ORC. A second OBR under one ORC opens another group that
    carries the same ORC, so that no procedure is lost. All that follows attaches to the open group up to the next
    patient level segment; ZDS, IPC and DG1 that stand before the only order attach to it.
    """
    groups: list[list[Segment]] = []
    leading: list[Segment] = []
    open_group: list[Segment] | None = None
    for segment in message.segments:
        if segment.name == "ORC":
            open_group = [segment]
            groups.append(open_group)
        elif segment.name == "OBR" and (open_group is None or _has(open_group, "OBR")):
            open_group = [*_control(open_group or ()), segment]
            groups.append(open_group)
        elif open_group is not None and segment.name not in _PATIENT_LEVEL:
            open_group.append(segment)
        elif segment.name in _MAY_LEAD:
            leading.append(segment)
        elif segment.name == "PID":
            open_group = None
    if len(groups) == 1:
        groups[0] += leading
    return tuple(OrderGroup(tuple(group)) for group in groups)


def _has(group: list[Segment], name: str) -> bool:
    return any(segment.name == name for segment in group)


def _control(group: list[Segment] | tuple[()]) -> Iterator[Segment]:
    return (segment for segment in group if segment.name == "ORC")
