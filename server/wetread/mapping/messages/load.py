"""Loads and checks the maps of `mappings/messages/`: every mistake is found at start, and named by file and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wetread.mapping.files import Source, files
from wetread.mapping.messages.datatypes import CONVERTERS
from wetread.mapping.messages.model import Expression, FieldMap, GroupMap, MessageMap, Related, Rule, SegmentMap
from wetread.record import fhirpath, structures

TAKEN = ("at", "base", "change", "number", "place", "set-id")
"""What `take:` may name: the event's moment; the address of the FHIR server; create or update; the event's number;
which item of the `each` around it; the running number of the segment."""
RULE_KEYS = frozenset({"from", "each", "value", "take", "as", "codes", "otherwise"})
SEGMENT_KEYS = frozenset({"segment", "fields", "each", "when"})
_GROUP_KEYS = frozenset({"each", "segments"})
_SHARED = "segments"
_VARIABLE = re.compile(r"%(?P<name>[a-z]+)(?:\.(?P<path>.*))?", re.DOTALL)
_FIELD = re.compile(r"(?P<field>[1-9]\d?)(?:\.(?P<component>[1-9]\d?))?")
_KEPT_VARIABLES = frozenset({"resource", "context", "ucum", "sct", "loinc"})
"""What FHIRPath itself means by a name."""


def load(shipped: Path, overlay: Path | None) -> Mapping[str, MessageMap]:
    """By resource type. The folder `shipped` holds the shipped maps, `overlay` the site's (docs/mapping.md).

    Raises Misconfigured, naming file and key.
    """
    found = files(shipped, overlay, "messages")
    shared: dict[str, Any] = {}
    if _SHARED in found:
        found[_SHARED].only(found[_SHARED].content, frozenset({"description", "segments"}))
        shared = dict(found[_SHARED].table("segments"))
    made = [_message_map(_Reader(source, shared)) for name, source in found.items() if name != _SHARED]
    return {each.resource_type: each for each in made}


class _Reader:
    """One file, the segments that all files share, and the names that its expressions may start with."""

    def __init__(self, source: Source, shared: Mapping[str, Any]) -> None:
        self.source = source
        self.shared = shared
        self.names = {"focus"}

    def expression(self, value: Any, *key: str) -> Expression:
        text = self.source.string(value, *key)
        found = _VARIABLE.fullmatch(text)
        variable, rest = ("", text)
        if found and found["name"] not in _KEPT_VARIABLES:
            variable, rest = found["name"], found["path"] or ""
            if variable not in self.names:
                known = ", ".join(f"%{name}" for name in sorted(self.names))
                self.source.wrong(f"no resource is called %{variable}; expected one of {known}", *key)
        try:
            return Expression(text, variable, fhirpath.compiled(rest) if rest else None)
        except fhirpath.NotFhirPath as problem:
            self.source.wrong(f"not FHIRPath: {problem.message}", *key)


def _message_map(reader: _Reader) -> MessageMap:
    source = reader.source
    source.only(source.content, frozenset({"description", "resource", "message", "with", "segments"}))
    resource_type = source.string(source.content.get("resource"), "resource")
    if resource_type not in structures.all_resource_types():
        source.wrong("expected a type of FHIR R4", "resource")
    kind = tuple(source.string(source.content.get("message"), "message").split("^"))
    if len(kind) != 3 or not all(kind):
        source.wrong("expected MSH-9, e.g. ORU^R01^ORU_R01", "message")
    related = []
    for name, body in (source.table("with") if "with" in source.content else {}).items():
        if not isinstance(body, Mapping) or set(body) != {"type", "from"}:
            source.wrong("expected e.g. {type: Patient, from: subject}", "with", name)
        wanted = source.string(body["type"], "with", name, "type")
        related.append(Related(name, wanted, reader.expression(body["from"], "with", name, "from")))
        reader.names.add(name)
    parts = _parts(reader, source.content.get("segments"), ("segments",))
    return MessageMap(resource_type, (kind[0], kind[1], kind[2]), tuple(related), parts)


def _parts(reader: _Reader, body: Any, where: tuple[str, ...]) -> tuple[SegmentMap | GroupMap, ...]:
    if not isinstance(body, list) or not body:
        reader.source.wrong("expected a list of segments", *where)
    return tuple(_part(reader, one, (*where, str(number))) for number, one in enumerate(body, 1))


def _part(reader: _Reader, body: Any, where: tuple[str, ...]) -> SegmentMap | GroupMap:
    source = reader.source
    if isinstance(body, str):
        if body not in reader.shared:
            source.wrong(f"no segment {body!r} stands in {_SHARED}.yaml", *where)
        body = reader.shared[body]
    if not isinstance(body, Mapping):
        source.wrong("expected a segment or the name of a shared one", *where)
    if "segments" in body:
        source.only(body, _GROUP_KEYS, *where)
        each = reader.expression(body.get("each"), *where, "each")
        return GroupMap(each, _parts(reader, body["segments"], (*where, "segments")))
    source.only(body, SEGMENT_KEYS, *where)
    name = source.string(body.get("segment"), *where, "segment")
    if not re.fullmatch(r"[A-Z][A-Z0-9]{2}", name):
        source.wrong("expected the name of a segment, e.g. OBX", *where, "segment")
    fields = body.get("fields")
    if not isinstance(fields, Mapping) or not fields:
        source.wrong("expected fields by their numbers", *where, "fields")
    return SegmentMap(
        name,
        tuple(_field(reader, str(key), rule, (*where, "fields", str(key))) for key, rule in fields.items()),
        reader.expression(body["each"], *where, "each") if "each" in body else None,
        reader.expression(body["when"], *where, "when") if "when" in body else None,
    )


def _field(reader: _Reader, key: str, body: Any, where: tuple[str, ...]) -> FieldMap:
    place = _FIELD.fullmatch(key)
    if place is None:
        reader.source.wrong("expected the number of a field, or of a component as in 27.6", *where)
    bodies = body if isinstance(body, list) else [body]
    rules = tuple(_rule(reader, one, where) for one in bodies)
    return FieldMap(int(place["field"]), int(place["component"] or 0), rules)


def _rule(reader: _Reader, body: Any, where: tuple[str, ...]) -> Rule:
    source = reader.source
    if not isinstance(body, Mapping):
        source.wrong("expected a rule, e.g. {from: status, as: text}", *where)
    source.only(body, RULE_KEYS, *where)
    given = [key for key in ("from", "each", "value", "take") if key in body]
    if len(given) != 1:
        source.wrong("expected exactly one of from, each, value, take", *where)
    convert = source.string(body.get("as", "text"), *where, "as")
    if convert not in CONVERTERS:
        source.wrong(f"no converter {convert!r}; expected one of {', '.join(sorted(CONVERTERS))}", *where, "as")
    take = source.string(body.get("take", ""), *where, "take")
    if take and take not in TAKEN:
        source.wrong(f"expected one of {', '.join(TAKEN)}", *where, "take")
    codes = body.get("codes")
    if codes is not None and not isinstance(codes, Mapping):
        source.wrong("expected a table of codes", *where, "codes")
    paths = body.get("from", body.get("each", []))
    return Rule(
        tuple(reader.expression(one, *where) for one in (paths if isinstance(paths, list) else [paths])),
        source.string(body.get("value", ""), *where, "value"),
        take,
        convert,
        None if codes is None else {str(k): source.string(v, *where, "codes") for k, v in codes.items()},
        source.string(body.get("otherwise", ""), *where, "otherwise"),
        "each" in body,
    )
