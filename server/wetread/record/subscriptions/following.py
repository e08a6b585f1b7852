"""What a process that holds websockets must know of their subscriptions: which have news, and which are over.

It follows the numbered events by the log's own numbers: all up to the matcher's cursor are there, whatever is written
at this moment. How many subscriptions there are, and how many sockets, makes no difference to that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.record.subscriptions import rows
from wetread.record.subscriptions.form import topic_of
from wetread.record.subscriptions.rows import State
from wetread.record.subscriptions.sight import sees_as
from wetread.record.subscriptions.subscriptions import CURSOR, Subscriptions
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


async def states(conn: Connection, ids: Sequence[str]) -> list[State]:
    found = conn.cursor(row_factory=class_row(State))
    await found.execute(
        "SELECT " + rows.COLUMNS + " FROM subscription_state s WHERE s.id = ANY (%s) ORDER BY s.id", (list(ids),)
    )
    return await found.fetchall()


async def unseen(conn: Connection, subscriptions: Subscriptions, asked: Sequence[State], reader: Reader) -> list[str]:
    """Those of which the reader may not read all that their owner may at this moment: it would take events off those
    that wait, and nobody would be told of them. All where the owner has no access any more."""
    owners: dict[str, Reader | None] = {}
    found = []
    for state in asked:
        row = json.dumps(state.owner, sort_keys=True)
        if row not in owners:
            owners[row] = await subscriptions.owner_now(conn, state.owner)
        owner, topic = owners[row], topic_of(state.topic, state.criteria, subscriptions.topics)
        if owner is None or (topic is not None and not sees_as(reader, owner, topic.resource_types)):
            found.append(state.id)
    return found


async def settle(conn: Connection, subscription_id: str, through: int) -> int:
    """Records that a socket has received all events up to a number; up to which they were delivered before."""
    found = await conn.execute(
        """UPDATE subscription_state s SET delivered = greatest(s.delivered, %s), last_sent_at = now(),
               error = CASE WHEN s.status = 'active' THEN '' ELSE s.error END
           FROM (SELECT id, delivered FROM subscription_state WHERE id = %s FOR UPDATE) AS former
           WHERE s.id = former.id RETURNING former.delivered""",
        (through, subscription_id),
    )
    row = await found.fetchone()
    return int(row[0]) if row else through
