"""A profile as rules: its differential on top of those of its bases, by element (FHIR R4 elementdefinition.html)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias

from wetread.record import fhirpath, structures
from wetread.record.fhirpath import syntax
from wetread.record.fhirpath.evaluate import path_of
from wetread.record.fhirpath.functions import REGULAR_EXPRESSIONS
from wetread.record.search.parameters import table

Definitions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Conformance resources by canonical URL: StructureDefinition, ValueSet and CodeSystem."""
CORE = "http://hl7.org/fhir/StructureDefinition/"
_IMPLIED_SLICING = {"discriminator": [{"type": "value", "path": "url"}], "rules": "open"}
_BY_TYPE = {"discriminator": [{"type": "type", "path": "$this"}], "rules": "open"}
_MOST_BASES = 20
NOT_A_PATH = (fhirpath.NotFhirPath, RecursionError, TypeError, ValueError, ArithmeticError)


@dataclass(slots=True)
class Rule:
    """What a profile says of one element: its ElementDefinition, the rules of its children, and its slices."""

    name: str
    told: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Rule] = field(default_factory=dict)
    slices: dict[str, Rule] = field(default_factory=dict)

    def value(self, prefix: str) -> Any:
        """The `fixed[x]` or `pattern[x]` of the element; None where it has none."""
        return next((v for k, v in self.told.items() if k.startswith(prefix) and k[len(prefix) :][:1].isupper()), None)

    @property
    def types(self) -> list[Mapping[str, Any]]:
        return list(self.told.get("type", ()))

    @property
    def slicing(self) -> Mapping[str, Any]:
        if "slicing" in self.told:
            slicing: Mapping[str, Any] = self.told["slicing"]
            return slicing
        return _IMPLIED_SLICING if self.name in ("extension", "modifierExtension") else _BY_TYPE


def tree(profile_url: str, definitions: Definitions) -> tuple[str, Rule] | None:
    """The type that a profile constrains and its rules, those of its bases among them. None where the profile, or one
    that it is based on, is not among the definitions."""
    chain: list[Mapping[str, Any]] = []
    url = profile_url.split("|")[0]
    while not core_type(url):
        definition = definitions.get(url)
        if definition is None or definition.get("resourceType") != "StructureDefinition" or len(chain) > _MOST_BASES:
            return None
        chain.append(definition)
        url = str(definition.get("baseDefinition", "")).split("|")[0]
    name = str(chain[0].get("type", "")) if chain else core_type(url)
    root = Rule(name)
    for definition in reversed(chain):
        form = definition.get("differential") or definition.get("snapshot") or {}
        for element in form.get("element", ()):
            _place(root, element).told.update(element)
    return name, root


def core_type(url: str) -> str:
    """The type whose own definition a URL is; empty for any other."""
    if not url.startswith(CORE):
        return ""
    name = url.removeprefix(CORE)
    known = name in ("Resource", "DomainResource", "Element", "BackboneElement") or structures.structure(name)
    return name if known or name in structures.PRIMITIVES else ""


def _place(root: Rule, element: Mapping[str, Any]) -> Rule:
    """The rule at an element's id, such as `Observation.component:systolic.value[x]`, made where it is new."""
    path = str(element.get("id") or element["path"] + (f":{element['sliceName']}" if "sliceName" in element else ""))
    rule, holder = root, root.name
    for step in path.split(".")[1:]:
        name, _, slice_name = step.partition(":")
        name = name.removesuffix("[x]")
        definition = structures.structure(holder)
        found = definition.members.get(name) if definition else None
        if found and found[0].is_choice and name != found[0].name:  # `valueQuantity` for value[x] as a Quantity
            name, slice_name = found[0].name, slice_name or name
        base = definition.elements.get(name) if definition else None
        rule = rule.children.setdefault(name, Rule(name))
        if slice_name:
            rule = rule.slices.setdefault(slice_name, Rule(name, _told_by_name(base, slice_name)))
        holder = _holder(base, rule)
    return rule


def _told_by_name(base: structures.Element | None, slice_name: str) -> dict[str, Any]:
    """A slice of a choice element, named as R4 names its member, tells its type by its name."""
    kinds = [kind for key, kind in base.members() if key == slice_name] if base and base.is_choice else []
    return {"type": [{"code": kinds[0]}]} if kinds else {}


def _holder(base: structures.Element | None, rule: Rule) -> str:
    codes = [str(t.get("code", "")) for t in rule.types]
    if len(codes) == 1 and codes[0] not in ("BackboneElement", "Element"):
        return codes[0]
    return base.types[0] if base and len(base.types) == 1 else ""


@cache
def _own_expressions() -> frozenset[str]:
    """The invariants of the profiles that come with us, which may have regular expressions."""
    rows = table("profiles-own.json")
    elements = [e for row in rows for e in row.get("differential", row.get("snapshot", {})).get("element", ())]
    return frozenset(c["expression"] for e in elements for c in e.get("constraint", ()) if "expression" in c)


def path_tried(text: str) -> fhirpath.Path | None:
    """An expression of a profile; None for one that is not tried."""
    try:
        parsed = syntax.parse(text)
        is_tried = text in _own_expressions() or REGULAR_EXPRESSIONS.isdisjoint(_functions(parsed))
        return path_of(parsed) if is_tried else None
    except NOT_A_PATH:
        return None


def _functions(part: Any) -> Iterator[str]:
    if isinstance(part, syntax.Call):
        yield part.name
    if is_dataclass(part):
        part = tuple(getattr(part, f.name) for f in fields(part))
    for inner in part if isinstance(part, tuple) else ():
        yield from _functions(inner)
