"""R4's types: which elements each has, as `data/structures.json` tells (made by conformance/r4/tables.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from wetread.record.search.parameters import table

_PRIMITIVES = """
    base64Binary boolean canonical code date dateTime decimal id instant integer markdown oid positiveInt string time
    unsignedInt uri url uuid xhtml
"""
PRIMITIVES = frozenset(_PRIMITIVES.split())
_PARENTS = {
    "code": "string",
    "id": "string",
    "markdown": "string",
    "canonical": "uri",
    "oid": "uri",
    "url": "uri",
    "uuid": "uri",
    "positiveInt": "integer",
    "unsignedInt": "integer",
    "Age": "Quantity",
    "Count": "Quantity",
    "Distance": "Quantity",
    "Duration": "Quantity",
    "SimpleQuantity": "Quantity",
    "Bundle": "Resource",
    "Binary": "Resource",
    "Parameters": "Resource",
    "DomainResource": "Resource",
    "Timing": "BackboneElement",
    "Dosage": "BackboneElement",
    "ElementDefinition": "BackboneElement",
    "BackboneElement": "Element",
}
Rule = tuple[str, str]
"""The key of an invariant and its FHIRPath expression."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a type. `name` is without `[x]`; `max` is 0 where unlimited; `targets` is empty where any."""

    name: str
    is_choice: bool
    min: int
    max: int
    types: tuple[str, ...]
    array: bool
    targets: frozenset[str]
    codes: str
    rules: tuple[Rule, ...]

    def members(self) -> list[tuple[str, str]]:
        """The names that its JSON member may have, each with the type that the name tells."""
        if not self.is_choice:
            return [(self.name, self.types[0])]
        return [(self.name + _suffix(name), name) for name in self.types]


@dataclass(frozen=True, slots=True)
class Structure:
    """A type, or a backbone element by its path. `members` leads from a JSON member to its element and type."""

    name: str
    elements: dict[str, Element]
    members: dict[str, tuple[Element, str]]
    rules: tuple[Rule, ...]

    @property
    def is_resource(self) -> bool:
        return is_a(self.name, "Resource")


def _suffix(type_name: str) -> str:
    name = "Quantity" if type_name == "SimpleQuantity" else type_name
    return name[0].upper() + name[1:]


@cache
def _rows() -> dict[str, Any]:
    rows: dict[str, Any] = table("structures.json")
    return rows


@lru_cache(maxsize=8192)  # callers' expressions name what they like
def structure(name: str) -> Structure | None:
    """The type of that name, or the backbone element at that path (`Observation.component`); None for any other."""
    row = _rows().get(name)
    if row is None:
        return None
    elements = {key.removesuffix("[x]"): _element(key, e) for key, e in row["elements"].items()}
    members = {key: (element, kind) for element in elements.values() for key, kind in element.members()}
    return Structure(name, elements, members, tuple((k, x) for k, x in row["rules"]))


def _element(key: str, row: dict[str, Any]) -> Element:
    return Element(
        name=key.removesuffix("[x]"),
        is_choice=key.endswith("[x]"),
        min=row["min"],
        max=row["max"],
        types=tuple(row["types"]),
        array=row.get("array", False),
        targets=frozenset(row.get("targets", ())),
        codes=row.get("codes", ""),
        rules=tuple((k, x) for k, x in row.get("rules", ())),
    )


@cache
def all_resource_types() -> frozenset[str]:
    """Every concrete resource type of R4, whether stored here or not."""
    return frozenset(table("resource-types.json"))


@lru_cache(maxsize=8192)  # callers' expressions name what they like
def is_a(name: str, ancestor: str) -> bool:
    """Whether a type is another or derives from it (FHIR R4 2.24.0)."""
    while name != ancestor:
        if name in _PARENTS:
            name = _PARENTS[name]
        elif name in all_resource_types():
            name = "DomainResource"
        elif name in ("Element", "Resource", ""):
            return False
        else:
            name = "BackboneElement" if "." in name else "Element"
    return True


@cache
def codes(value_set: str) -> dict[str, frozenset[str]]:
    """The codes of a value set that R4 requires somewhere, by code system; empty for a value set that is not one."""
    return {system: frozenset(row) for system, row in table_of_value_sets().get(value_set, {}).items()}


@cache
def table_of_value_sets() -> dict[str, dict[str, list[str]]]:
    rows: dict[str, dict[str, list[str]]] = table("value-sets.json")
    return rows
