"""Patient/$everything and Encounter/$everything (FHIR R4 patient-operation-everything.html).

What is in the compartment, Provenance of it, and the people, places and things that it refers to; never what is
another patient's. The pages come in stages, each in the order of creation: the patient or encounter, its compartment,
what goes with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import LiteralString

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record import resources
from wetread.record.compartment import definitions, patients_of, patients_of_all, visible_of
from wetread.record.condition import TRUE, Condition, all_of, any_of, none_of
from wetread.record.cursors import OF_THIS_PROCESS, Cursors
from wetread.record.operations.input import Given
from wetread.record.operations.pages import Page, bundle
from wetread.record.search.index import date_range
from wetread.record.search.parameters import parameters_of, resource_types
from wetread.record.search.searchset import entry
from wetread.record.versions import Version
from wetread.store.database import Connection

MOST = 2000
"""Entries of one page, also where the caller does not ask for pages."""
MOST_CHARACTERS = 16 * 1024 * 1024
"""Of the texts in one page, the last of which may go beyond."""

SUPPORTING = frozenset(
    {
        *("Practitioner", "PractitionerRole", "Organization", "OrganizationAffiliation", "HealthcareService"),
        *("Location", "Endpoint", "Device", "DeviceDefinition", "DeviceMetric", "Medication", "MedicationKnowledge"),
        *("Substance", "BiologicallyDerivedProduct", "Binary", "Questionnaire", "Library"),
    }
)
"""Types that come along where a resource of the compartment refers to them."""

_LEFT_OUT = frozenset({"Patient", "Group", "AuditEvent"})
"""Of R4's Patient compartment: Patient is there for a linked patient, Group tells who else is in it."""
_OWNERS = ("patient", "subject")
_CARE_DATE = {
    "AllergyIntolerance": "date",
    "Communication": "sent",
    "CommunicationRequest": "authored",
    "Condition": "onset-date",
    "Coverage": "",
    "DeviceRequest": "authored-on",
    "Goal": "start-date",
    "ImagingStudy": "started",
    "Media": "created",
    "MedicationAdministration": "effective-time",
    "MedicationDispense": "whenhandedover",
    "MedicationRequest": "authoredon",
    "MedicationStatement": "effective",
    "NutritionOrder": "datetime",
    "QuestionnaireResponse": "authored",
    "RequestGroup": "authored",
    "ServiceRequest": "authored",
    "Specimen": "collected",
    "Task": "authored-on",
}
"""The parameter with the date of care, where it is not `date`."""

_SELECT: LiteralString = """
    SELECT * FROM (
        SELECT part.*, sum(length(body)) OVER (ORDER BY key)::bigint AS size, count(*) OVER () AS held FROM (
            SELECT r.key, r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted
            FROM resource r WHERE r.key > %s AND (
"""
_CUT: LiteralString = """
        ) ORDER BY r.key LIMIT %s) part
    ) cut WHERE size - length(body) < %s ORDER BY key
"""
_PARTS = """
    SELECT found.resource_key FROM unnest(%s::text[], %s::text[]) AS part (resource_type, param)
    CROSS JOIN LATERAL (
        SELECT i.resource_key FROM index_reference i
        WHERE i.resource_type = part.resource_type AND i.param = part.param
            AND i.target_type = %s AND i.target_id = %s AND i.target_id <> '' AND i.url = ''
        OFFSET 0
    ) found
"""
"""OFFSET 0 keeps the planner from reading the whole index once, in place of one short look for each parameter."""
_OF_ANYONE = """
    EXISTS (
        SELECT FROM index_reference i JOIN unnest(%s::text[], %s::text[]) AS part (resource_type, param)
            ON part.resource_type = i.resource_type AND part.param = i.param
        WHERE i.resource_key = r.key AND i.target_type = 'Patient' AND i.url = ''
    )
"""
_OF_OTHERS = """
    EXISTS (
        SELECT FROM index_reference o WHERE o.resource_key = r.key AND o.target_type = 'Patient' AND o.url = ''
            AND o.target_id <> %s
    )
"""
_ABOUT = """
    EXISTS (
        SELECT FROM index_reference o WHERE o.resource_key = r.key AND o.param = ANY (%s) AND o.target_type = 'Patient'
            AND o.url = '' AND o.target_id = %s
    )
"""
_ABOUT_OTHERS = """
    EXISTS (
        SELECT FROM index_reference o WHERE o.resource_key = r.key AND o.param = ANY (%s) AND o.target_type = 'Patient'
            AND o.url = '' AND o.target_id <> %s
    )
"""


