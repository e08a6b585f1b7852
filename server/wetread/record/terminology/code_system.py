"""A code system as concepts with their hierarchy (FHIR R4 codesystem.html 4.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_PARENT = "http://hl7.org/fhir/concept-properties#parent"
_CHILD = "http://hl7.org/fhir/concept-properties#child"
_INACTIVE = "http://hl7.org/fhir/concept-properties#inactive"
_STATUS = "http://hl7.org/fhir/concept-properties#status"
_NOT_SELECTABLE = "http://hl7.org/fhir/concept-properties#notSelectable"
_MEANINGS = {
    "parent": _PARENT,
    "subsumedBy": _PARENT,
    "child": _CHILD,
    "inactive": _INACTIVE,
    "status": _STATUS,
    "notSelectable": _NOT_SELECTABLE,
    "abstract": _NOT_SELECTABLE,
}
"""What the codes of properties mean where the code system does not say otherwise by uri."""
_GONE = frozenset({"retired", "inactive"})


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept. `properties` and `designations` are as in CodeSystem.concept."""

    code: str
    display: str = ""
    definition: str = ""
    designations: tuple[Mapping[str, Any], ...] = ()
    properties: tuple[Mapping[str, Any], ...] = ()
    abstract: bool = False
    """It only groups others: it is not for use in a record."""
    inactive: bool = False

    def values_of(self, name: str) -> list[Any]:
        """The values of a property, whatever their type."""
        return [_value(p) for p in self.properties if p.get("code") == name]


def _value(member: Mapping[str, Any]) -> Any:
    return next((v for k, v in member.items() if k.startswith("value")), None)


@dataclass(slots=True)
class CodeSystem:
    """The concepts that are held of a code system, in its own order; all of them where `content` is complete."""

    url: str
    version: str = ""
    name: str = ""
    content: str = ""
    case_sensitive: bool = True
    concepts: dict[str, Concept] = field(default_factory=dict)
    parents: dict[str, list[str]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    properties: set[str] = field(default_factory=set)
    """The codes of the properties that it declares, or that a concept has."""
    _folded: dict[str, str] = field(default_factory=dict)

    def concept(self, code: str) -> Concept | None:
        """The concept of a code, in whatever case where the code system says that case does not matter."""
        if self.case_sensitive or code in self.concepts:
            return self.concepts.get(code)
        return self.concepts.get(self._folded.get(code.casefold(), ""))

    def below(self, code: str) -> list[str]:
        """The codes that a code subsumes, itself not among them."""
        return _reached(code, self.children)

    def above(self, code: str) -> list[str]:
        """The codes that subsume a code, itself not among them."""
        return _reached(code, self.parents)


def _reached(start: str, steps: Mapping[str, Sequence[str]]) -> list[str]:
    seen = {start: None}
    waiting = [start]
    while waiting:
        for code in steps.get(waiting.pop(), ()):
            if code not in seen:
                seen[code] = None
                waiting.append(code)
    return list(seen)[1:]


def read(definition: Mapping[str, Any], additions: Iterable[Mapping[str, Any]] = ()) -> CodeSystem:
    """The code system of a CodeSystem resource, with what fragments and supplements add to it."""
    system = CodeSystem(
        url=str(definition.get("url", "")),
        version=str(definition.get("version", "")),
        name=str(definition.get("name") or definition.get("title") or definition.get("url", "")),
        content=str(definition.get("content", "")),
        case_sensitive=definition.get("caseSensitive", True),
    )
    for part in (definition, *(a for a in additions if a is not definition)):
        meanings = _meanings(part)
        system.properties |= {str(p.get("code")) for p in part.get("property", ())}
        for concept, parent in _walked(part.get("concept", ())):
            _add(system, concept, parent, meanings)
    if not system.case_sensitive:
        system._folded = {code.casefold(): code for code in system.concepts}
    return system


def _meanings(definition: Mapping[str, Any]) -> dict[str, str]:
    """The codes of properties, each to the uri of what it means."""
    declared = {str(p.get("code")): str(p["uri"]) for p in definition.get("property", ()) if "uri" in p}
    return {**_MEANINGS, **{code: uri for code, uri in declared.items() if uri in _MEANINGS.values()}}


def _walked(concepts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each concept before those in it, with the code of the one that it stands in."""
    waiting = [(concept, "") for concept in reversed(concepts)]
    while waiting:
        concept, parent = waiting.pop()
        yield concept, parent
        waiting += [(inner, str(concept["code"])) for inner in reversed(concept.get("concept", ()))]


def _add(system: CodeSystem, given: Mapping[str, Any], parent: str, meanings: Mapping[str, str]) -> None:
    code = str(given["code"])
    known = system.concepts.get(code, Concept(code))
    said = [(meanings.get(str(p.get("code")), ""), _value(p)) for p in given.get("property", ())]
    system.concepts[code] = Concept(
        code,
        known.display or str(given.get("display", "")),
        known.definition or str(given.get("definition", "")),
        (*known.designations, *given.get("designation", ())),
        (*known.properties, *given.get("property", ())),
        known.abstract or (_NOT_SELECTABLE, True) in said,
        known.inactive or (_INACTIVE, True) in said or any((_STATUS, gone) in said for gone in _GONE),
    )
    if parent:
        _link(system, parent, code)
    system.properties |= {str(p.get("code")) for p in given.get("property", ())}
    for meaning, other in said:
        if meaning == _PARENT and isinstance(other, str):
            _link(system, other, code)
        elif meaning == _CHILD and isinstance(other, str):
            _link(system, code, other)


def _link(system: CodeSystem, parent: str, child: str) -> None:
    if parent not in system.parents.setdefault(child, []):
        system.parents[child].append(parent)
        system.children.setdefault(parent, []).append(child)
