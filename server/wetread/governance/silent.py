"""What silent models said: governance's own rows, outside FHIR, DICOM and every feed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wetread.domain.reader import Reader
from wetread.errors import Forbidden
from wetread.governance.phases import GOVERNING_ROLES
from wetread.record.audit import audit
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class SilentResult:
    """One silent run's answer. `reading` is the whole Reading as JSON."""

    run_id: str
    study_instance_uid: str
    model_name: str
    model_digest: str
    kept_at: datetime
    reading: dict[str, Any]


async def keep(
    conn: Connection, run_id: str, study_instance_uid: str, model_name: str, model_digest: str, reading: dict[str, Any]
) -> None:
    """Keeping the same run twice keeps it once."""
    await conn.execute(
        """
        INSERT INTO silent_result (run_id, study_instance_uid, model_name, model_digest, reading)
        VALUES (%s, %s, %s, %s, %s) ON CONFLICT (run_id) DO NOTHING
        """,
        (run_id, study_instance_uid, model_name, model_digest, Jsonb(reading)),
    )


async def results(conn: Connection, reader: Reader, model_name: str, limit: int) -> list[SilentResult]:
    """The newest silent results of a model; the access is audited. Raises Forbidden without a governing role."""
    if not reader.roles & GOVERNING_ROLES:
        raise Forbidden("silent results are shown to the roles governance and administrator only")
    async with conn.cursor(row_factory=class_row(SilentResult)) as cursor:
        await cursor.execute(
            """
            SELECT run_id, study_instance_uid, model_name, model_digest, kept_at, reading
              FROM silent_result WHERE model_name = %s ORDER BY kept_at DESC, run_id LIMIT %s
            """,
            (model_name, limit),
        )
        found = await cursor.fetchall()
    await audit.write(
        conn,
        audit.AuditEntry(
            kind="silent-results-read",
            action="R",
            outcome="0",
            principal=reader.principal,
            detail={"model": model_name, "count": str(len(found))},
            governance_only=True,
        ),
    )
    return found
