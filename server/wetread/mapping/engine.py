"""Runs a resource map: segments in, one FHIR resource out; and lays a new resource over a stored one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from wetread.mapping.datatypes import CONVERTERS, Scope
from wetread.mapping.model import Element, ResourceMap, Rule
from wetread.mapping.paths import Context, Datum, Path
from wetread.mapping.times import in_order

ORIGINAL_CODE = "https://wetread.org/fhir/StructureDefinition/original-code"
"""Extension (valueString): the sender's code, where a required binding forced another one. See docs/mapping.md."""

Nulls = tuple[tuple[Element, Mapping[str, Any]], ...]
"""Elements the sender asked to delete (`""`), each with the rule's defaults, which tell its entries from others."""


def applies(resource_map: ResourceMap, context: Context) -> bool:
    """Whether the map's `when` path, if it has one, holds a value."""
    return resource_map.when is None or any(datum.text for datum in resource_map.when.read(context))


def build(resource_map: ResourceMap, scope: Scope, resource_id: str) -> dict[str, Any]:
    """The resource that the map makes of the scope's segments. Elements without a value are absent."""
    resource: dict[str, Any] = {"resourceType": resource_map.resource_type, "id": resource_id}
    for element in resource_map.elements:
        if element.unless is not None and element.unless in resource:
            continue
        values: list[Any] = []
        for rule in element.rules:
            values += [value for value in _values(rule, scope) if value not in values]
        if not values:
            values = [deepcopy(rule.if_new) for rule in element.rules if rule.if_new is not None]
        if values:
            _put(resource, element, values if element.repeats else values[0])
    return _sound(resource)


def nulls(resource_map: ResourceMap, context: Context) -> Nulls:
    """What the sender asked to delete: elements whose first path that says anything says `""` (v2.5.1 2.5.3.3)."""
    return tuple(
        (element, rule.default) for element in resource_map.elements for rule in element.rules if _null(rule, context)
    )


def lay_over(
    stored: Mapping[str, Any], new: Mapping[str, Any], resource_map: ResourceMap, null: Nulls
) -> dict[str, Any]:
    """`stored` with what `new` says. Silence changes nothing, a null deletes, unmapped elements stay."""
    result = deepcopy(dict(stored))
    for element, default in null:
        if _get(new, element.path) is None:
            _delete(result, element, default)
    for element in resource_map.elements:
        value, old = _get(new, element.path), _get(result, element.path)
        if value is None or (old is not None and (element.once or any(rule.if_new == value for rule in element.rules))):
            continue
        if element.match and isinstance(old, list):
            value = _joined(old, value, element.match)
        _put(result, element, deepcopy(value))
        _carry_sibling(result, new, element)
        if element.unless is not None and element.unless in new:
            result.pop(element.path[0], None)
        for other in resource_map.elements:
            if other.unless == element.path[0]:
                result.pop(other.path[0], None)
    return _sound(result)


def _sound(resource: dict[str, Any]) -> dict[str, Any]:
    """Keeps two R4 invariants that no map can express: per-1 (a period does not end before it starts; the end goes) and
    prr-1 (orderDetail needs a code)."""
    period = resource.get("period")
    if isinstance(period, dict) and {"start", "end"} <= period.keys() and not in_order(period["start"], period["end"]):
        resource["period"] = {key: value for key, value in period.items() if key != "end"}
    if resource["resourceType"] == "ServiceRequest" and "code" not in resource:
        resource.pop("orderDetail", None)
    return resource


def _null(rule: Rule, context: Context) -> bool:
    for path in rule.paths:
        if any(datum.text for datum in path.read(context)):
            return False
        if path.is_null(context):
            return True
    return False


def _values(rule: Rule, scope: Scope) -> list[Any]:
    if rule.value is not None:
        found = [deepcopy(rule.value)]
    elif rule.take is not None:
        prepared = scope.prepared.get(rule.take)
        found = deepcopy(prepared) if isinstance(prepared, list) else [deepcopy(prepared)] if prepared else []
    elif rule.combine:
        found = _combined(rule, scope)
    else:
        found = _read(rule, scope)
    return [_dressed(rule, value) for value in found]


