"""The phase of each model at this site. History is kept; the newest line holds. A change releases no past run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput
from wetread.record.audit import audit
from wetread.store.database import Connection

GOVERNING_ROLES = frozenset({"administrator", "governance"})


@dataclass(frozen=True, slots=True)
class PhaseChange:
    model_name: str
    model_digest: str
    phase: Phase
    changed_at: datetime
    changed_by: str
    reason: str


async def phase_of(conn: Connection, model_name: str, model_digest: str, default: Phase) -> Phase:
    """The phase of exactly these weights; `default` where nobody has set one."""
    row = await (
        await conn.execute(
            "SELECT phase FROM model_phase WHERE model_name = %s AND model_digest = %s ORDER BY id DESC LIMIT 1",
            (model_name, model_digest),
        )
    ).fetchone()
    return default if row is None else Phase(row[0])


async def change_phase(
    conn: Connection, reader: Reader, model_name: str, model_digest: str, phase: Phase, reason: str
) -> None:
    """Sets the phase from now on. Raises Forbidden without a governing role, InvalidInput without a reason."""
    if not reader.roles & GOVERNING_ROLES:
        raise Forbidden("changing a model's phase needs the role governance or administrator")
    if not reason.strip():
        raise InvalidInput("a change of phase needs its reason")
    await conn.execute(
        "INSERT INTO model_phase (model_name, model_digest, phase, changed_by, reason) VALUES (%s, %s, %s, %s, %s)",
        (model_name, model_digest, phase, reader.principal, reason),
    )
    detail = {"model": model_name, "digest": model_digest, "phase": phase.value, "reason": reason}
    await audit.write(
        conn,
        audit.AuditEntry(kind="phase-changed", action="U", outcome="0", principal=reader.principal, detail=detail),
    )


async def history(conn: Connection, reader: Reader) -> list[PhaseChange]:
    """Every change, newest first. Raises Forbidden without a governing role."""
    if not reader.roles & (GOVERNING_ROLES | {"auditor"}):
        raise Forbidden("reading the phases' history needs the role governance, administrator or auditor")
    async with conn.cursor(row_factory=class_row(PhaseChange)) as cursor:
        await cursor.execute(
            "SELECT model_name, model_digest, phase, changed_at, changed_by, reason FROM model_phase ORDER BY id DESC"
        )
        return [
            PhaseChange(c.model_name, c.model_digest, Phase(c.phase), c.changed_at, c.changed_by, c.reason)
            for c in await cursor.fetchall()
        ]
