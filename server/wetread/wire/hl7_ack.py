"""The verdict on an HL7 v2 message before it is stored, and the acknowledgement that tells it (2.5.1 2.9.2, 2.13).

Only what can never succeed is refused: senders treat AE and AR as final. Content that a later step cannot map is not
judged here. No text made here holds a value of the message, so an ACK carries no patient data beyond what MSH holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import Literal

from wetread.errors import InvalidInput, WetreadError
from wetread.wire.hl7 import Delimiters, Message, OrderGroup, Segment, escape, order_groups

Severity = Literal["E", "W"]
AckCode = Literal["AA", "AE", "AR"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TABLE_0357: Mapping[str, str] = MappingProxyType(
    {
        "100": "Segment sequence error",
        "101": "Required field missing",
        "102": "Data type error",
        "103": "Table value not found",
        "200": "Unsupported message type",
        "201": "Unsupported event code",
        "202": "Unsupported processing id",
        "203": "Unsupported version id",
        "204": "Unknown key identifier",
        "205": "Duplicate key identifier",
        "206": "Application record locked",
        "207": "Application internal error",
    }
)
TABLE_0119 = _words(
    "AF CA CH CN CP CR DC DE DF DR FU HD HR LI MC NA NW OC OD OE OF OH OK OP OR PA PR PY RE RF RL RO RP RQ RR RU SC "
    "SN SR SS UA UC UD UF UH UM UN UR UX XO XR XX"
)
"""Order control codes, ORC-1."""

_HEADER_CODES = ("200", "201", "202", "203")
_MAX_FAULTS = 10
_MAX_CONTROL_ID = 199
_MAX_ECHO = 1000
_NEW_ORDER = frozenset({"NW", "RO", "SN", "CH"})
_ORDER_NUMBERS = (("ORC", 2), ("ORC", 3), ("OBR", 2), ("OBR", 3), ("OBR", 18), ("IPC", 1))
_ORDER_LEVEL = ("ORC", "OBR", "IPC", "TQ1")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: `sequence` counts segments of that name from 1; `code` is of table 0357."""

    segment: str
    sequence: int
    field: int | None
    component: int | None
    code: str
    text: str
    severity: Severity = "E"


@dataclass(frozen=True, slots=True)
class Verdict:
    """AA: stored and to be worked on. AE: content refused. AR: header refused. Faults may be warnings under AA."""

    code: AckCode
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Required:
    """A segment that must be there, and its fields; each entry of `fields` lists alternatives, one must be valued.

    With `controls` it holds only for orders whose ORC-1 is one of them.
    """

    segment: str
    fields: tuple[tuple[int, ...], ...] = ()
    controls: frozenset[str] = frozenset()


