"""Export jobs and their files as rows: begun, asked about, read from, cancelled, gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, LiteralString
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wetread.domain.reader import Reader, Scope
from wetread.errors import Forbidden, InvalidInput, NotFound, Unreachable, Unsupported
from wetread.record import resources
from wetread.record.condition import Condition
from wetread.record.export.request import ExportRequest, filter_of, membership_parameters, require_export
from wetread.record.export.selection import Selection, fulfilling
from wetread.record.search import query
from wetread.record.search.index import date_range, reference_parts
from wetread.record.splice import instant
from wetread.store.database import Connection
from wetread.work.jobs import Step, Work

EXPORT = Step("export", "work", most_tries=5)
SWEEP = Step("export-sweep", "work")
PRIORITY = -10
"""An export goes behind everything that a patient waits for."""
SETTLE = timedelta(milliseconds=250)
"""How long after its transaction time an export first looks: a writer has taken its moment a little before its place
among the running transactions."""
MEMBER_FILTER = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/member-filter"
_DEEPEST_GROUP = 5


class Throttled(Unreachable):
    """Asked too often, or too much at once. The answer says when to come again."""

    code: ClassVar[str] = "throttled"
    http_status: ClassVar[int] = 429
    fhir_issue: ClassVar[str] = "throttled"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Job:
    """One export. `part` is the place in `parts`, `after_key` that within it."""

    id: UUID
    principal: str
    scopes: str
    url: str
    request: dict[str, Any]
    transaction_time: datetime
    created_at: datetime
    state: str
    types: list[str]
    slice: int
    part: int
    after_key: int
    row_bytes: int
    resources: int
    polled_at: datetime | None
    expires_at: datetime | None
    failure: str

    @property
    def asked(self) -> ExportRequest:
        return ExportRequest.from_json(self.request, self.types)

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Section and type, in the order in which they are written."""
        output = [("output", name) for name in self.types]
        return output + [("deleted", name) for name in self.types] if self.asked.since is not None else output

    @property
    def reader(self) -> Reader:
        return Reader(self.principal, tuple(Scope.parse(text) for text in self.scopes.split()))


@dataclass(frozen=True, slots=True)
class File:
    """One finished file. `section` is output, deleted or error."""

    number: int
    section: str
    resource_type: str
    blob_key: str
    resources: int
    bytes: int


_JOB: LiteralString = """
    SELECT id, principal, scopes, url, request, transaction_time, created_at, state, types, slice, part, after_key,
        row_bytes, resources, polled_at, expires_at, failure FROM export_job WHERE id = %s
"""
_FILES: LiteralString = """
    SELECT number, section, resource_type, blob_key, resources, bytes FROM export_file WHERE job_id = %s
"""


async def start(
    conn: Connection, work: Work, reader: Reader, request: ExportRequest, url: str, base_url: str, *, most_jobs: int
) -> UUID:
    """Begins an export in the caller's transaction. `url` is what was asked, `base_url` that of the FHIR face.

    Raises NotFound and Gone for a Group, InvalidInput for a filter that is no search and for patients that are none
    here or not of the Group, Forbidden for patients without the rights on Patient, and Throttled where enough exports
    run.
    """
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('export', 5))")
    rows = await conn.execute("SELECT count(*) FROM export_job WHERE state IN ('waiting', 'running')")
    row = await rows.fetchone()
    if row is not None and row[0] >= most_jobs:
        raise Throttled(f"{most_jobs} exports are running; wait for one to end, or cancel one", 60)
    patients: Sequence[str] = request.patients
    if patients:  # before anything tells who is here
        require_export(reader, ["Patient"])
    if request.level == "group":
        request, patients = await _with_members(conn, reader, request)
    elif patients:
        await _require_patients(conn, patients)
    for resource_type, text in (*request.filters, *request.member_filters):
        await query.matching(conn, reader, resource_type, parse_qsl(text, keep_blank_values=True), base_url)
    job_id, now = uuid4(), datetime.now(UTC)
    await conn.execute(
        "INSERT INTO export_job (id, principal, scopes, url, request, transaction_time, types)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            job_id,
            reader.principal,
            " ".join(map(str, reader.scopes)),
            url,
            Jsonb(request.as_json()),
            now.replace(microsecond=now.microsecond // 1000 * 1000),
            list(request.types),
        ),
    )
    await conn.execute(
        "INSERT INTO export_patient SELECT %s, * FROM unnest(%s::text[])", (job_id, list(dict.fromkeys(patients)))
    )
    await work.enqueue(conn, EXPORT, {"job": str(job_id), "slice": -1}, priority=PRIORITY, at=now + SETTLE)
    return job_id