def _read(rule: Rule, scope: Scope) -> list[Any]:
    unmapped = ""
    for path in rule.paths:
        found: list[Any] = []
        for datum in path.read(scope.context):
            value = CONVERTERS[rule.convert](datum, scope)
            if rule.codes is not None and value is not None:
                code, value = str(value), scope.mapped(rule.codes, str(value))
                if code not in scope.maps.codes[rule.codes]:
                    unmapped = unmapped or code
                    scope.warn(f"{datum.location}: the code is not in the code map {rule.codes}")
            found += value if isinstance(value, list) else [] if value is None else [deepcopy(value)]
            if found and rule.first:
                return found
        if found:
            return found
    otherwise = scope.maps.codes[rule.codes].otherwise if rule.codes is not None and unmapped else None
    return [with_original(otherwise, unmapped)] if otherwise is not None else []


def with_original(target: Any, original: str) -> Any:
    """A code or a Coding that remembers what the sender wrote."""
    extension = {"extension": [{"url": ORIGINAL_CODE, "valueString": original}]}
    return extension | deepcopy(dict(target)) if isinstance(target, Mapping) else Remembered(target, extension)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A primitive code with an extension, which FHIR JSON writes in a sibling property (R4 json.html 2.6.2.1)."""

    value: str
    sibling: dict[str, Any]


def _combined(rule: Rule, scope: Scope) -> list[Any]:
    """One concept of several fields: every coding once, the text of the first that has one."""
    joined: dict[str, Any] = {}
    for path in rule.combine:
        datum = first(path, scope.context)
        found = CONVERTERS[rule.convert](datum, scope) if datum is not None else None
        if found:
            codings = joined.setdefault("coding", [])
            codings += [c for c in found.get("coding", ()) if c not in codings]
            joined.setdefault("text", found["text"])
    return [{key: value for key, value in joined.items() if value}] if joined else []


def first(path: Path, context: Context) -> Datum | None:
    return next(path.read(context), None)


def _dressed(rule: Rule, value: Any) -> Any:
    placed = {rule.under: value} if rule.under is not None else value
    return deepcopy(dict(rule.default)) | placed if isinstance(placed, dict) and rule.default else placed


def _put(resource: dict[str, Any], element: Element, value: Any) -> None:
    target = resource
    for part in element.path[:-1]:
        target = target.setdefault(part, {})
    if isinstance(value, Remembered):
        target[f"_{element.path[-1]}"] = value.sibling
        value = value.value
    target[element.path[-1]] = value


def _get(resource: Mapping[str, Any], path: Iterable[str]) -> Any:
    value: Any = resource
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _carry_sibling(result: dict[str, Any], new: Mapping[str, Any], element: Element) -> None:
    """The `_` sibling of a value belongs to that very value: it comes and goes with it."""
    parent = _get(result, element.path[:-1])
    key = f"_{element.path[-1]}"
    sibling = _get(new, (*element.path[:-1], key))
    parent.pop(key, None)
    if sibling is not None:
        parent[key] = deepcopy(sibling)


def _delete(resource: dict[str, Any], element: Element, default: Mapping[str, Any]) -> None:
    parent = _get(resource, element.path[:-1])
    key = element.path[-1]
    if not isinstance(parent, dict) or key not in parent:
        return
    kept = [entry for entry in parent[key] if not _bears(entry, default)] if element.match and default else []
    if kept:
        parent[key] = kept
    else:
        parent.pop(key)
        parent.pop(f"_{key}", None)
    if not parent and len(element.path) > 1:
        resource.pop(element.path[0])


def _bears(entry: Any, default: Mapping[str, Any]) -> bool:
    return isinstance(entry, Mapping) and all(entry.get(key) == value for key, value in default.items())


def _joined(old: list[Any], new: list[Any], match: tuple[str, ...]) -> list[Any]:
    """The new entries, and those stored ones that none of them stands for."""
    fresh = [[entry.get(key) for key in match] for entry in new]
    return new + [entry for entry in old if [entry.get(key) for key in match] not in fresh]