_OPEN: LiteralString = """
    , open AS MATERIALIZED (
        SELECT r.key, r.resource_type, r.id FROM resource r WHERE r.key IN (SELECT key FROM direct) AND (
"""
_MEMBER: LiteralString = """
    )), member AS MATERIALIZED (
        SELECT key, resource_type, id FROM open
        UNION
        SELECT r.key, r.resource_type, r.id FROM open d
        JOIN index_reference i ON i.resource_type = 'Provenance' AND i.param = 'target'
            AND i.target_type = d.resource_type AND i.target_id = d.id AND i.target_id <> '' AND i.url = ''
        JOIN resource r ON r.key = i.resource_key AND NOT r.deleted
        WHERE NOT EXISTS (
            SELECT FROM index_reference o
            WHERE o.resource_key = r.key AND o.param = 'target' AND o.target_id <> '' AND o.url = ''
                AND (o.target_type, o.target_id) NOT IN (SELECT resource_type, id FROM direct)
        ) AND (
"""
"""Of what is there, the part that the reader may see; and Provenance of that and of nothing that is elsewhere."""
_REACHED: LiteralString = """
    )), reached (key) AS (
        SELECT key FROM member
        UNION
        SELECT r.key FROM reached
        JOIN index_reference i ON i.resource_key = reached.key AND i.target_id <> '' AND i.url = ''
        JOIN resource r ON r.resource_type = i.target_type AND r.id = i.target_id AND NOT r.deleted
        WHERE r.resource_type = ANY (%s) AND (
"""
"""What all this refers to, and that in turn, as far as the reader may see each on the way."""


@dataclass(frozen=True, slots=True)
class _Keyed:
    key: int
    resource_type: str
    id: str
    version_id: int
    last_updated: datetime
    body: str
    deleted: bool
    size: int
    """Of this text and those before it in its query."""
    held: int
    """How many rows the query had before it was cut by size."""

    def version(self) -> Version:
        return Version(self.resource_type, self.id, self.version_id, self.last_updated, self.body, self.deleted)


async def everything(
    conn: Connection,
    reader: Reader,
    focus_type: str,
    focus_id: str,
    given: Given,
    base_url: str,
    *,
    cursors: Cursors = OF_THIS_PROCESS,
) -> Page:
    """One page on a patient, an encounter, or every patient where `focus_id` is empty.

    Raises Forbidden, NotFound and Gone for the focus, InvalidInput.
    """
    count = given.number("_count", MOST)
    if count < 0:
        raise InvalidInput("_count is 0 or more", location="http._count")
    count = min(count, MOST)
    if focus_id:
        await resources.read(conn, reader, focus_type, focus_id)
        owners = await patients_of(conn, focus_type, [focus_id])
        # The focus has been read; whatever is listed beside it must be open to search, too.
        seen = any_of([Condition("(r.resource_type, r.id) = (%s, %s)", (focus_type, focus_id)), _seen(reader)])
        stages = _stages_of_one(focus_type, focus_id, owners[0] if owners else "", given, seen)
    else:
        reader.require_some("r", focus_type)
        reader.require_some("s", focus_type)
        seen = _seen(reader)
        stages = _stages_of_all(given)
    limits = all_of([Condition("NOT r.deleted"), *_asked(given), seen])
    stages = [all_of([stage, limits]) for stage in stages]

    url = "/".join(part for part in (base_url, focus_type, focus_id, "$everything") if part)
    params = _params(given)
    position = cursors.opened(reader, url, params, given.cursor) if given.cursor else [0, 0]
    page, more = await _page(conn, stages, position, count)
    total = None
    if not given.cursor and (focus_id or not more):
        total = sum([await _count(conn, stage) for stage in stages[:2]]) if more else sum(s < 2 for s, _ in page)
    after = cursors.sealed(reader, url, params, [page[-1][0], page[-1][1].key]) if more and page else ""
    versions = [row.version() for _, row in page]
    entries = [
        entry(v, base_url, "include" if stage == 2 else "match") for (stage, _), v in zip(page, versions, strict=True)
    ]
    body = bundle(entries, total, url, params, given.cursor, after)
    return Page(
        body,
        tuple(dict.fromkeys(owners))
        if focus_id
        else await patients_of_all(conn, [(v.resource_type, v.id) for v in versions]),
    )


def _params(given: Given) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, values in given.values.items() for value in values]


@cache
def _parts(focus_type: str) -> tuple[list[str], list[str]]:
    """The types and the parameters by which they belong to a compartment: R4's, and those that it forgot (Task)."""
    named = definitions()[focus_type]
    also = _OWNERS if focus_type == "Patient" else ("encounter",)
    pairs = {
        (resource_type, code)
        for resource_type in resource_types() - _LEFT_OUT - ({focus_type} if focus_type == "Encounter" else set())
        for code, parameter in parameters_of(resource_type).items()
        if code in named.get(resource_type, ()) or (code in also and focus_type in parameter.targets)
    }
    return [t for t, _ in sorted(pairs)], [c for _, c in sorted(pairs)]


