"""Whom a resource is about (FHIR R4 compartmentdefinition-patient.html)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, LiteralString

from wetread.domain.reader import Reader
from wetread.errors import NotFound
from wetread.record.condition import FALSE, TRUE, Condition
from wetread.record.search import paths
from wetread.record.search.index import reference_parts
from wetread.record.search.parameters import parameters_of, table
from wetread.store.database import Connection

_PARAMETERS = ("patient", "subject")
_SELECT = """
    SELECT DISTINCT i.target_id FROM index_reference i JOIN resource r ON r.key = i.resource_key
    WHERE (r.resource_type, r.id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
        AND i.param = ANY (%s) AND i.target_type = 'Patient'
        AND i.target_id <> '' AND i.url = ''
    ORDER BY 1
"""


def visible(reader: Reader, resource_type: str, alias: LiteralString = "r") -> Condition:
    """What the reader may see of a type, as a condition on `resource` under `alias`.

    Everything that reads a type passes through here: searches, chains, includes, operations, export.
    """
    return TRUE if reader.may("r", resource_type) or reader.may("s", resource_type) else FALSE


@cache
def definitions() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Compartment, then type, to the search parameters that put a resource of the type into it (R4's definitions)."""
    return MappingProxyType(
        {
            compartment: MappingProxyType(
                {t: tuple(c for c in codes if c in parameters_of(t)) for t, codes in rows.items()}
            )
            for compartment, rows in table("compartments.json").items()
        }
    )


def member(compartment: str, id_: str, resource_types: Sequence[str]) -> Condition:
    """What of these types is in a compartment, as a condition on `resource r`; what gives it its name is in it, too.

    Raises NotFound for a compartment that R4 does not define.
    """
    if compartment not in definitions():
        raise NotFound(f"no such compartment; R4 defines those of {', '.join(definitions())}")
    own = definitions()[compartment]
    pairs = [(t, param) for t in resource_types for param in own.get(t, ())]
    return Condition(
        "r.key IN (SELECT i.resource_key FROM index_reference i WHERE (i.resource_type, i.param) IN"
        " (SELECT * FROM unnest(%s::text[], %s::text[]))"
        " AND i.target_id = %s AND i.target_id <> '' AND i.target_type = %s AND i.url = ''"
        " UNION ALL SELECT f.key FROM resource f WHERE f.resource_type = %s AND f.id = %s)",
        ([t for t, _ in pairs], [param for _, param in pairs], id_, compartment, compartment, id_),
    )


def patients_named(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the patients whom a resource names as its patient or subject, each once; a Patient's own."""
    resource_type = content.get("resourceType", "")
    if resource_type == "Patient":
        return (str(content["id"]),) if "id" in content else ()
    own = parameters_of(resource_type)
    found = {
        parts.target_id: None
        for name in _PARAMETERS
        if name in own
        for node in paths.compiled(own[name].expression)(dict(content))
        if isinstance(node.value, dict)
        for parts in (reference_parts(str(node.value.get("reference", ""))),)
        if parts.target_type == "Patient" and not parts.url
    }
    return tuple(found)


async def patients_of(conn: Connection, resource_type: str, ids: Sequence[str]) -> tuple[str, ...]:
    """The ids of the patients whom the current versions of these resources are about."""
    return await patients_of_all(conn, [(resource_type, id_) for id_ in ids])


async def patients_of_all(conn: Connection, identities: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The ids of the patients whom resources of any type, by type and id, are about; each once."""
    patients: dict[str, None] = {}
    others: list[tuple[str, str]] = []
    for resource_type, id_ in identities:
        if resource_type == "Patient":
            patients[id_] = None
        else:
            others.append((resource_type, id_))
    if others:
        types, ids = (list(column) for column in zip(*others, strict=True))
        rows = await conn.execute(_SELECT, (types, ids, list(_PARAMETERS)))
        patients |= {str(row[0]): None async for row in rows}
    return tuple(patients)
