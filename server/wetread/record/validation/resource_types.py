"""Content against R4's definition of its type, in one walk of the parsed JSON.

Each type is compiled when it is first met: a table from JSON member to what may stand there. The walk looks at every
member: known or not, array or single value, form of primitives and their `_` siblings, number, required codes, types
of references, contained resources, narrative, and the invariants that R4 marks as errors. Invariants that stand
on every element are plain code in `native_rules` (ele-1, ext-1, dom-2 to dom-5, ref-1); the rest are FHIRPath.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from wetread.record import fhirpath, structures
from wetread.record.structures import Element, Structure
from wetread.record.validation.native_rules import SPECIAL, check_contained, contained, target_type
from wetread.record.validation.primitives import CHECKS
from wetread.record.validation.walk import MOST_ISSUES, Issue, Place, Walk

_NATIVE_RULES = frozenset({"ref-1", "txt-1", "txt-2", "dom-2", "dom-3", "dom-4", "dom-5", "ele-1", "ext-1"})
_CORRECTED_RULES = {
    "que-7": "operator = 'exists' implies (answer is boolean)",
    "que-12": "enableWhen.count() > 1 implies enableBehavior.exists()",
}
"""As later releases, and the HL7 validator, have them: R4 4.0.1 writes `Boolean`, which no answer ever is, and `> 2`
where its own words are "more than one"."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9]{0,63}")
_CODED = frozenset({"CodeableConcept", "Coding"})


def is_known(resource_type: str) -> bool:
    """Whether R4 has a resource of that type."""
    return resource_type in structures.all_resource_types()


def check(content: Mapping[str, Any]) -> list[Issue]:
    """Every fault of a resource, up to a number. Its `resourceType` must be one of R4."""
    walk = Walk(content)
    _check_resource(walk, content, ((), content["resourceType"], None), is_root=True)
    return walk.issues[:MOST_ISSUES]


