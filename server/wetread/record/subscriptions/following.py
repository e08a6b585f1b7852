"""What a process that holds websockets must know of their subscriptions: which have news, and which are over.

It follows the numbered events by the log's own numbers: all up to the matcher's cursor are there, whatever is written
at this moment. How many subscriptions there are, and how many sockets, makes no difference to that.
"""

from __future__ import annotations

from collections.abc import Sequence

from wetread.record.subscriptions.subscriptions import CURSOR
from wetread.store.database import Connection


async def position(conn: Connection) -> int:
    """Up to which number of the log events have been matched."""
    found = await conn.execute("SELECT seq FROM event_cursor WHERE name = %s", (CURSOR,))
    row = await found.fetchone()
    return int(row[0]) if row else 0


async def news(conn: Connection, after: int, up_to: int) -> list[str]:
    """The subscriptions with events that stand in the log after one number and up to another."""
    found = await conn.execute(
        "SELECT DISTINCT subscription_id FROM subscription_event WHERE seq > %s AND seq <= %s", (after, up_to)
    )
    return [row[0] for row in await found.fetchall()]


async def not_in(conn: Connection, statuses: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Those of `ids` that are not, or in another status."""
    found = await conn.execute(
        """SELECT w.id FROM unnest(%s::text[]) AS w (id) LEFT JOIN subscription_state s USING (id)
           WHERE s.status IS NULL OR s.status <> ALL (%s)""",
        (list(ids), list(statuses)),
    )
    return [row[0] for row in await found.fetchall()]


async def settle(conn: Connection, subscription_id: str, through: int) -> None:
    """Records that a socket has received all events up to a number."""
    await conn.execute(
        """UPDATE subscription_state SET delivered = greatest(delivered, %s), last_sent_at = now(),
               error = CASE WHEN status = 'active' THEN '' ELSE error END WHERE id = %s""",
        (through, subscription_id),
    )
