"""Studies as the reading needs them: how far each has come, whose it is, and which order it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wetread.archive.query import Part
from wetread.domain.identity import PatientIdentity
from wetread.domain.reader import Reader
from wetread.domain.study import Arrived, MatchState, StudyState
from wetread.errors import NotFound
from wetread.reading.orders import IDENTITY
from wetread.record.audit import audit
from wetread.record.compartment import visible
from wetread.record.condition import all_of
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Study:
    """`id` is that of the ImagingStudy; `revision` counts how often the study was complete and grew again.

    `candidates` are the orders in question: of a held or proposed study those to choose from, of a matched one its own,
    of one without order those that a person has ruled out. `reopened_at` is when the newest revision began to grow.
    """

    study_instance_uid: str
    id: str
    state: StudyState
    revision: int
    patient_id: str
    identity: PatientIdentity
    accession_number: str
    accession_issuer: str
    modalities: tuple[str, ...]
    description: str
    study_date: str
    service_request_id: str | None
    task_id: str
    match_state: MatchState
    match_reason: str
    candidates: tuple[str, ...]
    first_at: datetime
    last_at: datetime
    instance_count: int
    expected_count: int | None
    declared_complete: bool
    completed_at: datetime | None
    completed_why: str
    priority: int
    critical: bool
    critical_reason: str
    error: str | None
    reopened_at: datetime | None = None

    @property
    def arrived(self) -> Arrived:
        return Arrived(
            self.reopened_at or self.first_at,
            self.last_at,
            self.instance_count,
            self.expected_count,
            self.declared_complete,
        )


_COLUMNS: LiteralString = """
    study_instance_uid, id, state, revision, patient_id, identity, accession_number, accession_issuer, modalities,
    description, study_date, service_request_id, task_id, match_state, match_reason, candidates, first_at, last_at,
    instance_count, expected_count, declared_complete, completed_at, completed_why, priority, critical,
    critical_reason, error, reopened_at
"""


async def lock(conn: Connection, study_instance_uid: str) -> Study | None:
    """The study, held by this transaction: steps of one study follow each other."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('study:' || %s, 0))", (study_instance_uid,))
    return await _one(conn, "study_instance_uid", study_instance_uid)


async def by_id(conn: Connection, reader: Reader, study_id: str) -> Study:
    """Raises NotFound, Forbidden."""
    reader.require("r", "ImagingStudy")
    found = await _one(conn, "id", study_id)
    if found is None:
        raise NotFound("no study has this id")
    return found


async def by_uid(conn: Connection, reader: Reader, study_instance_uid: str) -> Study:
    """Raises NotFound, Forbidden."""
    reader.require("r", "ImagingStudy")
    found = await _one(conn, "study_instance_uid", study_instance_uid)
    if found is None:
        raise NotFound("no study has this UID")
    return found


def open_to(reader: Reader, letters: str) -> Part | None:
    """The studies whose ImagingStudy the reader's scopes open to each of these interactions, for the archive.

    None where they open all. Raises Forbidden where they open none.
    """
    if all(reader.may(letter, "ImagingStudy") for letter in letters):
        return None
    for letter in letters:
        reader.require_some(letter, "ImagingStudy")
    seen = all_of([visible(reader, "ImagingStudy", letter) for letter in letters])
    sql: LiteralString = (
        "i.study_instance_uid IN (SELECT s.study_instance_uid FROM study s"
        " JOIN resource r ON r.resource_type = 'ImagingStudy' AND r.id = s.id"
        " WHERE NOT r.deleted AND (" + seen.sql + "))"
    )
    return Part(sql, seen.args)


async def uid_of(conn: Connection, study_id: str) -> str:
    """The Study Instance UID behind an ImagingStudy id; for steps, whose payload carries ids only."""
    row = await (await conn.execute("SELECT study_instance_uid FROM study WHERE id = %s", (study_id,))).fetchone()
    if row is None:
        raise NotFound("no study has this id")
    return str(row[0])


async def waiting_for(conn: Connection, study_instance_uid: str, accession_number: str) -> list[str]:
    """Study Instance UIDs of studies without an order that an order with these numbers may belong to."""
    rows = await (
        await conn.execute(
            """
            SELECT study_instance_uid FROM study
             WHERE service_request_id IS NULL
               AND (study_instance_uid = %s OR accession_number = %s AND accession_number <> '')
             ORDER BY study_instance_uid
            """,
            (study_instance_uid, accession_number),
        )
    ).fetchall()
    return [str(row[0]) for row in rows]


