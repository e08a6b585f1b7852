"""The rules of R4 that stand on many elements, as plain code: in FHIRPath they would cost more than all others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wetread.record import structures
from wetread.record.validation import narrative as validate_narrative
from wetread.record.validation.primitives import is_absolute
from wetread.record.validation.walk import Place, Walk

_REFERENCE = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$")
_EXTENSIONS = ("extension", "modifierExtension")


def contained(content: Mapping[str, Any]) -> dict[str, str]:
    """Id of each resource contained in one, to its type."""
    within = content.get("contained")
    found = [r for r in within if type(r) is dict] if type(within) is list else []
    return {r["id"]: str(r.get("resourceType", "")) for r in found if isinstance(r.get("id"), str)}


def target_type(within: Mapping[str, str], reference: Mapping[str, Any]) -> str:
    """The type of what a Reference points to, as its text tells or the contained resource (`contained`); else empty."""
    text = reference.get("reference")
    if not isinstance(text, str):
        return ""
    if text.startswith("#"):
        return within.get(text[1:], "")
    found = _REFERENCE.search(text.partition("#")[0])
    return found[1] if found and found[1] in structures.all_resource_types() else ""


def check_contained(walk: Walk, content: dict[str, Any], place: Place) -> None:
    """dom-2 to dom-5, of the resource that contains others."""
    within = content["contained"]
    if type(within) is not list or not all(type(r) is dict for r in within):
        return
    referred = set(_local_references(content))
    for index, resource in enumerate(within):
        where = (place, "contained", index)
        meta = resource.get("meta")
        if "contained" in resource:
            walk.add("invariant", where, "dom-2: a contained resource must not contain others")
        if type(meta) is dict and ("versionId" in meta or "lastUpdated" in meta):
            walk.add("invariant", where, "dom-4: a contained resource must have no versionId and no lastUpdated")
        if type(meta) is dict and "security" in meta:
            walk.add("invariant", where, "dom-5: a contained resource must have no security label")
        if f"#{resource.get('id')}" not in referred and "#" not in set(_local_references(resource)):
            walk.add("invariant", where, "dom-3: a contained resource must be referred to, or refer to its container")


def _local_references(value: Any) -> Iterator[str]:
    """Every text that starts with `#`, in references, canonicals and uris alike."""
    if type(value) is dict:
        for member in value.values():
            yield from _local_references(member)
    elif type(value) is list:
        for member in value:
            yield from _local_references(member)
    elif type(value) is str and value[:1] == "#":
        yield value


def _check_extension(walk: Walk, content: dict[str, Any], place: Place) -> None:
    has_value = any(key.startswith(("value", "_value")) for key in content)
    if has_value is ("extension" in content):
        walk.add("invariant", place, "ext-1: an extension must have either a value or extensions, not both")
    url = content.get("url")
    is_nested = bool(place[0]) and place[0][1] in _EXTENSIONS
    if isinstance(url, str) and not is_nested and not is_absolute(url):
        walk.add("value", (place, "url", None), "the url of an extension must be absolute")


def _check_identifier(walk: Walk, content: dict[str, Any], place: Place) -> None:
    system = content.get("system")
    if isinstance(system, str) and not is_absolute(system):
        walk.add("value", (place, "system", None), "the system of an identifier must be an absolute URI")


def _check_entry(walk: Walk, content: dict[str, Any], place: Place) -> None:
    url = content.get("fullUrl")
    if isinstance(url, str) and not is_absolute(url):
        walk.add("value", (place, "fullUrl", None), "fullUrl must be an absolute URI")


def _check_reference(walk: Walk, content: dict[str, Any], place: Place) -> None:
    text = content.get("reference")
    if isinstance(text, str) and text.startswith("#") and text != "#" and text[1:] not in walk.contained:
        walk.add("invariant", place, "ref-1: a local reference must lead to a contained resource")


def _check_narrative(walk: Walk, content: dict[str, Any], place: Place) -> None:
    div = content.get("div")
    if isinstance(div, str):
        for key, text in validate_narrative.faults(div):
            # An empty narrative misleads nobody; what could be active in one does.
            walk.add("invariant", (place, "div", None), f"{key}: {text}", is_tolerable=key == "txt-2")


SPECIAL: Mapping[str, Callable[[Walk, dict[str, Any], Place], None]] = {
    "Bundle.entry": _check_entry,
    "Identifier": _check_identifier,
    "Extension": _check_extension,
    "Reference": _check_reference,
    "Narrative": _check_narrative,
}
