"""$meta, $meta-add and $meta-delete: a resource's profiles, tags and labels (FHIR R4 resource-operation-meta.html)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record import lossless, resources
from wetread.record.validation import validate
from wetread.record.versions import Version
from wetread.store.database import Connection

_PARTS = ("profile", "security", "tag")


async def changed(
    conn: Connection, reader: Reader, resource_type: str, resource_id: str, meta: Mapping[str, Any], *, add: bool
) -> Version:
    """The resource with what `meta` names added, or taken away. It is a new version unless nothing changes.

    Raises Forbidden, NotFound, Gone, and InvalidInput for a meta that names more than profiles, tags and labels.
    """
    reader.require_some("u", resource_type)
    if not all(isinstance(meta.get(part, []), list) for part in _PARTS) or set(meta) - set(_PARTS):
        raise InvalidInput("meta has lists of profile, security and tag, and nothing else here", location="meta")

    async def change(content: dict[str, Any]) -> dict[str, Any]:
        now = dict(content.get("meta", {}))
        for part in _PARTS:
            asked = {_identity(item): item for item in meta.get(part, ())}
            held = now.get(part, [])
            known = {_identity(item) for item in held}
            now[part] = (
                [*held, *(item for key, item in asked.items() if key not in known)]
                if add
                else [item for item in held if _identity(item) not in asked]
            )
        kept = {key: value for key, value in now.items() if value}
        after = {**content, "meta": kept} if kept else {k: v for k, v in content.items() if k != "meta"}
        return await validate.parsed(lossless.dump(after))

    return await resources.patch(conn, reader, resource_type, resource_id, change)


def _identity(item: Any) -> tuple[str, str]:
    """What tells a coding from another, or a profile."""
    match item:
        case str() if item:
            return "", item
        case {"system": str(system), "code": str(code)}:
            return system, code
        case {"code": str(code)}:
            return "", code
    raise InvalidInput("a tag or label has a code, a profile is a canonical", location="meta")


def answer(version: Version) -> dict[str, Any]:
    """A Parameters resource with the meta of a version."""
    meta = version.resource().get("meta", {})
    return {"resourceType": "Parameters", "parameter": [{"name": "return", "valueMeta": meta}]}