async def answering(conn: Connection, service_request_id: str) -> list[str]:
    """Study Instance UIDs of the studies that answer an order."""
    rows = await (
        await conn.execute(
            "SELECT study_instance_uid FROM study WHERE service_request_id = %s ORDER BY study_instance_uid",
            (service_request_id,),
        )
    ).fetchall()
    return [str(row[0]) for row in rows]


async def patients_of(conn: Connection, study_instance_uids: Sequence[str]) -> dict[str, str]:
    """The patient's id of each of these studies, as far as it is known."""
    rows = await conn.execute(
        "SELECT study_instance_uid, patient_id FROM study WHERE study_instance_uid = ANY(%s) AND patient_id <> ''",
        (list(study_instance_uids),),
    )
    return dict(await rows.fetchall())


async def insert(conn: Connection, study: Study) -> None:
    await conn.execute(
        f"""
        INSERT INTO study ({_COLUMNS})
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
                %s, %s)
        """,
        (
            study.study_instance_uid,
            study.id,
            study.state,
            study.revision,
            study.patient_id,
            Jsonb(IDENTITY.dump_python(study.identity, mode="json")),
            study.accession_number,
            study.accession_issuer,
            list(study.modalities),
            study.description,
            study.study_date,
            study.service_request_id,
            study.task_id,
            study.match_state,
            study.match_reason,
            list(study.candidates),
            study.first_at,
            study.last_at,
            study.instance_count,
            study.expected_count,
            study.declared_complete,
            study.completed_at,
            study.completed_why,
            study.priority,
            study.critical,
            study.critical_reason,
            study.error,
            study.reopened_at,
        ),
    )


async def update(conn: Connection, study: Study) -> None:
    """Writes a study that this transaction holds; what identifies it (UIDs, identity, arrival) never changes here."""
    await conn.execute(
        """
        UPDATE study
           SET state = %s, revision = %s, patient_id = %s, modalities = %s, service_request_id = %s, task_id = %s,
               match_state = %s, match_reason = %s, candidates = %s, last_at = %s, instance_count = %s,
               expected_count = %s, declared_complete = %s, completed_at = %s, completed_why = %s, priority = %s,
               critical = %s, critical_reason = %s, error = %s, reopened_at = %s
         WHERE study_instance_uid = %s
        """,
        (
            study.state,
            study.revision,
            study.patient_id,
            list(study.modalities),
            study.service_request_id,
            study.task_id,
            study.match_state,
            study.match_reason,
            list(study.candidates),
            study.last_at,
            study.instance_count,
            study.expected_count,
            study.declared_complete,
            study.completed_at,
            study.completed_why,
            study.priority,
            study.critical,
            study.critical_reason,
            study.error,
            study.reopened_at,
            study.study_instance_uid,
        ),
    )


async def newest(conn: Connection, reader: Reader, states: Sequence[str], limit: int) -> list[Study]:
    """Studies by their last arrival, newest first. Raises Forbidden."""
    reader.require("s", "ImagingStudy")
    return await _many(
        conn,
        "WHERE state = ANY(%s) OR %s ORDER BY last_at DESC, study_instance_uid LIMIT %s",
        (list(states), not states, limit),
    )


async def sickest(conn: Connection, reader: Reader, limit: int) -> list[Study]:
    """The worklist's order: critical first, then by priority, then who has waited longest. Raises Forbidden."""
    reader.require("s", "ImagingStudy")
    return await _many(conn, "ORDER BY critical DESC, priority DESC, first_at, study_instance_uid LIMIT %s", (limit,))


def audit_entry(kind: str, study: Study, detail: dict[str, str]) -> audit.AuditEntry:
    """What Wetread did with a study, for the audit record."""
    return audit.AuditEntry(
        kind=kind,
        action="C" if kind == "instance-stored" else "U",
        outcome="0",
        principal="wetread",
        patient_id=study.patient_id,
        entities=(audit.Entity(f"ImagingStudy/{study.id}", identifier=f"urn:oid:{study.study_instance_uid}"),),
        detail=detail,
    )


async def _one(conn: Connection, column: LiteralString, value: str) -> Study | None:
    found = await _many(conn, f"WHERE {column} = %s", (value,))
    return found[0] if found else None


async def _many(conn: Connection, clause: LiteralString, parameters: Sequence[Any]) -> list[Study]:
    async with conn.cursor(row_factory=class_row(Study)) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} FROM study {clause}", parameters)
        return [
            replace(
                row,
                state=StudyState(row.state),
                match_state=MatchState(row.match_state),
                identity=IDENTITY.validate_python(row.identity),
                modalities=tuple(row.modalities),
                candidates=tuple(row.candidates),
            )
            for row in await cursor.fetchall()
        ]
