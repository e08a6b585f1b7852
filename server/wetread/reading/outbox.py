"""What is to leave: one row per delivery, made in the transaction that made its content, kept until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from wetread.domain.destination import Destination
from wetread.domain.keys import fhir_id
from wetread.domain.reader import Reader
from wetread.errors import Forbidden
from wetread.reading.inbox import STAFF
from wetread.store.database import Connection
from wetread.work.jobs import Step, Work

DELIVER = Step("deliver", "work", longest_wait_s=60.0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """`about` says what it is (sr, seg, pr, alert); `blob_keys` hold the very bytes that are sent, and sent again."""

    id: str
    destination: str
    kind: str
    about: str
    patient_id: str | None
    run_id: str | None
    blob_keys: list[str]
    control_id: str | None
    state: str
    attempts: int
    last_error: str | None
    answer: str | None
    created_at: datetime
    settled_at: datetime | None


_COLUMNS: LiteralString = """
    id, destination, kind, about, patient_id, run_id, blob_keys, control_id, state, attempts, last_error, answer,
    created_at, settled_at
"""


async def add(
    conn: Connection,
    work: Work,
    destination: Destination,
    about: str,
    blob_keys: Sequence[str],
    *,
    patient_id: str,
    run_id: str,
    control_id: str | None = None,
) -> bool:
    """Adds a delivery and its step, once per destination, run and content; false where it was added before. A
    destination's deliveries stay in order: they share a lane, and a lane that knew priorities would let one overtake
    another."""
    identity = fhir_id("delivery", destination.name, run_id, about)
    added = await conn.execute(
        """
        INSERT INTO delivery (id, destination, kind, about, patient_id, run_id, blob_keys, control_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING
        """,
        (identity, destination.name, destination.kind, about, patient_id, run_id, list(blob_keys), control_id),
    )
    if added.rowcount == 1:
        await work.enqueue(conn, DELIVER, {"delivery_id": identity}, lane=f"destination:{destination.name}")
    return added.rowcount == 1


async def pending(conn: Connection, identity: str) -> Delivery | None:
    """The delivery where it still has to be made."""
    found = await _many(conn, "WHERE id = %s AND state = 'pending'", (identity,))
    return found[0] if found else None


async def tried(conn: Connection, identity: str, error: str) -> None:
    await conn.execute(
        "UPDATE delivery SET attempts = attempts + 1, last_error = %s WHERE id = %s AND state = 'pending'",
        (error, identity),
    )


async def settle(conn: Connection, identity: str, state: str, *, answer: str = "", error: str | None = None) -> bool:
    """Marks a delivery sent or dead; false when it was settled before."""
    done = await conn.execute(
        """
        UPDATE delivery SET state = %s, answer = %s, last_error = coalesce(%s, last_error), attempts = attempts + 1,
                            settled_at = now()
         WHERE id = %s AND state = 'pending'
        """,
        (state, answer, error, identity),
    )
    return done.rowcount == 1


async def withdraw_alerts(conn: Connection, run_id: str, error: str) -> bool:
    """Takes back the alerts of a run that have not been sent; false where there are none."""
    done = await conn.execute(
        """
        UPDATE delivery SET state = 'dead', last_error = %s, settled_at = now()
         WHERE run_id = %s AND about = 'alert' AND state = 'pending'
        """,
        (error, run_id),
    )
    return done.rowcount > 0


async def revive(conn: Connection, reader: Reader, work: Work, identity: str) -> bool:
    """Sends a dead delivery again, the same bytes; false where there is no dead one of this id."""
    _require_staff(reader)
    row = await (
        await conn.execute(
            """
            UPDATE delivery SET state = 'pending', settled_at = NULL WHERE id = %s AND state = 'dead'
            RETURNING destination
            """,
            (identity,),
        )
    ).fetchone()
    if row is not None:
        await work.enqueue(conn, DELIVER, {"delivery_id": identity}, lane=f"destination:{row[0]}")
    return row is not None


async def entries(conn: Connection, reader: Reader, states: Sequence[str], limit: int) -> list[Delivery]:
    """The newest deliveries in these states; all states where none is named."""
    _require_staff(reader)
    return await _many(
        conn, "WHERE state = ANY(%s) OR %s ORDER BY created_at DESC, id LIMIT %s", (list(states), not states, limit)
    )


async def _many(conn: Connection, clause: LiteralString, parameters: Sequence[object]) -> list[Delivery]:
    async with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} FROM delivery {clause}", parameters)
        return await cursor.fetchall()


def _require_staff(reader: Reader) -> None:
    if not reader.roles & STAFF:
        raise Forbidden("deliveries are shown to the roles administrator and engineer only")
