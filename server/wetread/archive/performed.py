"""Modality performed procedure steps: how many instances a modality says that it has made (PS3.4 F.7)."""

from __future__ import annotations

from wetread.errors import Conflict, NotFound
from wetread.store.database import Connection, SyncConnection

IN_PROGRESS = "IN PROGRESS"
ENDED = ("COMPLETED", "DISCONTINUED")


class Ended(Conflict):
    """The step is final and may no longer be updated (PS3.4 F.7.2.2.2)."""

    dimse_status = 0x0110


def begin(conn: SyncConnection, sop_instance_uid: str, study_instance_uid: str, *, source: str) -> None:
    """A step in progress. Raises Conflict where its UID is taken."""
    done = conn.execute(
        """
        INSERT INTO performed_step (sop_instance_uid, study_instance_uid, status, source) VALUES (%s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (sop_instance_uid, study_instance_uid, IN_PROGRESS, source),
    )
    if done.rowcount == 0:
        raise Conflict("a performed procedure step with this UID is there already", location="SOPInstanceUID")


def end(conn: SyncConnection, sop_instance_uid: str, status: str, instance_count: int) -> None:
    """The step has ended, completed or discontinued, with so many instances. Raises NotFound, Ended."""
    found = conn.execute(
        "SELECT status FROM performed_step WHERE sop_instance_uid = %s FOR UPDATE", (sop_instance_uid,)
    ).fetchone()
    if found is None:
        raise NotFound("no performed procedure step has this UID")
    if found[0] in ENDED:
        raise Ended("the performed procedure step has ended and may no longer be updated")
    if status in ENDED:
        conn.execute(
            "UPDATE performed_step SET status = %s, instance_count = %s, ended_at = now() WHERE sop_instance_uid = %s",
            (status, instance_count, sop_instance_uid),
        )


async def ended_of_known_study(conn: Connection) -> str | None:
    """The Study Instance UID of a step that has ended and that nobody has taken in yet, once the study is known."""
    row = await (
        await conn.execute(
            """
            SELECT study_instance_uid FROM performed_step p
             WHERE status <> 'IN PROGRESS' AND NOT noticed
               AND EXISTS (SELECT 1 FROM instance i WHERE i.study_instance_uid = p.study_instance_uid AND i.noticed)
             ORDER BY ended_at LIMIT 1
            """
        )
    ).fetchone()
    return None if row is None else str(row[0])


async def take(conn: Connection, study_instance_uid: str) -> None:
    """Marks the study's ended steps as taken in, when the transaction commits."""
    await conn.execute(
        "UPDATE performed_step SET noticed = true WHERE study_instance_uid = %s AND status <> 'IN PROGRESS'",
        (study_instance_uid,),
    )


async def announced(conn: Connection, study_instance_uid: str) -> int | None:
    """How many instances the study's steps have made in all; None without steps, or while one is in progress."""
    row = await (
        await conn.execute(
            """
            SELECT sum(instance_count) FROM performed_step WHERE study_instance_uid = %s
            HAVING count(*) > 0 AND bool_and(status <> 'IN PROGRESS')
            """,
            (study_instance_uid,),
        )
    ).fetchone()
    return int(row[0]) if row else None
