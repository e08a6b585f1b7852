"""What judging content by a profile needs: the profile, what it is based on and refers to, and the codes of its
bindings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from wetread.errors import Refused
from wetread.record.search.parameters import table
from wetread.record.terminology import definitions, value_set
from wetread.record.terminology.definitions import Definition
from wetread.record.validation import validate
from wetread.record.validation.validate import Issue
from wetread.store.database import Connection

_MOST = 200
_VITAL_SIGNS = {
    "85353-1": "vitalspanel",
    "9279-1": "resprate",
    "8867-4": "heartrate",
    "2708-6": "oxygensat",
    "8310-5": "bodytemp",
    "8302-2": "bodyheight",
    "9843-4": "headcircum",
    "29463-7": "bodyweight",
    "39156-5": "bmi",
    "85354-9": "bp",
}
"""LOINC code to the profile that an Observation of it must conform to (FHIR R4 observation-vitalsigns.html 10.1.3)."""


async def faults(conn: Connection, content: Mapping[str, Any], profile_url: str = "") -> list[Issue]:
    """What is wrong with a resource by R4, by the profile that is named, by those that it claims or that R4 lays on its
    code, and by the definitions of its extensions. A profile that is named must be known; the others need not be."""
    claimed = [url for url in dict.fromkeys([*_claimed(content), *_of_code(content)]) if url != profile_url]
    known = await definitions_of(conn, [profile_url, *claimed, *_extension_urls(content)])
    asked = [url for url in claimed if url.partition("|")[0] in known]
    return await asyncio.to_thread(_faults, content, [profile_url, *asked] if profile_url else asked, known)


def _faults(content: Mapping[str, Any], profile_urls: Iterable[str], known: Mapping[str, Definition]) -> list[Issue]:
    found = [*validate.issues(content), *validate.check_extensions(content, known)]
    for url in profile_urls:
        found += validate.check_profile(content, url, known)
    return list(dict.fromkeys(found))


def _claimed(content: Mapping[str, Any]) -> list[str]:
    meta = content.get("meta")
    urls = meta.get("profile") if isinstance(meta, Mapping) else None
    return [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []


def _of_code(content: Mapping[str, Any]) -> Iterator[str]:
    code = content.get("code") if content.get("resourceType") == "Observation" else None
    codings = code.get("coding") if isinstance(code, Mapping) else None
    for coding in codings if isinstance(codings, list) else ():
        if not isinstance(coding, Mapping) or coding.get("system") != "http://loinc.org":
            continue
        if name := _VITAL_SIGNS.get(str(coding.get("code"))):
            yield f"http://hl7.org/fhir/StructureDefinition/{name}"


def _extension_urls(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, member in value.items():
            if key in ("extension", "modifierExtension") and isinstance(member, list):
                yield from (str(e["url"]) for e in member if isinstance(e, Mapping) and "url" in e)
            yield from _extension_urls(member)
    elif isinstance(value, list):
        for member in value:
            yield from _extension_urls(member)


@cache
def _shipped() -> Mapping[str, Definition]:
    rows = [*table("profiles-r4.json"), *table("profiles-own.json")]
    return {row["url"]: row for row in rows}


async def definitions_of(conn: Connection, profile_urls: Iterable[str]) -> Mapping[str, Definition]:
    """Canonical to StructureDefinition or ValueSet, as `validate.check_profile` takes them.

    Value sets of required bindings come as lists of their codes; one that cannot be listed here is left out.
    """
    found: dict[str, Definition] = {}
    asked: set[str] = set()
    waiting = [url for url in dict.fromkeys(profile_urls) if url]
    while waiting and len(found) < _MOST:
        canonical = waiting.pop()
        url = canonical.partition("|")[0]
        if url in asked:
            continue
        asked.add(url)
        profile = await definitions.find(conn, "StructureDefinition", canonical) or _shipped().get(url)
        if profile is not None and profile.get("derivation", "constraint") == "constraint":
            found[url] = profile
            waiting += _profiles(profile)
            for bound in _bound(profile):
                listed = await _listed(conn, bound) if bound not in found else None
                if listed is not None:
                    found[bound.partition("|")[0]] = listed
    return found


def _elements(profile: Definition) -> Iterator[Mapping[str, Any]]:
    form = profile.get("differential") or profile.get("snapshot") or {}
    yield from form.get("element", ())


def _profiles(profile: Definition) -> Iterator[str]:
    yield str(profile.get("baseDefinition", ""))
    for element in _elements(profile):
        for type_ in element.get("type", ()):
            yield from type_.get("profile", ())


def _bound(profile: Definition) -> Iterator[str]:
    for element in _elements(profile):
        binding = element.get("binding", {})
        if binding.get("strength") == "required" and "valueSet" in binding:
            yield binding["valueSet"]


async def _listed(conn: Connection, canonical: str) -> Definition | None:
    definition = await definitions.find(conn, "ValueSet", canonical)
    if definition is None:
        return None
    try:
        selected = await value_set.selected(conn, definition)
    except Refused:
        return None
    if selected.whole or selected.unknown:
        return None
    by_system: dict[str, list[dict[str, str]]] = {}
    for system, code in selected.members:
        by_system.setdefault(system, []).append({"code": code})
    include = [{"system": system, "concept": codes} for system, codes in by_system.items()]
    return {"resourceType": "ValueSet", "url": definition["url"], "compose": {"include": include}}
