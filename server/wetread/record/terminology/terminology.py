"""What codes mean to one another: value sets as sets of codes, subsumption (FHIR R4 terminology-service.html).

Definitions are no patient's data: whoever may search may have them used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from wetread.errors import NotFound, Unsupported
from wetread.record.terminology import definitions, value_set
from wetread.record.terminology.code_system import CodeSystem
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Codes:
    """A set of codes by system: those of `listed`, and every code of a system in `whole` but those that stand there.

    `whole` is for systems that the server does not hold, such as LOINC: what is in them is not known here.
    """

    listed: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    whole: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, coding: tuple[str, str]) -> bool:
        system, code = coding
        return code in self.listed.get(system, ()) or (system in self.whole and code not in self.whole[system])


async def codes_of(conn: Connection, value_set_url: str) -> Codes:
    """The codes of a value set, by canonical (for `:in` and `:not-in`).

    Raises NotFound for a value set that is not here, Unsupported where it selects by a filter from a code system that
    is not held here.
    """
    definition = await definitions.find(conn, "ValueSet", value_set_url)
    if definition is None:
        raise NotFound("no value set of this canonical here; store it as a ValueSet", location="ValueSet.url")
    selected = await value_set.selected(conn, definition)
    if selected.unknown:
        raise Unsupported(next(iter(selected.unknown.values())), location="ValueSet.compose")
    listed: dict[str, set[str]] = {}
    for system, code in selected.members:
        listed.setdefault(system, set()).add(code)
    return Codes({system: frozenset(codes) for system, codes in listed.items()}, selected.whole)


async def subsumed(conn: Connection, system: str, code: str) -> Codes:
    """A code and those that it subsumes (for `:below`). Raises Unsupported for a system that is not held here."""
    held = await _held(conn, system)
    return Codes({system: frozenset((code, *held.below(code)))})


async def subsuming(conn: Connection, system: str, code: str) -> Codes:
    """A code and those that subsume it (for `:above`). Raises Unsupported for a system that is not held here."""
    held = await _held(conn, system)
    return Codes({system: frozenset((code, *held.above(code)))})


async def _held(conn: Connection, system: str) -> CodeSystem:
    held = await definitions.code_system_of(conn, system)
    if held is None or not held.concepts:
        raise Unsupported("the hierarchy of this code system is not held here; store it as a CodeSystem")
    return held
