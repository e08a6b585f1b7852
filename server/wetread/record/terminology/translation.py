"""ConceptMap/$translate (FHIR R4 conceptmap-operation-translate.html)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wetread.errors import InvalidInput, NotFound
from wetread.record.operations.input import Given
from wetread.record.terminology import definitions, expansion
from wetread.record.terminology.code_checks import Coding, coding_of, parameters
from wetread.record.terminology.definitions import Definition
from wetread.store.database import Connection

_NO_MATCH = ("unmatched", "disjoint")
_OTHER_WAY = {"wider": "narrower", "narrower": "wider", "subsumes": "specializes", "specializes": "subsumes"}
_MOST_HOPS = 5


async def translate(conn: Connection, given: Given, instance: Definition | None) -> dict[str, Any]:
    """The codes that a code is mapped to. Raises InvalidInput, NotFound for a concept map that is not here."""
    codings = _codings(given)
    maps = await _maps(conn, given, instance)
    matches: list[dict[str, Any]] = []
    for concept_map in maps:
        for coding in codings:
            matches += await _matches(conn, concept_map, coding, given, _MOST_HOPS)
    matches = [m for n, m in enumerate(matches) if m not in matches[:n]]
    result = any(m["part"][0]["valueCode"] not in _NO_MATCH for m in matches)
    message = "" if result else "no concept map here maps this code" if not matches else "the code has no counterpart"
    return parameters(
        {"name": "result", "valueBoolean": result},
        *([{"name": "message", "valueString": message}] if message else []),
        *matches,
    )


def _codings(given: Given) -> Sequence[Coding]:
    forms = [name for name in ("code", "coding", "codeableConcept") if name in given.values]
    if len(forms) != 1:
        raise InvalidInput("give one of code, coding and codeableConcept", location="code")
    if forms == ["code"]:
        if not given.text("system"):
            raise InvalidInput("a code is translated with its system", location="system")
        return [Coding(given.text("system"), given.text("code"), version=given.text("version"))]
    value = given.one(forms[0])
    return [coding_of(c) for c in (value.get("coding", ()) if forms == ["codeableConcept"] else (value,))]


async def _maps(conn: Connection, given: Given, instance: Definition | None) -> Sequence[Definition]:
    """The one concept map that is named, or all between the value sets or systems that are named."""
    if instance is not None:
        return [instance]
    if given.one("conceptMap") is not None:
        await expansion.require_form(given.one("conceptMap"))
        return [given.one("conceptMap")]
    if given.text("url"):
        found = await definitions.find(conn, "ConceptMap", given.text("url"), given.text("conceptMapVersion"))
        if found is None:
            raise NotFound("no concept map of this url and version here; store it as a ConceptMap", location="url")
        return [found]
    return [
        m
        for m in await definitions.concept_maps(conn)
        if _is_between(m, "source", given.text("source")) and _is_between(m, "target", given.text("target"))
    ]


def _is_between(concept_map: Definition, end: str, value_set: str) -> bool:
    if not value_set:
        return True
    named = concept_map.get(f"{end}Canonical") or concept_map.get(f"{end}Uri") or ""
    return bool(named.partition("|")[0] == value_set.partition("|")[0])


async def _matches(
    conn: Connection, concept_map: Definition, coding: Coding, given: Given, hops: int
) -> list[dict[str, Any]]:
    """The matches of one code in one concept map; those that hang on other elements (`dependsOn`) are left out."""
    reverse = given.flag("reverse")
    found: list[dict[str, Any]] = []
    for group in concept_map.get("group", ()):
        source, target = (group.get(end, "") for end in (("target", "source") if reverse else ("source", "target")))
        if source != coding.system or given.text("targetsystem") not in ("", target):
            continue
        rows = list(_backward(group, coding.code) if reverse else _forward(group, coding.code))
        if not rows and not reverse and "unmapped" in group:
            found += await _unmapped(conn, group, coding, given, hops)
        version = group.get("sourceVersion" if reverse else "targetVersion", "")
        for equivalence, code, display, products in rows:
            found.append(_match(concept_map, equivalence, (target, version, code, display), products))
    return found


def _forward(group: Mapping[str, Any], code: str) -> Iterator[tuple[str, str, str, Sequence[Mapping[str, Any]]]]:
    for element in group.get("element", ()):
        if element.get("code") == code:
            for target in element.get("target", ()):
                if "dependsOn" not in target:
                    products = target.get("product", ())
                    yield target["equivalence"], target.get("code", ""), target.get("display", ""), products


def _backward(group: Mapping[str, Any], code: str) -> Iterator[tuple[str, str, str, Sequence[Mapping[str, Any]]]]:
    for element in group.get("element", ()):
        for target in element.get("target", ()):
            if target.get("code") == code and "dependsOn" not in target:
                equivalence = _OTHER_WAY.get(target["equivalence"], target["equivalence"])
                yield equivalence, element.get("code", ""), element.get("display", ""), ()


async def _unmapped(
    conn: Connection, group: Mapping[str, Any], coding: Coding, given: Given, hops: int
) -> list[dict[str, Any]]:
    """What a group says of codes that it does not list."""
    rule = group["unmapped"]
    target, version = group.get("target", ""), group.get("targetVersion", "")
    match rule.get("mode"):
        case "provided":
            return [_match({}, "equal", (target, version, coding.code, ""), ())]
        case "fixed":
            return [_match({}, "wider", (target, version, rule.get("code", ""), rule.get("display", "")), ())]
        case "other-map" if hops:
            other = await definitions.find(conn, "ConceptMap", str(rule.get("url", "")))
            return await _matches(conn, other, coding, given, hops - 1) if other else []
    return []


def _match(
    concept_map: Definition, equivalence: str, target: tuple[str, str, str, str], products: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    concept = {k: v for k, v in zip(("system", "version", "code", "display"), target, strict=True) if v}
    parts: list[dict[str, Any]] = [{"name": "equivalence", "valueCode": equivalence}]
    if "code" in concept:
        parts.append({"name": "concept", "valueCoding": concept})
    parts += [_product(p) for p in products]
    if "url" in concept_map:
        parts.append({"name": "source", "valueUri": concept_map["url"]})
    return {"name": "match", "part": parts}


def _product(given: Mapping[str, Any]) -> dict[str, Any]:
    coding = {"system": given.get("system"), "code": given.get("value"), "display": given.get("display")}
    return {
        "name": "product",
        "part": [
            {"name": "element", "valueUri": given.get("property", "")},
            {"name": "concept", "valueCoding": {k: v for k, v in coding.items() if v}},
        ],
    }
