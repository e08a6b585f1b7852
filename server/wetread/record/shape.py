"""Parts of a resource: `_summary` and `_elements` (FHIR R4 3.1.1.5.8, 3.1.1.5.9)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.search.parameters import choice_types, table

SUMMARIES = ("true", "text", "data", "count", "false")
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_ALWAYS = ("resourceType", "id", "meta")


def shaped(body: str, summary: str = "", elements: Sequence[str] = ()) -> str:
    """A stored body with only the parts asked for, and the SUBSETTED tag; the body itself where all of it is asked.

    `summary` is empty, false, true, text or data. `elements` are names of a resource's own elements, alone, as
    `Type.name` or `*.name`; those of another type leave a resource as it is. What no resource may lack, and modifiers,
    stay. Raises InvalidInput.
    """
    if summary not in ("", *SUMMARIES) or summary == "count":
        raise InvalidInput("_summary takes true, text, data or false here", location="http._summary")
    if summary in ("", "false") and not elements:
        return body
    resource = lossless.parse(body)
    resource_type = resource["resourceType"]
    match summary:
        case "true":
            kept = _summarised(resource, _types()[resource_type])
        case "text":
            kept = _only(resource, {"text", *_mandatory(resource_type)})
        case "data":
            kept = {name: value for name, value in resource.items() if name != "text"}
        case _:
            names = _names(elements, resource_type)
            if not names:
                return body
            kept = _only(resource, {*names, *_mandatory(resource_type)})
    return lossless.dump(_tagged({name: resource[name] for name in _ALWAYS if name in resource} | kept))


def _names(elements: Sequence[str], resource_type: str) -> list[str]:
    parted = [element.rpartition(".") for element in elements]
    return [name for own, _, name in parted if own in ("", "*", resource_type)]


def _only(resource: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {member: value for member, value in resource.items() if _is_of(member.removeprefix("_"), names)}


def _is_of(member: str, names: Collection[str]) -> bool:
    """Whether a member is one of the elements; `valueQuantity` is of `value`."""
    return member in names or any(
        member.startswith(name) and member[len(name) :] in choice_types() for name in names if name
    )


def _summarised(value: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, member in value.items():
        plain = name.removeprefix("_")
        if plain in parts:
            below = parts[plain]
            kept[name] = _within(member, _types().get(below) if isinstance(below, str) else below)
    return kept


def _within(value: Any, parts: Any) -> Any:
    if not isinstance(parts, dict):
        return value
    if isinstance(value, list):
        return [_within(item, parts) for item in value]
    return _summarised(value, parts) if isinstance(value, dict) else value


def _tagged(resource: dict[str, Any]) -> dict[str, Any]:
    meta = resource.get("meta", {})
    tags = [tag for tag in meta.get("tag", []) if tag.get("code") != "SUBSETTED"]
    return {**resource, "meta": {**meta, "tag": [*tags, _SUBSETTED]}}


def _types() -> Mapping[str, Mapping[str, Any]]:
    types: Mapping[str, Mapping[str, Any]] = _table()["types"]
    return types


def _mandatory(resource_type: str) -> Sequence[str]:
    mandatory: Mapping[str, Sequence[str]] = _table()["mandatory"]
    return mandatory.get(resource_type, ())


@cache
def _table() -> Any:
    return table("summaries.json")
