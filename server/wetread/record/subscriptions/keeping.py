"""Events that are removed for their age, delivered or not."""

from __future__ import annotations

from datetime import timedelta

from wetread.record.audit import audit
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.store.database import Connection

BATCH = 5000


async def remove_old(conn: Connection, keep: timedelta) -> int:
    """Removes events older than `keep`, BATCH at most, in the order of the log; how many. One behind a younger one was
    dated by a wrong clock: it stays until that is old. Of a subscription to which some of them were still due, the
    cursor moves past them, `$status` says so until the next delivery, and the audit record."""
    found = await conn.execute(
        """
        WITH oldest AS (
                 SELECT subscription_id, number, bool_and(at < now() - %s) OVER (ORDER BY seq) AS is_old
                 FROM (SELECT * FROM subscription_event ORDER BY seq LIMIT %s) AS first),
             gone AS (DELETE FROM subscription_event e USING oldest o
                 WHERE e.subscription_id = o.subscription_id AND e.number = o.number AND o.is_old
                 RETURNING e.subscription_id, e.number)
        SELECT subscription_id, count(*), max(number) FROM gone GROUP BY 1 ORDER BY 1
        """,
        (keep, BATCH),
    )
    removed = await found.fetchall()
    for subscription_id, _, last in removed:
        await _move_past(conn, subscription_id, last, keep)
    return sum(count for _, count, _ in removed)


async def _move_past(conn: Connection, subscription_id: str, last: int, keep: timedelta) -> None:
    error = f"events up to number {last} were not delivered within {keep / timedelta(days=1):g} days and are gone"
    moved = await conn.execute(
        """
        UPDATE subscription_state SET delivered = %s, error = %s
        WHERE id = %s AND delivered < %s AND status <> 'off' RETURNING owner ->> 'principal'
        """,
        (last, error, subscription_id, last),
    )
    row = await moved.fetchone()
    if row is not None:
        entry = AuditEntry(
            kind="delivery-failed",
            action="E",
            outcome="8",
            outcome_text=error,
            principal=row[0],
            entities=(Entity(what=f"Subscription/{subscription_id}", type_code="2", role_code="9"),),
        )
        await audit.write(conn, entry)
