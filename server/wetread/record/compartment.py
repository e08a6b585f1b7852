"""Whom a resource is about (FHIR R4 compartmentdefinition-patient.html), and what of a type a reader may see for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, LiteralString

from wetread.domain.reader import Reader, Scope
from wetread.errors import NotFound
from wetread.record.condition import FALSE, TRUE, Condition, all_of, any_of
from wetread.record.scopes import narrowed_to
from wetread.record.search import paths
from wetread.record.search.index import reference_parts
from wetread.record.search.indexed import of_types
from wetread.record.search.parameters import parameters_of, resource_types, table
from wetread.store.database import Connection

_PARAMETERS = ("patient", "subject")
_SELECT = """
    SELECT DISTINCT i.target_id FROM index_reference i JOIN resource r ON r.key = i.resource_key
    WHERE (r.resource_type, r.id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
        AND i.param = ANY (%s) AND i.target_type = 'Patient'
        AND i.target_id <> '' AND i.url = ''
    ORDER BY 1
"""


OPEN_BY_NAME = frozenset(
    {
        *("Practitioner", "PractitionerRole", "Organization", "OrganizationAffiliation", "HealthcareService"),
        *("Location", "Endpoint", "Device", "DeviceDefinition", "Medication", "MedicationKnowledge", "Substance"),
        *("CodeSystem", "ValueSet", "ConceptMap", "Questionnaire"),
    }
)
"""Outside of R4's Patient compartment: what a `patient/` scope may read that names the type; `patient/*` may not."""
_LEFT_OUT = frozenset({"Group", "AuditEvent"})
"""In R4's Patient compartment, and yet about others: a Group tells who else is in it, an AuditEvent who worked."""
BY_WHAT_THEY_REFER_TO = {"Provenance": "target", "Binary": "securityContext"}


def visible(reader: Reader, resource_type: str, letter: str) -> Condition:
    """What of a type the reader's scopes open to an interaction (one of c r u d s), as a condition on `resource r`.

    Everything that reads a type passes through here: reads, searches, chains, includes, operations, histories. It is
    TRUE where a scope opens the whole type, FALSE where none opens anything; else what any of the scopes opens
    (docs/decisions/0025-what-a-scope-opens.md).
    """
    scopes = reader.opening(letter, resource_type)
    if any(scope.level != "patient" and not scope.constraint for scope in scopes):
        return TRUE
    parts: list[Condition] = []
    for scope in scopes:
        level, narrowed = _level(reader, scope, resource_type, letter), narrowed_to(scope, resource_type)
        part = all_of([level, narrowed])
        if FALSE not in (level, narrowed) and part not in parts:
            parts.append(part)
    return TRUE if TRUE in parts else any_of(parts)


def visible_or_gone(reader: Reader, resource_type: str, letter: str) -> Condition:
    """`visible`, where deleted resources are among those asked: only who may see all of a type is told of them."""
    seen = visible(reader, resource_type, letter)
    return seen if seen == TRUE else all_of([Condition("NOT r.deleted"), seen])


def visible_of(reader: Reader, resource_types: Sequence[str], letter: str) -> Condition:
    """`visible` of several types, the types among the condition."""
    seen = {resource_type: visible(reader, resource_type, letter) for resource_type in resource_types}
    whole = [t for t, condition in seen.items() if condition == TRUE]
    if len(whole) == len(seen):
        return of_types("r", whole)
    parts = {t: all_of([of_types("r", (t,)), seen[t]]) for t in seen if t not in whole and seen[t] != FALSE}
    if len(seen) == 1:
        return any_of(parts.values())
    # Keys, found by each type's own index, and one look for what only its patient decides: for an OR of them the
    # planner would read the whole table.
    plain = [t for t in parts if seen[t] == _of_patient(reader, t)]
    keys: LiteralString = "SELECT r.key FROM resource r WHERE NOT r.deleted AND "
    found = [Condition(keys + part.sql, part.args) for t, part in parts.items() if t not in plain]
    if plain:
        found.append(_keys_in_compartment(reader.patient_id or "", plain))
    union: LiteralString = " UNION ALL "
    limited = Condition("r.key IN (" + union.join(each.sql for each in found) + ")", _args(found)) if found else FALSE
    return any_of([of_types("r", whole), limited]) if whole else limited


def _args(conditions: Iterable[Condition]) -> tuple[Any, ...]:
    return tuple(argument for condition in conditions for argument in condition.args)


def _level(reader: Reader, scope: Scope, resource_type: str, letter: str) -> Condition:
    """What the level of a scope opens of a type."""
    if scope.level != "patient":
        return TRUE
    if resource_type in OPEN_BY_NAME:
        named = scope.resource_type == resource_type and letter in "rs"
        return _of_no_other(reader.patient_id or "", resource_type) if named else FALSE
    if resource_type in BY_WHAT_THEY_REFER_TO:
        own = _by_what_it_refers_to(reader, resource_type, letter)
    else:
        own = _of_patient(reader, resource_type)
    if letter in "rs" or own == FALSE:
        return own
    # Nobody writes by way of one patient into what is another's, too.
    return all_of([own, _of_no_other(reader.patient_id or "", resource_type)])


def _of_patient(reader: Reader, resource_type: str) -> Condition:
    """What R4 has of a type in the patient's compartment, and the patient.

    It names `r` and index rows only, so that `former` can ask it of rows that are not stored.
    """
    if resource_type not in definitions()["Patient"] or resource_type in _LEFT_OUT:
        return FALSE
    patient_id = reader.patient_id or ""
    inside = Condition(
        "r.key IN (SELECT i.resource_key FROM index_reference i WHERE i.resource_type = %s AND i.param = ANY (%s)"
        " AND i.target_id = %s AND i.target_id <> '' AND i.target_type = 'Patient' AND i.url = '')",
        (resource_type, list(definitions()["Patient"][resource_type]), patient_id),
    )
    is_patient = Condition("r.resource_type = 'Patient' AND r.id = %s", (patient_id,))
    return any_of([is_patient, inside]) if resource_type == "Patient" else inside


def _keys_in_compartment(patient_id: str, resource_types: Sequence[str]) -> Condition:
    """The same of several types, as a query for their keys."""
    own = definitions()["Patient"]
    pairs = [(t, param) for t in resource_types for param in own[t]]
    return Condition(
        "SELECT i.resource_key FROM index_reference i WHERE (i.resource_type, i.param) IN"
        " (SELECT * FROM unnest(%s::text[], %s::text[]))"
        " AND i.target_id = %s AND i.target_id <> '' AND i.target_type = 'Patient' AND i.url = ''"
        " UNION ALL SELECT f.key FROM resource f WHERE f.resource_type = ANY (%s) AND f.id = %s",
        (
            [t for t, _ in pairs],
            [param for _, param in pairs],
            patient_id,
            [t for t in resource_types if t == "Patient"],
            patient_id,
        ),
    )


def _of_no_other(patient_id: str, resource_type: str) -> Condition:
    """What refers to no other patient, here or elsewhere."""
    if not any("Patient" in parameter.targets for parameter in parameters_of(resource_type).values()):
        return TRUE
    return Condition(
        "NOT EXISTS (SELECT FROM index_reference o WHERE o.resource_key = r.key AND o.target_type = 'Patient'"
        " AND (o.target_id <> %s OR o.url <> ''))",
        (patient_id,),
    )


def _by_what_it_refers_to(reader: Reader, resource_type: str, letter: str) -> Condition:
    """What refers, by the parameter that decides, to something in the compartment, and to nothing that is not visible.

    For Provenance its targets; for a Binary its securityContext (FHIR R4 binary.html 2.40.4).
    """
    param = BY_WHAT_THEY_REFER_TO[resource_type]
    seen_by = letter if letter in "rs" else "r"
    types = [t for t in resource_types() - BY_WHAT_THEY_REFER_TO.keys() if reader.may_some(seen_by, t)]
    of_patient = [t for t in sorted(types) if t in definitions()["Patient"] and t not in _LEFT_OUT]
    if not of_patient:
        return FALSE
    seen = visible_of(reader, sorted(types), seen_by)
    inside = _keys_in_compartment(reader.patient_id or "", of_patient)
    refers = Condition(
        "r.key IN (SELECT t.resource_key FROM resource r JOIN index_reference t"
        " ON t.resource_type = %s AND t.param = %s"
        " AND t.target_type = r.resource_type AND t.target_id = r.id AND t.target_id <> '' AND t.url = ''"
        " WHERE NOT r.deleted AND r.key IN (" + inside.sql + "))",
        (resource_type, param, *inside.args),
    )
    to_nothing_else = Condition(
        "NOT EXISTS (SELECT FROM index_reference t"
        " WHERE t.resource_key = r.key AND t.resource_type = %s AND t.param = %s"
        " AND (t.target_id = '' OR t.url <> '' OR NOT EXISTS (SELECT FROM resource r WHERE NOT r.deleted"
        " AND r.resource_type = t.target_type AND r.id = t.target_id AND (" + seen.sql + "))))",
        (resource_type, param, *seen.args),
    )
    return all_of([refers, to_nothing_else])


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


def patients_named(content: Mapping[str, Any], bases: Sequence[str]) -> tuple[str, ...]:
    """The ids of the patients whom a resource names as its patient or subject, each once; a Patient's own.

    `bases` as in `Connection`.
    """
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
        for parts in (reference_parts(str(node.value.get("reference", "")), bases),)
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