@dataclass(frozen=True, slots=True)
class _Member:
    element: Element
    kind: str
    path: str
    """Its step in FHIRPath: `effective.ofType(dateTime)` for effectiveDateTime."""
    is_primitive: bool
    form: Callable[[Any], bool] | None
    codes: frozenset[str]
    rules: tuple[_Rule, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    path: fhirpath.Path


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    structure: Structure
    members: dict[str, _Member]
    required: tuple[tuple[Element, tuple[str, ...]], ...]
    has_choices: bool
    rules: tuple[_Rule, ...]
    special: Callable[[Walk, dict[str, Any], Place], None] | None


@cache
def _type(name: str) -> _Type | None:
    structure = structures.structure(name)
    if structure is None:
        return None
    members = {key: _member(element, kind) for key, (element, kind) in structure.members.items()}
    required = [(e, _both(e)) for e in structure.elements.values() if e.min]
    has_choices = any(e.is_choice for e in structure.elements.values())
    return _Type(name, structure, members, tuple(required), has_choices, _rules(structure.rules), SPECIAL.get(name))


def _both(element: Element) -> tuple[str, ...]:
    """The members that can stand for an element, `_` siblings of primitives among them."""
    keys = [key for key, _ in element.members()]
    return (*keys, *(f"_{key}" for key, kind in element.members() if kind in structures.PRIMITIVES))


def _member(element: Element, kind: str) -> _Member:
    codes = frozenset[str]().union(*structures.codes(element.codes).values()) if kind == "code" else frozenset[str]()
    path = f"{element.name}.ofType({_corrected(kind)})" if element.is_choice else element.name
    return _Member(element, kind, path, kind in structures.PRIMITIVES, CHECKS.get(kind), codes, _rules(element.rules))


def _corrected(kind: str) -> str:
    return "Quantity" if kind == "SimpleQuantity" else kind


def _rules(rows: tuple[structures.Rule, ...]) -> tuple[_Rule, ...]:
    return tuple(
        _Rule(key, fhirpath.compiled(_CORRECTED_RULES.get(key, text))) for key, text in rows if key not in _NATIVE_RULES
    )


def _check_resource(walk: Walk, content: Any, place: Place, *, is_root: bool = False) -> None:
    """A resource: the root, one contained in it, or one in a Bundle's entry."""
    if type(content) is not dict:
        walk.add("structure", place, "a resource must be a JSON object")
        return
    name = content.get("resourceType")
    if not isinstance(name, str):
        walk.add("required", (place, "resourceType", None), "a required element is missing")
        return
    definition = _type(name) if name in structures.all_resource_types() else None
    if definition is None:
        walk.add("structure", place, "R4 has no resource of that type")
        return
    held = walk.resource, walk.root, walk.contained, walk.ids
    walk.resource, walk.ids = content, set()
    if is_root or place[1] != "contained":
        walk.root = content
        walk.contained = contained(content)
    _check_object(walk, definition, content, place, True)
    walk.resource, walk.root, walk.contained, walk.ids = held


def _check_object(
    walk: Walk, definition: _Type, content: Any, place: Place, is_resource: bool = False, has_value: bool = False
) -> None:
    """The members of a JSON object; `has_value` for the sibling of a primitive that has one."""
    if type(content) is not dict:
        walk.add("structure", place, f"a value of type {definition.name} must be a JSON object")
        return
    if walk.is_full:
        return
    before = len(walk.issues)
    members = definition.members
    for key, value in content.items():
        member = members.get(key)
        if member is not None:
            _check_member(walk, member, key, value, content, place)
        elif key[:1] == "_" and (sibling := members.get(key[1:])) is not None and sibling.is_primitive:
            _check_sibling(walk, sibling, key, value, content, place)
        elif not (is_resource and key == "resourceType"):
            # A name of another form may be content, and is not repeated.
            where = (place, key, None) if _NAME.fullmatch(key) else place
            walk.add("structure", where, "R4 has no such element here")
    for element, keys in definition.required:
        if not any(content.get(key, []) != [] for key in keys):
            walk.add("required", (place, element.name, None), "a required element is missing")
    if definition.has_choices:
        _check_choices(walk, members, content, place)
    if not is_resource and not has_value and not content.keys() - {"id"}:
        walk.add("invariant", place, "ele-1: an element must have a value or children")
    if not is_resource and "id" in content:
        _check_id(walk, content["id"], place)
    if definition.special is not None:
        definition.special(walk, content, place)
    if is_resource and "contained" in content:
        check_contained(walk, content, place)
    if definition.rules and len(walk.issues) == before:
        node = fhirpath.Node(content, definition.name)
        _check_rules(walk, definition.rules, node, place)


def _check_choices(walk: Walk, members: dict[str, _Member], content: dict[str, Any], place: Place) -> None:
    given: dict[str, str] = {}
    for key in content:
        name = key.removeprefix("_")
        member = members.get(name)
        if member is not None and member.element.is_choice and given.setdefault(member.element.name, name) != name:
            walk.add("structure", place, "only one of the forms of a choice element may be given")


def _check_rules(walk: Walk, rules: tuple[_Rule, ...], node: fhirpath.Node, place: Place) -> None:
    """Invariants are tried only on what is else sound: their expressions presume the structure."""
    resource, root = fhirpath.root(walk.resource), fhirpath.root(walk.root)
    for rule in rules:
        if not fhirpath.holds(rule.path, node, resource, root):
            walk.add("invariant", place, f"{rule.key}: the invariant of R4 does not hold")


def _check_member(walk: Walk, member: _Member, key: str, value: Any, content: dict[str, Any], place: Place) -> None:
    if not member.element.array:
        if type(value) is list:
            walk.add("structure", (place, member.path, None), "this element is a single value, not an array")
        else:
            _check_value(walk, member, value, (place, member.path, None))
        return
    if type(value) is not list:
        walk.add("structure", (place, key, None), "this element is an array")
        return
    if not value and not member.is_primitive:  # senders leave `line` and `given` empty, and the HL7 validator lets them
        walk.add("structure", (place, key, None), "an array must not be empty")
    if member.element.max and len(value) > member.element.max:
        walk.add("structure", (place, key, None), "the element is given more often than R4 allows")
    siblings = content.get(f"_{key}") if member.is_primitive else None
    for index, item in enumerate(value):
        if item is None and type(siblings) is list and index < len(siblings) and siblings[index] is not None:
            continue  # its extensions stand in the sibling (FHIR R4 json.html 2.6.2.3)
        _check_value(walk, member, item, (place, key, index))


def _check_value(walk: Walk, member: _Member, value: Any, place: Place) -> None:
    if member.is_primitive:
        if not member.form(value):  # type: ignore[misc]
            walk.add("value", place, f"the value does not have the form of the primitive type {member.kind}")
            return
        if member.codes and value not in member.codes:
            some = ", ".join(sorted(member.codes)[:12])
            walk.add("code-invalid", place, f"not a code of the required binding; R4 allows {some}")
        if member.rules:
            _check_rules(walk, member.rules, fhirpath.Node(value, member.kind), place)
        return
    if member.kind == "Resource":
        _check_resource(walk, value, place)
        return
    before = len(walk.issues)
    definition = _type(member.kind)
    if definition is None:  # xhtml's and Element's own
        return
    _check_object(walk, definition, value, place)
    if len(walk.issues) > before or walk.is_full:  # a full walk has not looked within
        return
    if member.kind == "Reference" and member.element.targets:
        _check_target(walk, member.element.targets, value, place)
    if member.element.codes and member.kind in _CODED:
        _check_concept(walk, member, value, place)
    if member.rules:
        _check_rules(walk, member.rules, fhirpath.Node(value, member.kind), place)


def _check_id(walk: Walk, value: Any, place: Place) -> None:
    """Ids of elements are unique within their resource (FHIR R4 element.html 2.24.0.5). An ElementDefinition's, which
    is a path, stands in both the differential and the snapshot."""
    if isinstance(value, str) and place[1] != "element":
        if value in walk.ids:
            walk.add("invariant", (place, "id", None), "another element of this resource has the same id")
        walk.ids.add(value)


def _check_sibling(walk: Walk, member: _Member, key: str, value: Any, content: dict[str, Any], place: Place) -> None:
    """`_name`: id and extensions of a primitive, aligned with the values where it is an array."""
    definition = _type("Element")
    assert definition is not None  # noqa: S101  a type of R4
    if not member.element.array:
        _check_object(walk, definition, value, (place, member.path, None), has_value=key[1:] in content)
        return
    if type(value) is not list or not value:
        walk.add("structure", (place, key[1:], None), "this element is an array, and so is its sibling")
        return
    given = content.get(key[1:])
    values = given if type(given) is list else []
    for index, item in enumerate(value):
        if item is not None:
            has_value = index < len(values) and values[index] is not None
            _check_object(walk, definition, item, (place, key[1:], index), has_value=has_value)
        elif index >= len(values):
            walk.add("structure", (place, key[1:], index), "an item of an array has neither a value nor extensions")


def _check_target(walk: Walk, targets: frozenset[str], value: dict[str, Any], place: Place) -> None:
    """The type of what a reference points to, as far as its own text or a contained resource tells."""
    found = target_type(walk.contained, value)
    if found and found not in targets:
        text = f"the reference may point to {', '.join(sorted(targets))} only"
        walk.add("invalid", place, text, is_tolerable=True)
    told = value.get("type")
    if found and isinstance(told, str) and told != found and "/" not in told:
        walk.add("invalid", (place, "type", None), "the reference's type is not that of what it points to")


def _check_concept(walk: Walk, member: _Member, value: dict[str, Any], place: Place) -> None:
    allowed = structures.codes(member.element.codes)
    codings = value.get("coding", ()) if member.kind == "CodeableConcept" else (value,)
    if not codings and "extension" in value:
        return
    if not any(coding.get("code") in allowed.get(coding.get("system", ""), ()) for coding in codings):
        walk.add("code-invalid", place, "no coding is of the required binding")
