"""Imaging orders as the reading needs them: their numbers, their patient, and the message they came by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from wetread.domain.identity import AccessionNumber, PatientIdentity
from wetread.domain.matching import Candidate
from wetread.mapping.identify import OrderNumber
from wetread.store.database import Connection

IDENTITY = TypeAdapter(PatientIdentity)


@dataclass(frozen=True, slots=True)
class Order:
    """`message_id` is the newest message that carried the order: an alert echoes its PID and numbers."""

    service_request_id: str
    task_id: str
    patient_id: str
    encounter_id: str | None
    placer: str
    filler: str
    accession_number: str
    accession_issuer: str
    study_instance_uid: str
    identity: PatientIdentity
    priority: int
    modality: str
    patient_class: str
    ordering_location: str
    status: str
    message_id: int


_COLUMNS = """
    service_request_id, task_id, patient_id, encounter_id, placer, filler, accession_number, accession_issuer,
    study_instance_uid, identity, priority, modality, patient_class, ordering_location, status, message_id
"""


async def put(conn: Connection, order: Order, numbers: Sequence[OrderNumber]) -> None:
    """Writes the order as it now stands, and remembers its numbers. What a later message leaves out, stays."""
    await conn.execute(
        f"""
        INSERT INTO imaging_order AS o ({_COLUMNS})
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (service_request_id) DO UPDATE SET
            encounter_id = coalesce(excluded.encounter_id, o.encounter_id),
            placer = coalesce(nullif(excluded.placer, ''), o.placer),
            filler = coalesce(nullif(excluded.filler, ''), o.filler),
            accession_number = coalesce(nullif(excluded.accession_number, ''), o.accession_number),
            accession_issuer = coalesce(nullif(excluded.accession_issuer, ''), o.accession_issuer),
            study_instance_uid = coalesce(nullif(excluded.study_instance_uid, ''), o.study_instance_uid),
            identity = CASE WHEN excluded.identity = '{{}}' THEN o.identity ELSE excluded.identity END,
            priority = excluded.priority, status = excluded.status,
            modality = coalesce(nullif(excluded.modality, ''), o.modality),
            patient_class = coalesce(nullif(excluded.patient_class, ''), o.patient_class),
            ordering_location = coalesce(nullif(excluded.ordering_location, ''), o.ordering_location),
            message_id = CASE WHEN excluded.identity = '{{}}' THEN o.message_id ELSE excluded.message_id END
        """,
        (
            order.service_request_id,
            order.task_id,
            order.patient_id,
            order.encounter_id,
            order.placer,
            order.filler,
            order.accession_number,
            order.accession_issuer,
            order.study_instance_uid,
            _identity_json(order.identity),
            order.priority,
            order.modality,
            order.patient_class,
            order.ordering_location,
            order.status,
            order.message_id,
        ),
    )
    for number in numbers:
        await conn.execute(
            """
            INSERT INTO order_number (type, system, value, service_request_id) VALUES (%s, %s, %s, %s)
            ON CONFLICT DO NOTHING
            """,
            (number.type, number.system, number.value, order.service_request_id),
        )


def _identity_json(identity: PatientIdentity) -> Jsonb:
    """An order message without PID says nothing of its patient: `{}`."""
    return Jsonb(IDENTITY.dump_python(identity, mode="json") if identity.identifiers else {})


async def by_id(conn: Connection, service_request_id: str) -> Order | None:
    async with conn.cursor(row_factory=class_row(Order)) as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS} FROM imaging_order WHERE service_request_id = %s",
            (service_request_id,),
        )
        row = await cursor.fetchone()
    return None if row is None else _typed(row)


async def by_numbers(conn: Connection, numbers: Sequence[OrderNumber]) -> Order | None:
    """The stored order that has any of these numbers, asked in their order.

    One accession number may cover several orders (IHE RAD TF-1 3.4: Imaging Service Request, several Requested
    Procedures): an order is not found by it whose placer or filler number of the same authority is another one.
    """
    for number in numbers:
        row = await (
            await conn.execute(
                "SELECT service_request_id FROM order_number WHERE type = %s AND system = %s AND value = %s",
                (number.type, number.system, number.value),
            )
        ).fetchone()
        if row is not None and not (number.type == "ACSN" and await _has_another_number(conn, row[0], numbers)):
            return await by_id(conn, row[0])
    return None


async def _has_another_number(conn: Connection, service_request_id: str, numbers: Sequence[OrderNumber]) -> bool:
    for number in numbers:
        if number.type != "ACSN":
            row = await (
                await conn.execute(
                    "SELECT 1 FROM order_number WHERE service_request_id = %s AND type = %s AND system = %s",
                    (service_request_id, number.type, number.system),
                )
            ).fetchone()
            if row is not None:
                return True
    return False


async def candidates(
    conn: Connection,
    study_instance_uid: str,
    accession: AccessionNumber,
    patient_id: str,
    window: timedelta,
) -> list[Candidate]:
    """Orders that may be the study's: by UID, by accession number, or by patient within the time window."""
    async with conn.cursor(row_factory=class_row(Order)) as cursor:
        await cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM imaging_order o
             WHERE status NOT IN ('revoked', 'entered-in-error')
               AND (study_instance_uid = %(uid)s AND study_instance_uid <> ''
                 OR accession_number = %(accession)s AND accession_number <> ''
                 OR patient_id = %(patient)s AND ordered_at > now() - %(window)s::interval
                    AND NOT EXISTS (SELECT 1 FROM study s WHERE s.service_request_id = o.service_request_id))
             ORDER BY study_instance_uid = %(uid)s DESC, accession_number = %(accession)s DESC, ordered_at LIMIT 20
            """,
            {"uid": study_instance_uid, "accession": accession.value, "patient": patient_id, "window": window},
        )
        rows = [_typed(row) for row in await cursor.fetchall()]
    return [
        Candidate(
            row.service_request_id,
            row.study_instance_uid,
            AccessionNumber(row.accession_number, row.accession_issuer),
            row.identity,
            by_patient=row.study_instance_uid != study_instance_uid and row.accession_number != accession.value,
        )
        for row in rows
    ]


def _typed(row: Order) -> Order:
    return replace(row, identity=IDENTITY.validate_python(row.identity))