async def _with_members(
    conn: Connection, reader: Reader, request: ExportRequest
) -> tuple[ExportRequest, Sequence[str]]:
    """The request with the Group's rules, and the patients that the Group lists."""
    require_export(reader, ["Group"])
    listed, lists, filters = await _membership(conn, reader, request.group_id)
    if request.patients:
        outside = set(request.patients) - listed if lists else set[str]()
        if outside:
            raise InvalidInput("patient names a patient who is not of this Group", location="http.patient")
        if not lists:
            await _require_patients(conn, request.patients)
        listed, lists = set(request.patients), True
    values = {name: getattr(request, name) for name in request.__slots__}
    extra = {"member_filters": filters, "all_patients": bool(filters) and not lists}
    return ExportRequest(**{**values, **extra}), sorted(listed)


async def members(conn: Connection, reader: Reader, group_id: str, base_url: str) -> frozenset[str]:
    """The ids of the patients whom an export of this Group would be of, now.

    Raises NotFound, Gone, Forbidden, InvalidInput for a rule that is no search, and Unsupported.
    """
    listed, lists, filters = await _membership(conn, reader, group_id)
    if not filters:
        return frozenset(listed)
    selection = Selection(UUID(int=0), reader, ExportRequest("group", ()), datetime.now(UTC), base_url)
    rules = [await fulfilling(conn, selection, resource_type, text) for resource_type, text in filters]
    everyone = Condition("SELECT id FROM resource WHERE resource_type = 'Patient' AND NOT deleted")
    among = Condition("SELECT unnest(%s::text[])", (sorted(listed),)) if lists else everyone
    rows = await conn.execute(
        " INTERSECT ".join(f"({each.sql})" for each in (among, *rules)),
        [arg for each in (among, *rules) for arg in each.args],
    )
    return frozenset([str(row[0]) async for row in rows])


async def _membership(
    conn: Connection, reader: Reader, group_id: str
) -> tuple[set[str], bool, tuple[tuple[str, str], ...]]:
    """The patients whom a Group lists, whether it lists at all, and its rules."""
    version = await resources.read(conn, reader, "Group", group_id)
    group = version.resource()
    filters = _member_filters(reader, group)
    listed = await _listed(conn, reader, group, datetime.now(UTC), _DEEPEST_GROUP)
    lists = bool(group.get("member"))
    if not filters and not lists and not group.get("actual", True):
        text = "a Group that is defined by characteristic is read by its member-filter extensions; it has none"
        raise Unsupported(text, location="Group.characteristic")
    return listed, lists, filters


