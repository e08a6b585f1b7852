"""A code system as concepts with their hierarchy (FHIR R4 codesystem.html 4.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_PARENT = "http://hl7.org/fhir/concept-properties#parent"
_CHILD = "http://hl7.org/fhir/concept-properties#child"
_WELL_KNOWN = {"parent": _PARENT, "subsumedBy": _PARENT, "child": _CHILD}
_GONE = frozenset({"retired", "inactive"})


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept. `properties` and `designations` are as in CodeSystem.concept."""

    code: str
    display: str = ""
    definition: str = ""
    designations: tuple[Mapping[str, Any], ...] = ()
    properties: tuple[Mapping[str, Any], ...] = ()

    def values_of(self, name: str) -> list[Any]:
        """The values of a property, whatever their type."""
        return [_value(p) for p in self.properties if p.get("code") == name]

    @property
    def abstract(self) -> bool:
        """Whether it only groups others: it is not for use in a record."""
        return True in self.values_of("notSelectable") or True in self.values_of("abstract")

    @property
    def inactive(self) -> bool:
        return True in self.values_of("inactive") or any(s in _GONE for s in self.values_of("status"))


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
        hierarchy = _hierarchy(part)
        system.properties |= {str(p.get("code")) for p in part.get("property", ())}
        for concept, parent in _walked(part.get("concept", ())):
            _add(system, concept, parent, hierarchy)
    if not system.case_sensitive:
        system._folded = {code.casefold(): code for code in system.concepts}
    return system


def _hierarchy(definition: Mapping[str, Any]) -> dict[str, str]:
    """The codes of properties that name a concept's parents or children."""
    declared = {p.get("code"): p.get("uri") for p in definition.get("property", ())}
    found = {code: uri for code, uri in declared.items() if isinstance(code, str) and uri in (_PARENT, _CHILD)}
    return {**_WELL_KNOWN, **found}


def _walked(concepts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each concept before those in it, with the code of the one that it stands in."""
    waiting = [(concept, "") for concept in reversed(concepts)]
    while waiting:
        concept, parent = waiting.pop()
        yield concept, parent
        waiting += [(inner, str(concept["code"])) for inner in reversed(concept.get("concept", ()))]


def _add(system: CodeSystem, given: Mapping[str, Any], parent: str, hierarchy: Mapping[str, str]) -> None:
    code = str(given["code"])
    known = system.concepts.get(code, Concept(code))
    system.concepts[code] = Concept(
        code,
        known.display or str(given.get("display", "")),
        known.definition or str(given.get("definition", "")),
        (*known.designations, *given.get("designation", ())),
        (*known.properties, *given.get("property", ())),
    )
    if parent:
        _link(system, parent, code)
    for member in given.get("property", ()):
        system.properties.add(str(member.get("code")))
        meaning, other = hierarchy.get(str(member.get("code"))), _value(member)
        if meaning and isinstance(other, str):
            _link(system, *((other, code) if meaning == _PARENT else (code, other)))


def _link(system: CodeSystem, parent: str, child: str) -> None:
    if parent not in system.parents.setdefault(child, []):
        system.parents[child].append(parent)
        system.children.setdefault(parent, []).append(child)
