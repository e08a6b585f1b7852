"""What of an event a reader may see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wetread.domain.reader import Reader
from wetread.record import former, lossless
from wetread.record.compartment import visible
from wetread.record.condition import TRUE
from wetread.record.events import Event
from wetread.record.resources import Version
from wetread.record.subscriptions.notifications import NotifiedEvent
from wetread.store.database import Connection


def sees_all(reader: Reader, resource_type: str) -> bool:
    """Whether every resource of the type is open to the reader, so that no content need be asked."""
    return visible(reader, resource_type, "r") == TRUE


def sees_as(reader: Reader, owner: Reader, resource_types: Iterable[str]) -> bool:
    """Whether of these types the reader may read all that the owner may, as far as their scopes tell by themselves."""
    return all(reader.may("r", t) or _ways(owner, t) <= _ways(reader, t) for t in resource_types)


def _ways(reader: Reader, resource_type: str) -> frozenset[tuple[object, ...]]:
    """A scope of a patient opens some types by name only (`compartment.OPEN_BY_NAME`)."""
    return frozenset(
        (scope.constraint, *((reader.patient_id, scope.resource_type) if scope.level == "patient" else ()))
        for scope in reader.opening("r", resource_type)
    )


async def may_see(
    conn: Connection, reader: Reader, event: Event | NotifiedEvent, content: Mapping[str, Any] | str
) -> bool:
    """Whether a reader may see both the version of an event, of this content, and the resource as it is now."""
    if sees_all(reader, event.resource_type):
        return True
    text = content if isinstance(content, str) else lossless.dump(content)
    version = Version(event.resource_type, event.resource_id, event.version_id, event.at, text, deleted=not text)
    return await former.shown(conn, reader, "r", version)
