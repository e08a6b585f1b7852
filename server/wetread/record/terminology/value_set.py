"""What a value set selects (FHIR R4 valueset.html 4.9.8): its compose, worked out over the code systems held here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.errors import InvalidRegularExpression

from wetread.errors import InvalidInput, NotFound, TooCostly, Unsupported
from wetread.record.terminology import definitions
from wetread.record.terminology.code_system import CodeSystem, Concept
from wetread.store.database import Connection

_DEEPEST = 20
_LONGEST_PATTERN = 500


@dataclass(frozen=True, slots=True)
class Member:
    """One code of a value set. `concept` is None where its code system is not held."""

    system: str
    code: str
    display: str = ""
    version: str = ""
    concept: Concept | None = None
    designations: tuple[Mapping[str, Any], ...] = ()

    @property
    def abstract(self) -> bool:
        return self.concept is not None and self.concept.abstract

    @property
    def inactive(self) -> bool:
        return self.concept is not None and self.concept.inactive


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of code systems: those that count whatever the value set says, and those where it says nothing."""

    forced: Mapping[str, str] = field(default_factory=dict)
    otherwise: Mapping[str, str] = field(default_factory=dict)

    def of(self, system: str, named: str) -> str:
        """The version of a code system that counts where a value set names one, or a pattern, or none."""
        if system in self.forced:
            return self.forced[system]
        proposed = self.otherwise.get(system, "")
        fits = not named or (definitions.is_pattern(named) and definitions.is_version(proposed, named))
        return proposed if proposed and fits else named


