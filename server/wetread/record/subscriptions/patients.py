"""Of whom a resource tells."""

from __future__ import annotations

from collections.abc import Sequence

from wetread.record import lossless
from wetread.record.search import index
from wetread.record.search.index import Entries


def patients_among(resource_type: str, resource_id: str, entries: Entries) -> tuple[str, ...]:
    """The patients whose compartment the resource is in, as far as its references tell; sorted ids."""
    if resource_type == "Patient":
        return (resource_id,)
    return tuple(sorted({row[2] for row in entries.reference if row[1] == "Patient" and row[2] and not row[3]}))


def patients_of(resource_type: str, resource_id: str, body: str, bases: Sequence[str]) -> tuple[str, ...]:
    """The same, from the text of a version; `bases` as in `Connection`."""
    entries = index.extract(lossless.parse(body), bases) if body else index.Entries()
    return patients_among(resource_type, resource_id, entries)
