"""Values compared as an ElementDefinition compares them (FHIR R4 elementdefinition.html)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wetread.record import structures
from wetread.record.fhirpath import Node
from wetread.record.fhirpath.values import order


def ordered(item: Node, bound: Node) -> int | None:
    """-1, 0 or 1 as a value is below, at or above a bound; None where the two have no order."""
    try:
        return order(item, bound)
    except TypeError:
        return None


def type_fits(own: str, wanted: str) -> bool:
    if not own or wanted.startswith("http://hl7.org/fhirpath/"):
        return True
    return structures.is_a(own, wanted)


def same(value: Any, fixed: Any) -> bool:
    """Equal, numbers by value."""
    if isinstance(value, dict) and isinstance(fixed, Mapping):
        return value.keys() == fixed.keys() and all(same(value[k], fixed[k]) for k in fixed)
    if isinstance(value, list) and isinstance(fixed, list):
        return len(value) == len(fixed) and all(same(v, f) for v, f in zip(value, fixed, strict=True))
    return bool(value == fixed) and isinstance(value, bool) is isinstance(fixed, bool)


def fits(value: Any, pattern: Any) -> bool:
    """Whether a value has all that a pattern has (FHIR R4 elementdefinition.html, `pattern[x]`)."""
    if isinstance(value, dict) and isinstance(pattern, Mapping):
        return all(key in value and fits(value[key], pattern[key]) for key in pattern)
    if isinstance(value, list) and isinstance(pattern, list):
        return all(any(fits(v, p) for v in value) for p in pattern)
    return same(value, pattern)
