"""Steps through a resource: children by name, by R4's own definitions, so that every node knows its type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wetread.record import structures
from wetread.record.fhirpath.syntax import UNITS
from wetread.record.fhirpath.values import Items, Node, Quantity, Temporal, plain


def root(resource: Any) -> Node:
    return Node(resource, str(resource.get("resourceType", "")))


def child(items: Items, name: str) -> Items:
    """The children of that name of every item, in order."""
    found: Items = []
    for item in items:
        if type(item) is not Node:
            continue
        value = item.value
        if type(value) is not dict:
            if item.extra is not None and name in ("id", "extension"):
                kind = "Extension" if name == "extension" else "string"
                _add(found, item.extra.get(name), kind, None, item, name)
            continue
        definition = structures.structure(item.type)
        element = definition.elements.get(name) if definition else None
        if definition is None and not item.type:
            _add(found, value.get(name), "", None, item, name)  # not FHIR: what `type()` gives
        if definition is None or element is None:
            continue
        if not element.is_choice:
            _member(found, item, name, element.types[0])
            continue
        for key in _names(value):
            if key.startswith(name) and key in definition.members and definition.members[key][0] is element:
                _member(found, item, key, definition.members[key][1])
    return found


def children(items: Items) -> Items:
    found: Items = []
    for item in items:
        if type(item) is not Node:
            continue
        definition = structures.structure(item.type) if type(item.value) is dict else None
        if definition is not None:
            for key in _names(item.value):
                if key in definition.members:
                    _member(found, item, key, definition.members[key][1])
        elif item.extra is not None:
            found += [*child([item], "id"), *child([item], "extension")]
    return found


def _names(value: dict[str, Any]) -> Iterable[str]:
    """The members, one that has only its `_` sibling among them."""
    for key in value:
        if key[:1] != "_":
            yield key
        elif key[1:] not in value:
            yield key[1:]


def descendants(items: Items) -> Items:
    found: Items = []
    level = children(items)
    while level:
        found += level
        level = children(level)
    return found


def _member(found: Items, item: Node, key: str, kind: str) -> None:
    extra = item.value.get("_" + key) if kind in structures.PRIMITIVES else None
    _add(found, item.value.get(key), kind, extra, item, key)


def _add(found: Items, member: Any, kind: str, extra: Any, parent: Node, key: str, index: int | None = None) -> None:
    if isinstance(member, list) or isinstance(extra, list):
        values, extras = (m if isinstance(m, list) else [] for m in (member, extra))
        for n in range(max(len(values), len(extras))):
            value, sibling = values[n] if n < len(values) else None, extras[n] if n < len(extras) else None
            _add(found, value, kind, sibling, parent, key, n)
    elif member is not None or extra:
        if kind == "Resource":
            name = member.get("resourceType") if isinstance(member, dict) else None
            # Types are kept for ever where they are looked up: a sender's word must not become one.
            kind = name if isinstance(name, str) and name in structures.all_resource_types() else ""
        found.append(Node(member, kind, extra if isinstance(extra, dict) else None, (parent, key, index)))


def type_of(item: Any) -> str:
    """The name of an item's type: `FHIR.` left away, `System.` for what the language made."""
    match item:
        case Node():
            return item.type
        case bool():
            return "System.Boolean"
        case int():
            return "System.Integer"
        case str():
            return "System.String"
        case Quantity():
            return "System.Quantity"
        case Temporal():
            return {"date": "System.Date", "time": "System.Time"}.get(item.kind, "System.DateTime")
        case _:
            return "System.Decimal"


def is_type(item: Any, name: str) -> bool:
    """Whether an item is of a type that a type specifier names; `Boolean` alone means FHIR's type, then System's."""
    own = type_of(item)
    if own.startswith("System."):
        return name in (own, own.removeprefix("System."))
    wanted = name.removeprefix("FHIR.")
    return not wanted.startswith("System.") and structures.is_a(own, wanted)


def has_value(item: Any) -> bool:
    return type(item) is not Node or (item.value is not None and type(item.value) not in (dict, list))


def string_of(item: Any) -> str | None:
    value = plain(item)
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Temporal():
            return value.text
        case Quantity():
            return f"{value.value} {value.unit}" if value.unit in UNITS else f"{value.value} '{value.unit}'"
        case Node() | dict() | list() | None:
            return None
        case _:
            return str(value)