def _member_filters(reader: Reader, group: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The rules of a Bulk Cohort Group, all of which hold (Bulk Data 3.0, StructureDefinition/member-filter)."""
    found = []
    for extension in group.get("modifierExtension", ()):
        expression = extension.get("valueExpression", {})
        if extension.get("url") != MEMBER_FILTER or expression.get("language") != "application/x-fhir-query":
            text = "this Group has a modifier that is not understood; only member-filter as application/x-fhir-query is"
            raise Unsupported(text, location="Group.modifierExtension")
        resource_type, query = filter_of(str(expression.get("expression", "")), "member-filter")
        if resource_type != "Patient" and not membership_parameters(resource_type):
            raise Unsupported("a member-filter is on Patient or a type of its compartment", location=MEMBER_FILTER)
        require_export(reader, [resource_type])
        found.append((resource_type, query))
    return tuple(found)


async def _listed(conn: Connection, reader: Reader, group: dict[str, Any], now: datetime, deepest: int) -> set[str]:
    """The patients whom a Group lists now, those of the Groups that it lists among them."""
    found: set[str] = set()
    for member in group.get("member", ()):
        parts = reference_parts(str(member.get("entity", {}).get("reference", "")), conn.bases)
        if parts.url or not _is_member(member, now):
            continue
        if parts.target_type == "Patient":
            found.add(parts.target_id)
        elif parts.target_type == "Group" and deepest > 0:
            inner = await resources.read(conn, reader, "Group", parts.target_id)
            found |= await _listed(conn, reader, inner.resource(), now, deepest - 1)
    return found


def _is_member(member: dict[str, Any], now: datetime) -> bool:
    """Group.member: not inactive, and within its period (FHIR R4 8.10.2)."""
    period = member.get("period", {})
    begun = "start" not in period or date_range(period["start"])[0] <= now
    ended = "end" in period and date_range(period["end"])[1] <= now
    return begun and not ended and not member.get("inactive", False)


async def _require_patients(conn: Connection, ids: Sequence[str]) -> None:
    rows = await conn.execute(
        "SELECT count(*) FROM resource WHERE resource_type = 'Patient' AND id = ANY (%s) AND NOT deleted", (list(ids),)
    )
    row = await rows.fetchone()
    if row is None or row[0] != len(ids):
        raise InvalidInput("patient names a patient who is not here", location="http.patient")


async def find(conn: Connection, job_id: UUID) -> Job | None:
    async with conn.cursor(row_factory=class_row(Job)) as cursor:
        await cursor.execute(_JOB, (job_id,))
        return await cursor.fetchone()


async def of(conn: Connection, reader: Reader, job_id: UUID) -> Job:
    """A job, for the client that began it and may still export all of it. Raises NotFound, also when it has expired,
    and Forbidden."""
    job = await find(conn, job_id)
    if job is None or (job.expires_at is not None and job.expires_at <= datetime.now(UTC)):
        raise NotFound("no such export; it was cancelled, has expired or never was")
    if job.principal != reader.principal:
        raise Forbidden("an export is shown only to the client that began it")
    require_export(reader, job.types)
    return job


async def polled(conn: Connection, job: Job) -> int:
    """Takes note that the client asks how far a running job is; in how many seconds it should ask again.

    Raises Throttled for a client that does not wait half as long as it was told.
    """
    age = datetime.now(UTC) - job.created_at
    wait_s = 1 if age < timedelta(seconds=30) else 5
    moved = await conn.execute(
        "UPDATE export_job SET polled_at = clock_timestamp() WHERE id = %s AND"
        " (polled_at IS NULL OR polled_at <= clock_timestamp() - make_interval(secs => %s))",
        (job.id, wait_s / 2),
    )
    if moved.rowcount == 0:
        raise Throttled("asked again too soon; wait as long as Retry-After says", wait_s)
    return wait_s


async def files(conn: Connection, job: Job) -> list[File]:
    async with conn.cursor(row_factory=class_row(File)) as cursor:
        await cursor.execute(_FILES + " ORDER BY number", (job.id,))
        return await cursor.fetchall()


async def file(conn: Connection, job: Job, number: int) -> File:
    """Raises NotFound."""
    async with conn.cursor(row_factory=class_row(File)) as cursor:
        await cursor.execute(_FILES + " AND number = %s", (job.id, number))
        found = await cursor.fetchone()
    if found is None:
        raise NotFound("no such file in this export")
    return found


async def manifest(conn: Connection, job: Job, base_url: str) -> dict[str, Any]:
    """What a complete export consists of (Bulk Data 2.0, Response - Complete Status)."""
    sections: dict[str, list[dict[str, Any]]] = {"output": [], "deleted": [], "error": []}
    types = {"output": "", "deleted": "Bundle", "error": "OperationOutcome"}
    for each in await files(conn, job):
        url = f"{base_url}/$export/{job.id}/{each.number}"
        name = types[each.section] or each.resource_type
        sections[each.section].append({"type": name, "url": url, "count": each.resources})
    if job.asked.since is None:
        del sections["deleted"]
    return {
        "transactionTime": instant(job.transaction_time),
        "request": job.url,
        "requiresAccessToken": True,
        **sections,
    }


async def cancel(conn: Connection, work: Work, job: Job) -> None:
    """Ends and forgets a job; its files go a little later, when no try can be writing them."""
    await conn.execute("DELETE FROM export_job WHERE id = %s", (job.id,))
    await sweep_at(conn, work, job.id, datetime.now(UTC) + timedelta(minutes=1))


async def sweep_at(conn: Connection, work: Work, job_id: UUID, at: datetime) -> None:
    await work.enqueue(conn, SWEEP, {"job": str(job_id)}, priority=PRIORITY, at=at)
