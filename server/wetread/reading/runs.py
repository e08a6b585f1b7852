"""Runs: one model over one series of one study revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from wetread.domain.finding import ModelIdentity, Reading
from wetread.domain.keys import fhir_id
from wetread.domain.phase import Phase
from wetread.store.database import Connection

READING = TypeAdapter(Reading)


@dataclass(frozen=True, slots=True)
class Run:
    """States: queued -> done (inferred) -> reported, or held (match in doubt), failed, superseded by a revision."""

    id: str
    study_instance_uid: str
    series_instance_uid: str
    revision: int
    model_name: str
    model_version: str
    model_digest: str
    config_digest: str
    phase: Phase
    rule: str
    state: str
    reading: Reading | None
    mask_key: str | None
    sr_uid: str | None
    error: str | None
    queued_at: datetime
    finished_at: datetime | None


_COLUMNS: LiteralString = """
    id, study_instance_uid, series_instance_uid, revision, model_name, model_version, model_digest, config_digest,
    phase, rule, state, reading, mask_key, sr_uid, error, queued_at, finished_at
"""


def run_id(study_instance_uid: str, series_instance_uid: str, revision: int, model: ModelIdentity) -> str:
    return fhir_id("run", study_instance_uid, series_instance_uid, str(revision), model.digest, model.config_digest)


async def queue(
    conn: Connection,
    study_instance_uid: str,
    series_instance_uid: str,
    revision: int,
    model: ModelIdentity,
    phase: Phase,
    rule: str,
) -> str:
    """Adds the run and gives its id; queueing it twice adds it once."""
    identity = run_id(study_instance_uid, series_instance_uid, revision, model)
    await conn.execute(
        """
        INSERT INTO run (id, study_instance_uid, series_instance_uid, revision, model_name, model_version,
                         model_digest, config_digest, phase, rule, state)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'queued') ON CONFLICT (id) DO NOTHING
        """,
        (
            identity,
            study_instance_uid,
            series_instance_uid,
            revision,
            model.name,
            model.version,
            model.digest,
            model.config_digest,
            phase,
            rule,
        ),
    )
    return identity


async def by_id(conn: Connection, identity: str) -> Run | None:
    found = await _many(conn, "WHERE id = %s", identity)
    return found[0] if found else None


async def of_study(conn: Connection, study_instance_uid: str) -> list[Run]:
    """Every run of the study, oldest revision first, then in the order of their queueing."""
    return await _many(conn, "WHERE study_instance_uid = %s ORDER BY revision, queued_at, id", study_instance_uid)


async def of_task(conn: Connection, task_id: str) -> list[Run]:
    """The released runs of the newest revision of every study that one Task stands for: an order may be answered by
    several studies."""
    return await _many(
        conn,
        "WHERE phase <> 'silent' AND (study_instance_uid, revision) IN "
        "(SELECT study_instance_uid, revision FROM study WHERE task_id = %s) ORDER BY queued_at, id",
        task_id,
    )


async def answered_of_studies(conn: Connection, study_instance_uids: Sequence[str]) -> list[Run]:
    """The released runs of many studies that have said something, oldest revision first."""
    return await _many(
        conn,
        "WHERE study_instance_uid = ANY(%s) AND state IN ('done', 'reported') AND phase <> 'silent' "
        "ORDER BY revision, queued_at, id",
        list(study_instance_uids),
    )


async def finished(conn: Connection, identity: str, reading: Reading, mask_key: str | None) -> bool:
    """Keeps a run's answer; false when it had one already or is no longer wanted."""
    done = await conn.execute(
        """
        UPDATE run SET state = 'done', reading = %s, mask_key = %s, finished_at = now(), error = NULL
         WHERE id = %s AND state = 'queued'
        """,
        (Jsonb(READING.dump_python(reading, mode="json")), mask_key, identity),
    )
    return done.rowcount == 1


async def failed(conn: Connection, identity: str, error: str) -> bool:
    """False when the run had ended otherwise."""
    done = await conn.execute(
        """
        UPDATE run SET state = 'failed', error = %s, finished_at = now()
         WHERE id = %s AND state IN ('queued', 'done')
        """,
        (error, identity),
    )
    return done.rowcount == 1


async def move(conn: Connection, identity: str, state: str, sr_uid: str | None = None) -> None:
    await conn.execute(
        """
        UPDATE run SET state = %(state)s, sr_uid = coalesce(%(sr)s, sr_uid),
                       reported_at = CASE WHEN %(state)s = 'reported' THEN coalesce(reported_at, now()) END
         WHERE id = %(id)s
        """,
        {"state": state, "sr": sr_uid, "id": identity},
    )


async def restrict(conn: Connection, identity: str, phase: Phase) -> None:
    """Puts a run that nobody has seen yet under a stricter phase."""
    await conn.execute(
        """
        UPDATE run SET phase = %(phase)s, reading = jsonb_set(reading, '{phase}', to_jsonb(%(phase)s::text))
         WHERE id = %(id)s
        """,
        {"phase": phase, "id": identity},
    )


async def supersede(conn: Connection, study_instance_uid: str, revision: int) -> None:
    """Runs of earlier revisions that have not been reported will not be."""
    await conn.execute(
        """
        UPDATE run SET state = 'superseded'
         WHERE study_instance_uid = %s AND revision < %s AND state IN ('queued', 'done', 'held')
        """,
        (study_instance_uid, revision),
    )


async def _many(conn: Connection, clause: LiteralString, value: Any) -> list[Run]:
    async with conn.cursor(row_factory=class_row(Run)) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} FROM run {clause}", (value,))
        return [
            replace(
                row,
                phase=Phase(row.phase),
                reading=None if row.reading is None else READING.validate_python(row.reading),
            )
            for row in await cursor.fetchall()
        ]
