"""Whether people see what a model found at once, or only when they ask: so that they look at the images first.

The site says so for each model; the newest line holds and history is kept. Asking is recorded, for each person and run.
"""

from __future__ import annotations

from enum import StrEnum

from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput
from wetread.governance.phases import GOVERNING_ROLES
from wetread.record.audit import audit
from wetread.store.database import Connection


class Display(StrEnum):
    AT_ONCE = "at-once"
    ON_REQUEST = "on-request"


async def change_display(conn: Connection, reader: Reader, model_name: str, display: Display, reason: str) -> None:
    """Sets it from now on, for runs of the past too. Raises Forbidden without a governing role, InvalidInput without a
    reason."""
    if not reader.roles & GOVERNING_ROLES:
        raise Forbidden("changing how a model's findings are shown needs the role governance or administrator")
    if not reason.strip():
        raise InvalidInput("a change of how findings are shown needs its reason")
    await conn.execute(
        "INSERT INTO model_display (model_name, display, changed_by, reason) VALUES (%s, %s, %s, %s)",
        (model_name, display.value, reader.principal, reason),
    )
    detail = {"model": model_name, "display": display.value, "reason": reason}
    entry = audit.AuditEntry(
        kind="configuration-changed", action="U", outcome="0", principal=reader.principal, detail=detail
    )
    await audit.write(conn, entry)


async def on_request(conn: Connection) -> frozenset[str]:
    """The models whose findings are shown on request."""
    rows = await conn.execute(
        """
        SELECT model_name FROM (
            SELECT DISTINCT ON (model_name) model_name, display FROM model_display ORDER BY model_name, id DESC
        ) newest WHERE display = 'on-request'
        """
    )
    return frozenset([str(row[0]) async for row in rows])


async def asked_for(conn: Connection, reader: Reader, run_ids: list[str]) -> frozenset[str]:
    """Of these runs, those whose findings the reader has asked for."""
    rows = await conn.execute(
        "SELECT run_id FROM reveal WHERE principal = %s AND run_id = ANY (%s)", (reader.principal, run_ids)
    )
    return frozenset([str(row[0]) async for row in rows])


async def ask_for(conn: Connection, reader: Reader, run_id: str) -> bool:
    """Notes that the reader has asked for a run's findings; whether it was for the first time."""
    added = await conn.execute(
        "INSERT INTO reveal (run_id, principal) VALUES (%s, %s) ON CONFLICT DO NOTHING", (run_id, reader.principal)
    )
    return added.rowcount == 1
