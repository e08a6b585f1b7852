"""A version of a resource, and what may become one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, TypeGuard

from wetread.errors import Gone, InvalidInput, NotFound, PreconditionFailed, Unsupported
from wetread.record import lossless
from wetread.record.search.parameters import resource_types

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one resource. `body` is its JSON text; empty for a deletion."""

    resource_type: str
    id: str
    version_id: int
    last_updated: datetime
    body: str
    deleted: bool

    def resource(self) -> dict[str, Any]:
        """The body parsed without loss: decimals are `Decimal`."""
        return lossless.parse(self.body)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A resource's text, with what it says: for whoever has parsed it already."""

    text: str
    content: dict[str, Any]


Resource: TypeAlias = Mapping[str, Any] | str | Accepted


def accept(resource: Resource) -> Accepted:
    """The resource as what can be stored. Raises InvalidInput, and Unsupported for a type not stored here."""
    match resource:
        case Accepted():
            accepted = resource
        case str():
            accepted = Accepted(resource, lossless.parse(resource))
        case _:
            text = lossless.dump(resource)
            accepted = Accepted(text, lossless.parse(text))
    content = accepted.content
    require_stored(content.get("resourceType"))
    if not isinstance(content.get("meta", {}), dict):
        raise InvalidInput("meta is an object", location=f"{content['resourceType']}.meta")
    return accepted


def is_id(value: Any) -> TypeGuard[str]:
    """Whether a value has the form of a resource's id (FHIR R4 datatypes.html#id)."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def require_stored(resource_type: Any) -> None:
    if not isinstance(resource_type, str) or resource_type not in resource_types():
        raise Unsupported("this server stores no resource of that type; see GET metadata", location="resourceType")


def require_identity(resource_type: str, resource_id: str) -> None:
    """Raises NotFound for a type, or an id, that no resource here can have."""
    if resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")
    if not is_id(resource_id):
        raise NotFound(f"no such {resource_type}")


def require_version(current: Version | None, if_match: int | None) -> None:
    """Raises PreconditionFailed where If-Match is given and names another version than the current one."""
    if if_match is not None and (current is None or current.version_id != if_match):
        raise PreconditionFailed("the resource has another current version than If-Match names; read it again")


def present(version: Version | None, resource_type: str) -> Version:
    if version is None:
        raise NotFound(f"no such {resource_type}")
    if version.deleted:
        raise Gone(f"this {resource_type} was deleted; its history is still there")
    return version


def _essence(content: Mapping[str, Any]) -> str:
    """What a version says, apart from what the server adds to it."""
    meta = {k: v for k, v in content.get("meta", {}).items() if k not in ("versionId", "lastUpdated")}
    rest = {k: v for k, v in content.items() if k not in ("meta", "id")}
    return lossless.canonical({**rest, "meta": meta} if meta else rest)


def says(version: Version, content: Mapping[str, Any]) -> bool:
    return _essence(version.resource()) == _essence(content)
