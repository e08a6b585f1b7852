"""The codes of a value set, listed from the definitions at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from wetread.record import structures

Codes: TypeAlias = dict[str, set[str]]
_DEEPEST = 8


def codes_of(url: str, definitions: Mapping[str, Mapping[str, Any]], depth: int = 0) -> Codes | None:
    """Code system to codes; None where a part of the value set cannot be listed: a filter, or a code system that is
    not among the definitions or incomplete."""
    url = url.split("|")[0]
    value_set = definitions.get(url)
    if value_set is None or value_set.get("resourceType") != "ValueSet":
        known = structures.codes(url)
        return {system: set(codes) for system, codes in known.items()} or None
    if depth > _DEEPEST:
        return None
    compose = value_set.get("compose", {})
    found: Codes = defaultdict(set)
    for include in compose.get("include", ()):
        part = _included(include, definitions, depth)
        if part is None:
            return None
        for system, codes in part.items():
            found[system] |= codes
    for exclude in compose.get("exclude", ()):
        part = _included(exclude, definitions, depth)
        if part is None:
            return None
        for system, codes in part.items():
            found[system] -= codes
    return dict(found) if compose else None


def _included(include: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]], depth: int) -> Codes | None:
    if "filter" in include:
        return None
    parts: list[Codes] = []
    if "system" in include:
        codes = _of_system(include, definitions)
        if codes is None:
            return None
        parts.append({include["system"]: codes})
    for url in include.get("valueSet", ()):
        part = codes_of(url, definitions, depth + 1)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return None
    first, *rest = parts
    return {s: {c for c in codes if all(c in p.get(s, ()) for p in rest)} for s, codes in first.items()}


def _of_system(include: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]) -> set[str] | None:
    if "concept" in include:
        return {concept["code"] for concept in include["concept"]}
    system = definitions.get(include["system"])
    if system is None or system.get("content") != "complete":
        return None
    return set(_codes(system.get("concept", ())))


def _codes(concepts: Any) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _codes(concept.get("concept", ()))