_PATIENT = Required("PID", ((3, 2, 4),))
_MERGE = (_PATIENT, Required("MRG", ((1,),)))
_ORDER = (
    Required("PID", ((3, 2, 4),), _NEW_ORDER),
    Required("ORC", ((1,),)),
    Required("OBR", ((4,),), _NEW_ORDER),
)
_REQUIRED: Mapping[str, tuple[Required, ...]] = MappingProxyType(
    {f"ADT^{event}": (_PATIENT,) for event in ("A01", "A03", "A04", "A05", "A08", "A11", "A13")}
    | {"ADT^A40": _MERGE, "ORM^O01": _ORDER, "OMI^O23": _ORDER, "OMG^O19": _ORDER}
)
_VERSIONS = _words("2.1 2.2 2.3 2.3.1 2.4 2.5 2.5.1 2.6 2.7 2.7.1 2.8 2.8.1 2.8.2 2.9 2.9.1")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a listener takes: the defaults fit an imaging order feed (IHE RAD-1, RAD-4, RAD-12) in production.

    A cancel with ORC alone is legal (2.5.1 4.5.1), so PID and OBR are asked of new orders only. PID-2 and PID-4 held
    the patient's identifiers before 2.3.1. A trigger without an entry in `required` is taken as it is.
    """

    versions: frozenset[str] = _VERSIONS
    triggers: frozenset[str] = frozenset(_REQUIRED)
    processing_ids: frozenset[str] = frozenset({"P"})
    order_controls: frozenset[str] = TABLE_0119
    required: Mapping[str, tuple[Required, ...]] = field(default_factory=lambda: _REQUIRED)


def judge(message: Message, accepted: Accepted) -> Verdict:
    """The verdict on a message that could be parsed; at most ten faults. Never raises."""
    header = tuple(_header_faults(message, accepted))
    if header:
        return Verdict("AR", header)
    faults = tuple(islice(_content_faults(message, accepted), _MAX_FAULTS))
    return Verdict("AE" if any(fault.severity == "E" for fault in faults) else "AA", faults)


def refusal(error: WetreadError) -> Verdict:
    """The verdict on a message that could not be parsed, or that a rule outside this module refuses."""
    place = [part for part in (error.location or "").split("^") if part] or ["MSH", "1"]
    numbers = [int(part) if part.isdigit() else None for part in place[1:4]] + [None] * 3
    broken_structure = isinstance(error, InvalidInput) and numbers[1] is None
    code = "100" if broken_structure else error.hl7_error
    fault = Fault(place[0], numbers[0] or 1, numbers[1], numbers[2], code, error.message)
    return Verdict("AR" if code in _HEADER_CODES else "AE", (fault,))


def _header_faults(message: Message, accepted: Accepted) -> Iterator[Fault]:
    code, event = message.message_code, message.trigger_event
    if not any(trigger.startswith(f"{code}^") for trigger in accepted.triggers):
        yield Fault("MSH", 1, 9, 1, "200", "The message type is missing or not accepted here.")
    elif f"{code}^{event}" not in accepted.triggers:
        yield Fault("MSH", 1, 9, 2, "201", "The trigger event is missing or not accepted here.")
    if message.processing_id not in accepted.processing_ids:
        yield Fault("MSH", 1, 11, 1, "202", "The processing id is missing or not accepted here.")
    if message.version not in accepted.versions:
        yield Fault("MSH", 1, 12, 1, "203", "The HL7 version is missing or not accepted here.")


def _content_faults(message: Message, accepted: Accepted) -> Iterator[Fault]:
    if not message.control_id:
        yield Fault("MSH", 1, 10, None, "101", "MSH-10 is empty; give every message its own control id.")
    elif len(message.control_id) > _MAX_CONTROL_ID:
        yield Fault("MSH", 1, 10, None, "102", f"MSH-10 is longer than {_MAX_CONTROL_ID} characters.")
    if len(message.all("MSH")) > 1:
        yield Fault("MSH", 2, None, None, "100", "There is a second MSH; send one message per frame.")
    required = accepted.required.get(f"{message.message_code}^{message.trigger_event}", ())
    groups = order_groups(message) if any(rule.segment in _ORDER_LEVEL for rule in required) else ()
    for rule in required:
        if rule.segment in _ORDER_LEVEL:
            yield from _missing_in_orders(message, groups, rule)
        elif not rule.controls or any(_control(group) in rule.controls for group in groups):
            yield from _missing_in_message(message, rule)
    if any(rule.segment == "MRG" for rule in required):
        yield from _unpaired_merges(message)
    elif any(rule.segment == "PID" for rule in required):
        yield from _more_patients(message)
    for group in groups:
        yield from _order_faults(message, group, accepted)


def _missing_in_message(message: Message, rule: Required) -> Iterator[Fault]:
    found = message.all(rule.segment)
    if not found:
        yield Fault(rule.segment, 1, None, None, "100", f"The message has no {rule.segment} segment.")
    for segment in found:
        yield from _missing_fields(message, segment, rule)


def _missing_in_orders(message: Message, groups: tuple[OrderGroup, ...], rule: Required) -> Iterator[Fault]:
    if not groups and not rule.controls:
        yield Fault(rule.segment, 1, None, None, "100", f"The message has no {rule.segment} segment.")
    for number, group in enumerate(groups, 1):
        if rule.controls and _control(group) not in rule.controls:
            continue
        segment = group.first(rule.segment)
        if segment is None:
            yield Fault(rule.segment, number, None, None, "100", f"Order {number} has no {rule.segment} segment.")
        else:
            yield from _missing_fields(message, segment, rule)


def _missing_fields(message: Message, segment: Segment, rule: Required) -> Iterator[Fault]:
    for alternatives in rule.fields:
        if all(segment.is_null(number) or not segment.raw(number) for number in alternatives):
            place = alternatives[0]
            text = f"{segment.name}-{place} is empty."
            yield Fault(segment.name, _ordinal(message, segment), place, None, "101", text)


def _unpaired_merges(message: Message) -> Iterator[Fault]:
    """Each PID of a merge is followed by its MRG (2.5.1 3.3.40)."""
    waiting: Segment | None = None
    for segment in message.segments:
        if segment.name == "PID":
            if waiting is not None:
                break
            waiting = segment
        elif segment.name == "MRG":
            waiting = None
    if waiting is not None and message.first("MRG"):
        yield Fault("PID", _ordinal(message, waiting), None, None, "100", "This PID has no MRG after it.")


def _more_patients(message: Message) -> Iterator[Fault]:
    patients = message.all("PID")
    for number, other in enumerate(patients[1:], 2):
        if other.text == patients[0].text:
            yield Fault("PID", number, None, None, "100", "The PID segment is there twice.", "W")
        else:
            yield Fault("PID", number, None, None, "100", "There is a second patient; send one per message.")


def _order_faults(message: Message, group: OrderGroup, accepted: Accepted) -> Iterator[Fault]:
    control = group.first("ORC")
    if control is None:
        return
    code = control.value(1)
    if code and code not in accepted.order_controls:
        text = "This order control code is not known here; map it in the site's configuration."
        yield Fault("ORC", _ordinal(message, control), 1, None, "103", text)
    if not any(segment.value(place) for name, place in _ORDER_NUMBERS if (segment := group.first(name))):
        text = "The order has no number: neither placer, filler nor accession."
        yield Fault("ORC", _ordinal(message, control), 2, None, "101", text)


def _control(group: OrderGroup) -> str:
    control = group.first("ORC")
    return control.value(1) if control else ""


def _ordinal(message: Message, segment: Segment) -> int:
    return next((number for number, each in enumerate(message.all(segment.name), 1) if each is segment), 1)


_HEADER = re.compile(rb"(?:\A|[\r\n\x0b])(MSH[^\r\n]{0,20000})")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class _Header:
    """What can be had of MSH: raw field texts (index = field number), their delimiters and their codec."""

    fields: tuple[str, ...]
    delimiters: Delimiters
    codec: str

    def raw(self, number: int) -> str:
        return _CONTROLS.sub("", self.fields[number])[:_MAX_ECHO] if number < len(self.fields) else ""

    def part(self, number: int, component: int) -> str:
        parts = self.raw(number).split(self.delimiters.component)
        return parts[component - 1] if component <= len(parts) else ""


def _header_of(raw: bytes, message: Message | None) -> _Header:
    if message is not None:
        header = message.header
        return _Header(tuple(header.raw(n) for n in range(header.fields + 1)), message.delimiters, message.charset)
    match = _HEADER.search(raw[:100_000])
    if match is None:
        return _Header((), Delimiters(), "latin-1")
    text = match[1].decode("latin-1")
    separator = text[3:4]
    fields = tuple(text.split(separator)) if separator else ()
    fields = (*fields[:1], separator, *fields[1:])
    try:
        return _Header(fields, Delimiters.of_header(text), "latin-1")
    except InvalidInput:
        # Nothing but the control id can be told from a header whose delimiters cannot be.
        echo = "" if len(fields) < 11 or "|" in fields[10] else fields[10]
        return _Header(("",) * 10 + (echo,), Delimiters(), "latin-1")


def recover_control_id(raw: bytes) -> str:
    """MSH-10 as received, found by splitting the header at its fourth byte, so also in a message that cannot be read.

    Empty when there is none.
    """
    found = _header_of(raw, None).raw(10).encode("latin-1")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError:
        return found.decode("latin-1")


def acknowledge(
    raw: bytes, message: Message | None, verdict: Verdict, *, control_id: str, at: datetime, enhanced: bool = False
) -> bytes:
    """The ACK for a message, parsed or not, without its MLLP frame; never raises for any bytes.

    `control_id` is the ACK's own MSH-10 and `at` its aware time. ERR has the form of the message's version: ERR-1
    before 2.5, then ERR-2, 3, 4, 7, 8. With `enhanced` a valued MSH-15 is obeyed: CA, CE or CR, or no bytes at all
    when the sender asked for none (2.5.1 2.9.3).
    """
    header = _header_of(raw, message)
    marks = header.delimiters
    code: str = verdict.code
    wish = header.raw(15).strip().upper()
    if enhanced and wish:
        if wish == "NE" or (wish == "ER" and code == "AA") or (wish == "SU" and code != "AA"):
            return b""
        code = f"C{code[1]}"
    version = header.part(12, 1)
    event = header.part(9, 2)
    answers = "ACK" if _older(version, (2, 3, 1)) or not event else marks.component.join(("ACK", event, "ACK"))
    errors = [fault for fault in verdict.faults if fault.severity == "E"]
    msh = [
        "MSH",
        marks.encoding_characters,
        *(header.raw(number) for number in (5, 6, 3, 4)),
        at.strftime("%Y%m%d%H%M%S%z"),
        "",
        answers,
        escape(control_id, marks),
        header.raw(11) or "P",
        header.raw(12) or "2.5.1",
        *([""] * 5),
        header.raw(18),
    ]
    msa = ["MSA", code, header.raw(10), escape(errors[0].text, marks) if errors else ""]
    segments = [msh, msa]
    if _older(version, (2, 5)):
        if errors:
            segments.append(["ERR", marks.repetition.join(_err_1(fault, marks) for fault in errors)])
    else:
        segments += [_err(fault, marks) for fault in verdict.faults]
    text = "".join(marks.field.join(fields).rstrip(marks.field) + "\r" for fields in segments)
    return text.encode(header.codec, "replace")


def _older(version: str, than: tuple[int, ...]) -> bool:
    numbers = re.fullmatch(r"(\d{1,2})((?:\.\d{1,2})*)", version)
    return bool(numbers) and tuple(int(part) for part in version.split(".")) < than


def _err_1(fault: Fault, marks: Delimiters) -> str:
    """ELD (2.3.1 2.24.3): segment, sequence, field, code."""
    code = marks.subcomponent.join((fault.code, escape(TABLE_0357.get(fault.code, ""), marks), "HL70357"))
    return marks.component.join((fault.segment, str(fault.sequence), _number(fault.field), code))


def _err(fault: Fault, marks: Delimiters) -> list[str]:
    """ERR of 2.5 and later (2.5.1 2.15.5)."""
    place = [fault.segment, str(fault.sequence), _number(fault.field)]
    if fault.component is not None:
        place += ["1", str(fault.component)]
    location = marks.component.join(place).rstrip(marks.component)
    name = escape(TABLE_0357.get(fault.code, ""), marks)
    code = marks.component.join((fault.code, name, "HL70357"))
    text = escape(fault.text, marks)
    diagnostic = escape(f"{fault.segment}[{fault.sequence}]-{_number(fault.field)}".rstrip("-"), marks)
    return ["ERR", "", location, code, fault.severity, "", "", diagnostic, text]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