@dataclass(slots=True)
class Selected:
    """What a value set selects, in its order.

    `whole` has the systems of which every code is selected, those told of apart, and which are not held; `unknown` the
    systems of which it cannot be said here what is selected, each with the reason.
    """

    members: dict[tuple[str, str], Member] = field(default_factory=dict)
    whole: dict[str, frozenset[str]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    fragments: set[str] = field(default_factory=set)
    """Systems all of whose codes are selected, and of which only some are held."""
    systems: dict[str, CodeSystem] = field(default_factory=dict)

    def add(self, other: Selected) -> None:
        self.members |= {key: m for key, m in other.members.items() if key not in self.members}
        for system, left_out in other.whole.items():
            self.whole[system] = self.whole.get(system, left_out) & left_out
        self._learn(other)

    def keep(self, other: Selected) -> None:
        """Drops what `other` does not select."""
        both = {key: m for key, m in self.members.items() if key in other.members or _in_whole(key, other.whole)}
        both |= {key: m for key, m in other.members.items() if _in_whole(key, self.whole)}
        self.members = both
        self.whole = {s: self.whole[s] | other.whole[s] for s in self.whole if s in other.whole}
        self._learn(other)

    def drop(self, other: Selected) -> None:
        """Drops what `other` selects."""
        left = {s: codes for s, codes in self.whole.items() if s not in other.whole}
        self.members = {
            key: m for key, m in self.members.items() if key not in other.members and not _in_whole(key, other.whole)
        }
        self.whole = {s: codes | {code for system, code in other.members if system == s} for s, codes in left.items()}
        self._learn(other)

    def _learn(self, other: Selected) -> None:
        self.unknown |= other.unknown
        self.fragments |= other.fragments
        self.systems |= other.systems


def _in_whole(key: tuple[str, str], whole: Mapping[str, frozenset[str]]) -> bool:
    return key[0] in whole and key[1] not in whole[key[0]]


@dataclass(slots=True)
class _Work:
    """One working out, and how many codes it may still touch."""

    conn: Connection
    versions: Versions
    contained: Mapping[str, Mapping[str, Any]]
    left: int = 3_000_000

    def spend(self, codes: int) -> None:
        self.left -= codes + 1
        if self.left < 0:
            raise TooCostly("the value set takes too much to work out; divide it", location="ValueSet.compose")


async def selected(conn: Connection, definition: Mapping[str, Any], versions: Versions | None = None) -> Selected:
    """Works a ValueSet out.

    Raises NotFound for an imported value set that is not here, InvalidInput for one that contains itself, a filter that
    makes no sense, or a compose of wrong form, Unsupported for a filter on what is not known here, TooCostly.
    """
    contained = {f"#{d.get('id')}": d for d in definition.get("contained", ()) if d.get("resourceType") == "ValueSet"}
    return await _selected(_Work(conn, versions or Versions(), contained), definition, ())


async def _selected(work: _Work, definition: Mapping[str, Any], within: Sequence[str]) -> Selected:
    url = str(definition.get("url") or f"#{definition.get('id', '')}")
    if (url != "#" and url in within) or len(within) > _DEEPEST:
        raise InvalidInput("the value set imports itself", location="ValueSet.compose.include.valueSet")
    compose = definition.get("compose")
    if compose is None:
        return _expanded_already(definition)
    inner = (*within, url)
    result = Selected()
    for include in compose.get("include", ()):
        result.add(await _part(work, include, inner))
    for exclude in compose.get("exclude", ()):
        result.drop(await _part(work, exclude, inner))
    if compose.get("inactive") is False:
        result.members = {key: m for key, m in result.members.items() if not m.inactive}
    return result


def _expanded_already(definition: Mapping[str, Any]) -> Selected:
    """A value set that comes as an expansion only."""
    result = Selected()
    waiting = list(reversed(definition.get("expansion", {}).get("contains", ())))
    while waiting:
        item = waiting.pop()
        waiting += reversed(item.get("contains", ()))
        if "code" in item and not item.get("abstract"):
            member = Member(item.get("system", ""), item["code"], item.get("display", ""), item.get("version", ""))
            result.members[member.system, member.code] = member
    return result


async def _part(work: _Work, part: Mapping[str, Any], within: Sequence[str]) -> Selected:
    """One include or exclude: the codes of its system that are also in each of its value sets."""
    own: Selected | None = None
    if "system" in part:
        own = await _of_system(work, part)
    for canonical in part.get("valueSet", ()):
        imported = work.contained.get(canonical) or await definitions.find(work.conn, "ValueSet", canonical)
        if imported is None:
            raise NotFound(f"the imported value set {canonical} is not here", location="ValueSet.compose")
        other = await _selected(work, imported, within)
        work.spend(len(other.members))
        if own is None:
            own = other
        else:
            own.keep(other)
    if own is None:
        raise InvalidInput("an include names a system or a value set", location="ValueSet.compose.include")
    return own


async def _of_system(work: _Work, part: Mapping[str, Any]) -> Selected:
    url = part["system"]
    version = work.versions.of(url, str(part.get("version", "")))
    system = await definitions.code_system_of(work.conn, url, version)
    work.spend(len(part["concept"]) if "concept" in part else len(system.concepts) if system else 0)
    result = Selected(systems={url: system} if system else {})
    if "concept" in part:
        for given in part["concept"]:
            member = _member(url, given["code"], system, version)
            if member.concept is None and system and system.content == "complete":
                continue
            display = given.get("display") or member.display
            designations = (*given.get("designation", ()), *member.designations)
            result.members[url, member.code] = Member(
                url, member.code, display, member.version, member.concept, designations
            )
        return result
    if system is None or not system.concepts:
        if "filter" in part:
            result.unknown[url] = f"the code system {url}, from which a filter selects, is not held here"
        elif system is None and version:
            result.unknown[url] = f"the code system {url} of version {version} is not held here"
        else:
            result.whole[url] = frozenset()
        return result
    if system.content == "fragment" and "filter" not in part:
        result.fragments.add(url)
    codes: dict[str, None] = dict.fromkeys(system.concepts)
    for one in part.get("filter", ()):
        chosen = await _filtered(work.conn, system, one)
        work.spend(len(system.concepts))
        codes = {code: None for code in codes if code in chosen}
    result.members = {(url, code): _member(url, code, system, version) for code in codes}
    return result


def _member(url: str, code: str, system: CodeSystem | None, version: str) -> Member:
    concept = system.concept(code) if system else None
    if system is None or concept is None:
        return Member(url, code, version=version)
    return Member(url, concept.code, concept.display, system.version, concept, concept.designations)


async def _filtered(conn: Connection, system: CodeSystem, given: Mapping[str, Any]) -> set[str]:
    """The codes that a filter selects (FHIR R4 valueset-filter-operator)."""
    name, op, value = str(given.get("property")), str(given.get("op")), given.get("value")
    if not isinstance(value, str) or not value:
        raise InvalidInput("a filter has a value", location="ValueSet.compose.include.filter.value")
    if name not in (*_OF_ITSELF, "parent", "child") and name not in system.properties:
        reason = f"the filter property {name} of the code system {system.url} is not known here"
        raise Unsupported(reason, location="ValueSet.compose")
    if op == "regex":
        return await _matching(conn, system, name, value)
    every = set(system.concepts)
    match op, name:
        case "is-a", ("concept" | "code"):
            return {value, *system.below(value)} & every
        case "descendent-of", ("concept" | "code"):
            return set(system.below(value))
        case "is-not-a", ("concept" | "code"):
            return every - {value, *system.below(value)}
        case "generalizes", ("concept" | "code"):
            return {value, *system.above(value)} & every
        case "exists", _:
            return {c for c in every if bool(_property(system, c, name)) == (value == "true")}
    wanted = {v.strip() for v in value.split(",")} if op in ("in", "not-in") else {value}
    if op not in ("=", "in", "not-in"):
        raise InvalidInput("this filter operator does not go with this property", location="ValueSet.compose")
    found = {c for c in every if not wanted.isdisjoint(_property(system, c, name))}
    return every - found if op == "not-in" else found


_OF_ITSELF: Mapping[str, Callable[[Concept], str]] = {
    "code": lambda concept: concept.code,
    "concept": lambda concept: concept.code,
    "display": lambda concept: concept.display,
    "definition": lambda concept: concept.definition,
}


def _property(system: CodeSystem, code: str, name: str) -> list[str]:
    """What a concept has under a property, as the texts that filters are written with."""
    concept = system.concepts[code]
    if name in _OF_ITSELF:
        return [text] if (text := _OF_ITSELF[name](concept)) else []
    if name == "parent":
        return system.parents.get(code, [])
    if name == "child":
        return system.children.get(code, [])
    return list(_texts(concept.values_of(name)))


def _texts(values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        match value:
            case bool():
                yield "true" if value else "false"
            case {"code": str(code)}:
                yield code
            case None:
                pass
            case _:
                yield str(value)


async def _matching(conn: Connection, system: CodeSystem, name: str, pattern: str) -> set[str]:
    """The codes of which a property matches a whole pattern. The database's automaton takes no exponential time."""
    if len(pattern) > _LONGEST_PATTERN or any(f"\\{digit}" in pattern for digit in "123456789"):
        raise Unsupported("a pattern with back references, or a very long one, is not run", location="ValueSet.compose")
    pairs = [(code, text) for code in system.concepts for text in _property(system, code, name)]
    sql = "SELECT DISTINCT code FROM unnest(%s::text[], %s::text[]) AS given (code, value) WHERE value ~ %s"
    try:
        async with conn.transaction():
            rows = await conn.execute(sql, ([c for c, _ in pairs], [t for _, t in pairs], f"^(?:{pattern})$"))
            return {code async for (code,) in rows}
    except InvalidRegularExpression as error:
        raise InvalidInput("the pattern of a filter is no regular expression", location="ValueSet.compose") from error
