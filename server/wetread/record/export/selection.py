"""What belongs in an export, as conditions on `resource r`: whose it is, what was asked of its type, what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from urllib.parse import parse_qsl
from uuid import UUID

from wetread.domain.reader import Reader
from wetread.record.compartment import visible
from wetread.record.condition import FALSE, TRUE, Condition, all_of, any_of
from wetread.record.export.request import ExportRequest, membership_parameters
from wetread.record.search import query
from wetread.record.search.parameters import resource_types
from wetread.store.database import Connection

# `EXISTS (` stays open: ")" lets the planner make a join of it, _SINGLY has it asked of one resource after another.
# Left to itself, the planner answers it for the whole store wherever it stands beside an OR.
_SINGLY: LiteralString = " OFFSET 0)"
_OF_SOMEONE = """EXISTS (
    SELECT FROM index_reference i WHERE i.resource_key = r.key AND i.param = ANY (%s)
        AND i.target_type = 'Patient' AND i.target_id <> '' AND i.url = ''"""
# Found from the listed patients, then kept only where it belongs to nobody else: who may have some patients' data is
# not shown a Group or an Appointment that names others too.
_OF_LISTED = """r.key IN (
    SELECT i.resource_key FROM export_patient p JOIN index_reference i
        ON i.target_id = p.patient_id AND i.target_id <> '' AND i.target_type = 'Patient' AND i.url = ''
    WHERE p.job_id = %s AND i.resource_type = %s AND i.param = ANY (%s))"""
_IS_LISTED = """EXISTS (
    SELECT FROM index_reference i JOIN export_patient p ON p.job_id = %s AND p.patient_id = i.target_id
    WHERE i.resource_key = r.key AND i.resource_type = %s AND i.param = ANY (%s)
        AND i.target_type = 'Patient' AND i.url = ''"""
_OF_NOBODY_ELSE = """NOT EXISTS (
    SELECT FROM index_reference i WHERE i.resource_key = r.key AND i.param = ANY (%s)
        AND i.target_type = 'Patient' AND i.target_id <> '' AND i.url = ''
        AND NOT EXISTS (SELECT FROM export_patient p WHERE p.job_id = %s AND p.patient_id = i.target_id)"""
_LISTED = "EXISTS (SELECT FROM export_patient p WHERE p.job_id = %s AND p.patient_id = r.id)"
# The innermost `r` is the target, the one in the last line the Provenance.
_TARGETS = (
    """EXISTS (
    SELECT FROM index_reference t CROSS JOIN LATERAL (
        SELECT 1 FROM resource r WHERE r.resource_type = t.target_type AND r.id = t.target_id AND NOT r.deleted
            AND r.resource_type <> 'Provenance' AND (""",
    """)) target
    WHERE t.resource_key = r.key AND t.param = 'target' AND t.target_id <> '' AND t.url = '' OFFSET 0)""",
)
# The latest by `recorded`, then by age here; one resource may have it from several others.
_LATEST = """EXISTS (
    SELECT FROM index_reference t WHERE t.resource_key = r.key AND t.param = 'target' AND t.target_id <> ''
        AND t.url = '' AND NOT EXISTS (
            SELECT FROM index_reference o JOIN index_date od ON od.resource_key = o.resource_key
                AND od.param = 'recorded' JOIN index_date rd ON rd.resource_key = r.key AND rd.param = 'recorded'
            WHERE o.resource_type = 'Provenance' AND o.param = 'target' AND o.target_id = t.target_id
                AND o.target_id <> '' AND o.target_type = t.target_type AND o.url = ''
                AND (od.low, o.resource_key) > (rd.low, r.key)) OFFSET 0)"""


@dataclass(frozen=True, slots=True)
class Selection:
    """The choice that a job makes."""

    job_id: UUID
    reader: Reader
    request: ExportRequest
    transaction_time: datetime
    base_url: str

    def changed(self, resource_type: str) -> Condition:
        """When a version was written that counts: up to the job's transaction time, after `_since`, until `_until`.

        Provenance that is asked for with what it is about counts as that does.
        """
        bounds = [Condition("r.last_updated <= %s", (self.transaction_time,))]
        with_target = resource_type == "Provenance" and self.request.associated
        if self.request.since and not with_target:
            bounds.append(Condition("r.last_updated > %s", (self.request.since,)))
        if self.request.until and not with_target:
            bounds.append(Condition("r.last_updated <= %s", (self.request.until,)))
        return all_of(bounds)

    async def of(self, conn: Connection, resource_type: str, *, singly: bool = False) -> Condition:
        """What of a type is exported, whenever it was written. Raises what `query.matching` raises.

        `singly`: for a condition that is asked of one resource after another, not of a type.
        """
        request = self.request
        seen = all_of([visible(self.reader, resource_type, "s"), await self.filtered(conn, resource_type)])
        if resource_type != "Provenance":
            return all_of([seen, self.member(resource_type, singly=singly)])
        if request.associated:
            others = [name for name in request.types if name != "Provenance"]
            chosen = self._with_target(await self._any(conn, others, returned=True))
            if request.associated == "LatestProvenanceResources":
                chosen = all_of([chosen, Condition(_LATEST)])
            return all_of([seen, chosen])
        if request.level == "system":
            return seen
        patients = [name for name in sorted(resource_types()) if name == "Patient" or membership_parameters(name)]
        of_patients = self._with_target(await self._any(conn, patients, returned=False))
        return all_of([seen, any_of([self.member(resource_type, singly=True), of_patients])])

    def member(self, resource_type: str, *, singly: bool = False) -> Condition:
        """Whose a resource is: of any patient, or of those listed; types that hold no patient's data pass."""
        request, names = self.request, list(membership_parameters(resource_type))
        end: LiteralString = _SINGLY if singly else ")"
        if request.level == "system":
            return TRUE
        if resource_type == "Patient":
            return Condition(_LISTED, (self.job_id,)) if request.limited else TRUE
        if not names:
            return TRUE
        if request.limited:
            listed: LiteralString = _IS_LISTED + _SINGLY if singly else _OF_LISTED
            alone = Condition(_OF_NOBODY_ELSE + end, (names, self.job_id))
            return all_of([Condition(listed, (self.job_id, resource_type, names)), alone])
        return Condition(_OF_SOMEONE + end, (names,))

    async def filtered(self, conn: Connection, resource_type: str) -> Condition:
        """What `_typeFilter` asks of a type: any of its filters."""
        texts = [text for name, text in self.request.filters if name == resource_type]
        if not texts:
            return TRUE
        return any_of([await self.matching(conn, resource_type, text) for text in texts])

    async def matching(self, conn: Connection, resource_type: str, text: str) -> Condition:
        params = parse_qsl(text, keep_blank_values=True)
        return await query.matching(conn, self.reader, resource_type, params, self.base_url)

    def _with_target(self, target: Condition) -> Condition:
        """A Provenance of a resource that `target` is true of: in there, `r` is that resource."""
        return Condition(_TARGETS[0] + target.sql + _TARGETS[1], target.args)

    async def _any(self, conn: Connection, names: Sequence[str], *, returned: bool) -> Condition:
        """What is of one of these types: what the export returns of it, or whatever belongs to its patients."""
        there = set(await present(conn, names))
        choices = []
        for name in names:
            if name in there:
                wanted = [self.member(name, singly=True)]
                if returned:
                    wanted = [await self.of(conn, name, singly=True), self.changed(name)]
                choices.append(all_of([Condition("r.resource_type = %s", (name,)), *wanted]))
        return any_of(choices) if choices else FALSE


async def present(conn: Connection, names: Sequence[str]) -> list[str]:
    """Those of the types of which there is, or was, a resource."""
    rows = await conn.execute(
        "SELECT name FROM unnest(%s::text[]) WITH ORDINALITY AS asked(name, place)"
        " WHERE EXISTS (SELECT FROM resource WHERE resource_type = name) ORDER BY place",
        (list(names),),
    )
    return [str(row[0]) async for row in rows]


async def settle_members(conn: Connection, selection: Selection) -> None:
    """Applies a Group's member rules to its listed members, or to all patients where it lists none.

    A patient counts who fulfils each rule, or in whose compartment something does (Bulk Cohort Group, 3.0).
    """
    request = selection.request
    if request.all_patients:
        await conn.execute(
            "INSERT INTO export_patient SELECT %s, r.id FROM resource r"
            " WHERE r.resource_type = 'Patient' AND NOT r.deleted ON CONFLICT DO NOTHING",
            (selection.job_id,),
        )
    for resource_type, text in request.member_filters:
        found = await fulfilling(conn, selection, resource_type, text)
        await conn.execute(
            "DELETE FROM export_patient p WHERE p.job_id = %s AND p.patient_id NOT IN (" + found.sql + ")",
            (selection.job_id, *found.args),
        )


async def fulfilling(conn: Connection, selection: Selection, resource_type: str, text: str) -> Condition:
    """A query for the ids of the patients who fulfil one member rule."""
    wanted = await selection.matching(conn, resource_type, text)
    seen = all_of([wanted, visible(selection.reader, resource_type, "s")])
    if resource_type == "Patient":
        found = Condition("SELECT r.id FROM resource r WHERE r.resource_type = 'Patient' AND NOT r.deleted AND ")
    else:
        found = Condition(
            "SELECT i.target_id FROM resource r JOIN index_reference i ON i.resource_key = r.key"
            " AND i.param = ANY (%s) AND i.target_type = 'Patient' AND i.url = ''"
            " WHERE r.resource_type = %s AND NOT r.deleted AND ",
            (list(membership_parameters(resource_type)), resource_type),
        )
    return Condition(found.sql + "(" + seen.sql + ")", (*found.args, *seen.args))
