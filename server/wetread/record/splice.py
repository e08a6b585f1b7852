"""Puts `id`, `meta.versionId` and `meta.lastUpdated` into a resource's own text; every other byte stays as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from wetread.record.lossless import dump

_DECODER = json.JSONDecoder(parse_float=Decimal)
_BLANK = " \t\n\r"


def instant(moment: datetime) -> str:
    """A FHIR instant in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def with_identity(text: str, resource_id: str, version_id: int, last_updated: datetime) -> str:
    """The text of a JSON object that `lossless.parse` accepts, with the server's identity spliced in."""
    members = {key: (start, end) for key, start, end in _members(text)}
    own = {"versionId": str(version_id), "lastUpdated": instant(last_updated)}
    meta: dict[str, Any] = _DECODER.decode(text[slice(*members["meta"])]) if "meta" in members else {}
    edits = {"id": json.dumps(resource_id), "meta": dump({**meta, **own})}

    new = ",".join(f'"{key}":{value}' for key, value in edits.items() if key not in members)
    for start, end, key in sorted(((*members[key], key) for key in edits if key in members), reverse=True):
        text = text[:start] + edits[key] + text[end:]
    if new:
        # After resourceType where it stands first, else at the head: where people look for it.
        at = members["resourceType"][1] if next(iter(members), "") == "resourceType" else -1
        text = f"{text[:at]},{new}{text[at:]}" if at > 0 else _at_head(text, new, bool(members))
    return text


def _at_head(text: str, new: str, has_members: bool) -> str:
    brace = text.index("{") + 1
    return f"{text[:brace]}{new}{',' if has_members else ''}{text[brace:]}"


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """The members of the outermost object: key, and where its value starts and ends."""
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield key, start, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at