def _stages_of_one(focus_type: str, focus_id: str, patient_id: str, given: Given, seen: Condition) -> list[Condition]:
    """The focus, its compartment, what goes with that: nothing by way of a resource that is not `seen`."""
    also_patient = focus_type == "Encounter" and patient_id
    focus = Condition(
        "(r.resource_type, r.id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        ([focus_type, "Patient"], [focus_id, patient_id]) if also_patient else ([focus_type], [focus_id]),
    )
    of_no_other = TRUE
    if patient_id:
        about = (list(_OWNERS), patient_id)
        of_no_other = any_of([Condition(_ABOUT, about), none_of(Condition(_ABOUT_OTHERS, about))])
    parts = Condition("r.key IN (" + _PARTS + ")", (*_parts(focus_type), focus_type, focus_id))
    direct = all_of([parts, of_no_other, *_during(given)])
    keys = Condition(
        "WITH RECURSIVE direct AS MATERIALIZED ("
        "SELECT r.key, r.resource_type, r.id FROM resource r WHERE NOT r.deleted AND " + direct.sql + ""
        " UNION SELECT r.key, r.resource_type, r.id FROM resource r WHERE NOT r.deleted AND "
        + focus.sql
        + ")"
        + _OPEN
        + seen.sql
        + _MEMBER
        + seen.sql
        + _REACHED
        + seen.sql
        + "))",
        (*direct.args, *focus.args, *seen.args, *seen.args, sorted(SUPPORTING), *seen.args),
    )
    members = Condition("r.key IN (" + keys.sql + " SELECT key FROM member)", keys.args)
    supports = Condition("r.key IN (" + keys.sql + " SELECT key FROM reached EXCEPT SELECT key FROM member)", keys.args)
    if patient_id:
        supports = all_of([supports, none_of(Condition(_OF_OTHERS, (patient_id,)))])
    return [focus, all_of([members, none_of(focus)]), supports]


def _stages_of_all(given: Given) -> list[Condition]:
    """Every patient, all that is somebody's, all that may go with it."""
    types, codes = _parts("Patient")
    members = Condition(_OF_ANYONE, (types, codes))
    supports = all_of(
        [Condition("r.resource_type = ANY (%s)", (sorted({*SUPPORTING, "Provenance"}),)), none_of(members)]
    )
    return [Condition("r.resource_type = 'Patient'"), all_of([members, *_during(given)]), supports]


def _asked(given: Given) -> Iterable[Condition]:
    if since := given.text("_since"):
        yield Condition("r.last_updated > %s", (date_range(since)[0],))
    if types := [t.strip() for value in given.every("_type") for t in value.split(",")]:
        if not resource_types().issuperset(types):
            raise InvalidInput("_type takes types of resources, divided by commas", location="http._type")
        yield Condition("r.resource_type = ANY (%s)", (types,))


def _seen(reader: Reader) -> Condition:
    """What may be listed to the reader: the types that it may both read and search, each within its own condition."""
    types = sorted(t for t in resource_types() if reader.may_some("r", t) and reader.may_some("s", t))
    read, listed = (visible_of(reader, types, letter) for letter in "rs")
    return read if read == listed else all_of([read, listed])


@cache
def _care_dates() -> tuple[list[str], list[str]]:
    named = {t: _CARE_DATE.get(t, "date") for t in resource_types()}
    pairs = sorted((t, c) for t, c in named.items() if c in parameters_of(t) and parameters_of(t)[c].kind == "date")
    return [t for t, _ in pairs], [c for _, c in pairs]


def _during(given: Given) -> Iterable[Condition]:
    """Care within start and end, both days included; a resource without a date of care always counts."""
    start, end = given.text("start"), given.text("end")
    if not start and not end:
        return
    of_care: LiteralString = (
        "SELECT FROM index_date d JOIN unnest(%s::text[], %s::text[]) AS care (resource_type, param)"
        " ON care.resource_type = d.resource_type AND care.param = d.param WHERE d.resource_key = r.key"
    )
    after = Condition("d.high > %s", (date_range(start)[0],)) if start else TRUE
    before = Condition("d.low < %s", (date_range(end)[1],)) if end else TRUE
    within = all_of([after, before])
    yield any_of(
        [
            Condition("NOT EXISTS (" + of_care + ")", _care_dates()),
            Condition("EXISTS (" + of_care + " AND " + within.sql + ")", (*_care_dates(), *within.args)),
        ]
    )


async def _page(
    conn: Connection, stages: Sequence[Condition], position: Sequence[int], count: int
) -> tuple[list[tuple[int, _Keyed]], bool]:
    """At most `count` resources after a position, each with its stage, and whether there are more. Fewer where their
    texts are long."""
    found: list[tuple[int, _Keyed]] = []
    begun, after = position
    left = MOST_CHARACTERS
    for number, stage in enumerate(stages):
        if number < begun:
            continue
        async with conn.cursor(row_factory=class_row(_Keyed)) as cursor:
            await cursor.execute(
                _SELECT + stage.sql + _CUT,
                (after if number == begun else 0, *stage.args, count + 1 - len(found), left),
                prepare=False,
            )
            rows = await cursor.fetchall()
        found += [(number, row) for row in rows]
        if len(found) > count:
            return found[:count], True
        if rows:
            left -= rows[-1].size
            if len(rows) < rows[0].held or left <= 0:
                return found, True
    return found, False


async def _count(conn: Connection, where: Condition) -> int:
    row = await (
        await conn.execute("SELECT count(*) FROM resource r WHERE " + where.sql, where.args, prepare=False)
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])
