"""Of whom a resource tells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from wetread.record import lossless
from wetread.record.search.index import Extraction
from wetread.record.search.parameters import parameters_of


def patients_among(resource_type: str, resource_id: str, version: Extraction) -> tuple[str, ...]:
    """The patients whose compartment the resource is in, as far as its references tell; sorted ids."""
    if resource_type == "Patient":
        return (resource_id,)
    rows = (row for code in _references(resource_type) for row in version.rows(code))
    return tuple(sorted({row[2] for row in rows if row[1] == "Patient" and row[2] and not row[3]}))


@cache
def _references(resource_type: str) -> tuple[str, ...]:
    return tuple(code for code, parameter in parameters_of(resource_type).items() if parameter.kind == "reference")


def patients_of(resource_type: str, resource_id: str, body: str, bases: Sequence[str]) -> tuple[str, ...]:
    """The same, from the text of a version; `bases` as in `Connection`."""
    version = Extraction(lossless.parse(body) if body else {"resourceType": resource_type}, bases)
    return patients_among(resource_type, resource_id, version)
