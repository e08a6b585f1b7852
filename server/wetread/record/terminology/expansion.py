"""ValueSet/$expand (FHIR R4 valueset-operation-expand.html)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from wetread.errors import InvalidInput, NotFound, TooCostly, Unsupported
from wetread.record.operations.input import Given
from wetread.record.search.index import folded
from wetread.record.splice import instant
from wetread.record.terminology import definitions, value_set
from wetread.record.terminology.definitions import Definition
from wetread.record.terminology.value_set import Member, Selected, Versions
from wetread.record.validation import validate
from wetread.store.database import Connection

MOST_UNPAGED = 10_000
_ENDLESS = {
    "http://snomed.info/sct": "SNOMED CT",
    "http://loinc.org": "LOINC",
    "http://unitsofmeasure.org": "UCUM",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "RxNorm",
    "urn:ietf:bcp:13": "the MIME types",
    "urn:ietf:bcp:47": "the language tags",
    "urn:iso:std:iso:11073:10101": "the ISO 11073 nomenclature",
    "http://www.ama-assn.org/go/cpt": "CPT",
}
"""Code systems too large, or without end, to list."""

_KEPT = ("url", "version", "name", "title", "status")
_ECHOED = ("filter", "count", "offset", "activeOnly", "excludeNotForUI", "includeDesignations", "displayLanguage")


async def definition_of(conn: Connection, given: Given, instance: Definition | None) -> Definition:
    """The value set that an operation is about. Raises InvalidInput where none is named, NotFound."""
    if instance is not None:
        return instance
    if given.one("valueSet") is not None:
        definition: Definition = given.one("valueSet")
        await require_form(definition)
        return definition
    if not given.text("url"):
        raise InvalidInput("name a value set: url or valueSet, or call it on a ValueSet of this server", location="url")
    found = await definitions.find(conn, "ValueSet", given.text("url"), given.text("valueSetVersion"))
    if found is None:
        raise NotFound("no value set of this url and version here; store it as a ValueSet", location="url")
    return found


async def require_form(definition: Definition) -> None:
    """A definition given in the call has not passed the validator of what is stored."""
    await asyncio.to_thread(validate.check, {"status": "draft", **definition})


async def expand(conn: Connection, given: Given, instance: Definition | None) -> dict[str, Any]:
    """An expanded ValueSet, flat: no code stands in another.

    Raises NotFound, InvalidInput, TooCostly where the list would be too long, Unsupported where what is selected hangs
    on a code system that is not held.
    """
    offset, count = given.number("offset", 0), given.number("count", -1)
    if offset < 0 or (count < 0 and "count" in given.values):
        raise InvalidInput("offset and count are 0 or more", location="offset" if offset < 0 else "count")
    definition = await definition_of(conn, given, instance)
    checked = _versions(given.every("check-system-version"))
    proposed = {**checked, **_versions(given.every("system-version"))}
    versions = Versions(_versions(given.every("force-system-version")), proposed)
    selected = await value_set.selected(conn, definition, versions)
    _require_listable(selected)
    _require_versions(selected, checked)
    members = list(_wanted(selected.members.values(), given))
    if count < 0 and len(members) - offset > MOST_UNPAGED:
        raise TooCostly(f"the expansion has more than {MOST_UNPAGED} codes; ask for parts with count and offset")
    page = members[offset : offset + count] if count >= 0 else members[offset:]
    kept = {key: value for key, value in definition.items() if key in _KEPT}
    if given.flag("includeDefinition") and "compose" in definition:
        kept["compose"] = definition["compose"]
    return {
        "resourceType": "ValueSet",
        "status": "active",
        **kept,
        "expansion": {
            "identifier": uuid.uuid4().urn,
            "timestamp": instant(datetime.now(UTC)),
            "total": len(members),
            **({"offset": offset} if offset or count >= 0 else {}),
            "parameter": list(_parameters(given, selected)),
            **({"contains": [_contained(m, given) for m in page]} if page else {}),
        },
    }


def _versions(canonicals: Iterable[str]) -> dict[str, str]:
    pairs = [c.partition("|") for c in canonicals]
    if not all(version for _, _, version in pairs):
        raise InvalidInput("a code system's version is given as system|version", location="system-version")
    return {system: version for system, _, version in pairs}


def _require_listable(selected: Selected) -> None:
    for system in (*selected.whole, *selected.unknown):
        if system in _ENDLESS:
            raise TooCostly(
                f"the value set takes codes from {_ENDLESS[system]}, too many to list here; check codes one by one"
                " with $validate-code",
                location="ValueSet.compose",
            )
    for system in selected.whole:
        raise Unsupported(f"the code system {system} is not held here; store it as a CodeSystem", location="system")
    for reason in selected.unknown.values():
        raise Unsupported(f"{reason}; store it as a CodeSystem", location="ValueSet.compose")


def _require_versions(selected: Selected, wanted: Mapping[str, str]) -> None:
    for url, system in selected.systems.items():
        if url in wanted and not definitions.is_version(system.version, wanted[url]):
            raise Unsupported("the code system's version is not the one to be checked", location="check-system-version")


def _wanted(members: Iterable[Member], given: Given) -> Iterator[Member]:
    words = folded(given.text("filter")).split()
    left_out = {c.partition("|")[0] for c in given.every("exclude-system")}
    for member in members:
        if (
            member.system in left_out
            or (member.inactive and given.flag("activeOnly"))
            or (member.abstract and given.flag("excludeNotForUI"))
        ):
            continue
        texts = (member.code, member.display, *(str(d.get("value", "")) for d in member.designations))
        if not words or any(all(word in text for word in words) for text in map(folded, texts)):
            yield member


def display_in(member: Member, languages: str) -> str:
    """The display of a code in the first of some languages, such as `de-CH,de;q=0.9`, that it has one in."""
    for tag in languages.lower().split(",") if languages else ():
        wanted = tag.partition(";")[0].strip()
        for designation in member.designations:
            own = str(designation.get("language", "")).lower()
            if own and (own == wanted or own.startswith(f"{wanted}-") or wanted.startswith(f"{own}-")):
                return str(designation.get("value", ""))
    return member.display


def _contained(member: Member, given: Given) -> dict[str, Any]:
    display = display_in(member, given.text("displayLanguage"))
    asked = given.every("designation")
    listed = [
        d
        for d in member.designations
        if (given.flag("includeDesignations") and not asked) or any(_is_asked(d, token) for token in asked)
    ]
    return {
        **({"system": member.system} if member.system else {}),
        **({"abstract": True} if member.abstract else {}),
        **({"inactive": True} if member.inactive else {}),
        **({"version": member.version} if member.version else {}),
        "code": member.code,
        **({"display": display} if display else {}),
        **({"designation": listed} if listed else {}),
    }


def _is_asked(designation: Mapping[str, Any], token: str) -> bool:
    """`designation` is a token: a language as `urn:ietf:bcp:47|de`, or a use as system|code."""
    system, bar, code = token.rpartition("|")
    if not bar or system == "urn:ietf:bcp:47":
        return bool(designation.get("language") == code)
    use = designation.get("use", {})
    return bool(use.get("system") == system and use.get("code") == code)


def _parameters(given: Given, selected: Selected) -> Iterator[dict[str, Any]]:
    for name in _ECHOED:
        match given.one(name):
            case bool() as value:
                yield {"name": name, "valueBoolean": value}
            case int() as value:
                yield {"name": name, "valueInteger": value}
            case str() as value:
                yield {"name": name, "valueCode" if name == "displayLanguage" else "valueString": value}
    for url, system in selected.systems.items():
        if system.version:
            yield {"name": "version", "valueUri": f"{url}|{system.version}"}
