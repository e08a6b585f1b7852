"""Runs a map: one resource, and those read along, in; one HL7 v2.5.1 message out. The same input gives the same
bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wetread.mapping.messages.datatypes import CONVERTERS, Names, instant
from wetread.mapping.messages.model import Expression, GroupMap, MessageMap, Rule, SegmentMap
from wetread.record import fhirpath
from wetread.record.fhirpath import Node
from wetread.wire.hl7 import Delimiters, escape

_MARKS = Delimiters()
_UNDECIDED = (fhirpath.Undecided, TypeError, ValueError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Envelope:
    """What stands around: MSH-3 to MSH-6, MSH-10 and MSH-11; `sending` and `receiving` are (application, facility)."""

    control_id: str
    sending: tuple[str, str]
    receiving: tuple[str, str]
    processing_id: str


@dataclass(frozen=True)
class Told:
    """What the message is of: an event, and the resource as it left it. `change` is create or update, `number` the
    event's; `base` is the address of the FHIR server. `related` holds what the map asked to be read along, by its
    names."""

    at: datetime
    resource: Mapping[str, Any]
    related: Mapping[str, Sequence[Mapping[str, Any]]]
    change: str
    number: int
    base: str


def references(related: Expression, told: Told) -> list[str]:
    """The references that a map follows, as `Type/id`, each once."""
    writer = _Writer(told, Names())
    found = [node.value.get("reference", "") for node in writer.items(related, writer.focus) if _is_object(node)]
    return list(dict.fromkeys(str(reference).removeprefix(f"{told.base}/") for reference in found if reference))


def message(form: MessageMap, told: Told, envelope: Envelope, names: Names) -> bytes:
    """UTF-8, segments ended by carriage return, without MLLP frame (v2.5.1 2.6, 2.14.9)."""
    mark = _MARKS.field
    header = [
        f"MSH{mark}{_MARKS.encoding_characters}",
        *(escape(name, _MARKS) for name in (*envelope.sending, *envelope.receiving)),
        instant(told.at),
        "",
        _MARKS.component.join(form.message),
        escape(envelope.control_id, _MARKS),
        envelope.processing_id,
        "2.5.1",
        *[""] * 5,
        "UNICODE UTF-8",
    ]
    writer = _Writer(told, names)
    segments = [mark.join(header), *writer.parts(form.parts, _Hand(writer.focus, writer.focus))]
    return "".join(f"{segment}\r" for segment in segments).encode()


@dataclass(frozen=True, slots=True)
class _Hand:
    """What expressions without a variable are about: an item of a resource, and its place among those of `each`."""

    item: Any
    resource: Node
    place: int = 1


@dataclass
class _Writer:
    told: Told
    names: Names
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def focus(self) -> Node:
        return fhirpath.root(self.told.resource)

    def parts(self, parts: Sequence[SegmentMap | GroupMap], hand: _Hand) -> Iterator[str]:
        for part in parts:
            if isinstance(part, GroupMap):
                for one in self._hands(part.each, hand):
                    yield from self.parts(part.parts, one)
                continue
            if part.when is not None and not self._holds(part.when, hand):
                continue
            for one in [hand] if part.each is None else self._hands(part.each, hand):
                yield from self._segment(part, one)

    def items(self, expression: Expression, item: Any, resource: Node | None = None) -> list[Any]:
        """What an expression gives; nothing where it cannot be applied."""
        if not expression.variable:
            starts = [(item, resource or item)]
        elif expression.variable == "focus":
            starts = [(self.focus, self.focus)]
        else:
            roots = [fhirpath.root(one) for one in self.told.related.get(expression.variable, ())]
            starts = [(one, one) for one in roots]
        if expression.path is None:
            return [start for start, _ in starts]
        found: list[Any] = []
        for start, around in starts:
            try:
                found += expression.path(start, around)
            except _UNDECIDED:
                continue
        return found

    def _hands(self, expression: Expression, hand: _Hand) -> list[_Hand]:
        found = self.items(expression, hand.item, hand.resource)
        if len(found) == 0:
            return []
        is_of_resources = _is_object(found[0]) and "resourceType" in found[0].value
        # The items of a resource are numbered within it; the resources among each other.
        return [
            _Hand(one, one if is_of_resources else hand.resource, place if is_of_resources else hand.place)
            for place, one in enumerate(found, 1)
        ]

    def _holds(self, expression: Expression, hand: _Hand) -> bool:
        found = [fhirpath.plain(item) for item in self.items(expression, hand.item, hand.resource)]
        return bool(found) and found != [False]

    def _segment(self, part: SegmentMap, hand: _Hand) -> Iterator[str]:
        if part.name != "NTE":
            self.counts.pop("NTE", None)  # notes are numbered after each segment that they are about
        self.counts[part.name] = self.counts.get(part.name, 0) + 1
        fields: dict[int, dict[int, str]] = {}
        # What only the message itself fills, such as EVN, is never empty.
        says = not any(rule.sources for each in part.fields for rule in each.rules)
        for each in part.fields:
            text, is_said = self._field(each.rules, part.name, hand)
            if text:
                fields.setdefault(each.number, {})[each.component] = text
                says = says or is_said
        if not says:
            self.counts[part.name] -= 1
            return
        cells = [_components(fields.get(number, {})) for number in range(1, max(fields) + 1)]
        yield _MARKS.field.join([part.name, *cells])

    def _field(self, rules: Sequence[Rule], segment: str, hand: _Hand) -> tuple[str, bool]:
        """The text, and whether a resource says it."""
        for rule in rules:
            if rule.value:
                return rule.value, False
            text = self._taken(rule, segment, hand) if rule.take else self._said(rule, hand)
            if text:
                return text, not rule.take
        return "", False

    def _taken(self, rule: Rule, segment: str, hand: _Hand) -> str:
        match rule.take:
            case "change":
                text = self.told.change
            case "number":
                text = str(self.told.number)
            case "place":
                text = str(hand.place)
            case "at":
                return instant(self.told.at)
            case "base":
                text = self.told.base
            case _:
                text = str(self.counts[segment])
        return escape(text, _MARKS) if rule.codes is None else rule.codes.get(text, rule.otherwise)

    def _said(self, rule: Rule, hand: _Hand) -> str:
        for source in rule.sources:
            texts = []
            for item in self.items(source, hand.item, hand.resource):
                text = CONVERTERS[rule.convert](item, self.names)
                if rule.codes is not None and text:
                    text = rule.codes.get(text, rule.otherwise)
                if text and text not in texts:
                    texts.append(text)
            if texts:
                return _MARKS.repetition.join(texts) if rule.repeats else texts[0]
        return ""


def _components(parts: Mapping[int, str]) -> str:
    if 0 in parts or not parts:
        return parts.get(0, "")
    return _MARKS.component.join(parts.get(number, "") for number in range(1, max(parts) + 1))


def _is_object(item: Any) -> bool:
    return isinstance(item, Node) and isinstance(item.value, dict)
