"""An operator switches a subscription off, or asks for it again: as its client could, and on its client's behalf.

What an operator has switched off keeps its place in the index of subscriptions, which costs little and lets an operator
ask for it again; what its client or its `end` has ended does not, and only its client can.

The owner stays who created it, and so do the rights under which events go out. Locks are taken in the order resource,
state, as everywhere.
"""

from __future__ import annotations

from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import Conflict, NotFound
from wetread.record import resources
from wetread.record.audit import audit
from wetread.record.subscriptions import matching
from wetread.record.subscriptions.overview import require_operator
from wetread.store.database import Connection


async def switch_off(conn: Connection, reader: Reader, subscription_id: str) -> audit.AuditEntry:
    """Nothing goes out and no event is counted any more. What to put on record of it; raises Forbidden, NotFound."""
    await _hold(conn, reader, subscription_id)
    await conn.execute(
        "UPDATE subscription_state SET status = 'off', error = '', due_at = NULL WHERE id = %s", (subscription_id,)
    )
    return await _shown(conn, reader, subscription_id, "off")


async def ask_again(conn: Connection, reader: Reader, subscription_id: str) -> audit.AuditEntry:
    """A new handshake at once, and after it what was not delivered; after `off` only what happens from then on.

    What to put on record of it; raises Forbidden, NotFound, and Conflict where its client or its `end` has ended it."""
    await _hold(conn, reader, subscription_id)
    changed = await conn.execute(
        """UPDATE subscription_state SET status = 'requested', error = '', start = start + 1, failures = 0,
               failing_since = NULL, refused_since = NULL,
               due_at = CASE WHEN channel ->> 'kind' <> 'websocket' THEN now() END,
               started_seq = CASE WHEN status <> 'off' THEN started_seq END,
               delivered = CASE WHEN status = 'off' THEN events_since_start ELSE delivered END
           WHERE id = %s AND EXISTS (SELECT FROM subscription_key WHERE subscription_id = id)""",
        (subscription_id,),
    )
    if not changed.rowcount:
        raise Conflict("its client or its end has ended this subscription; only its client can ask for it again")
    await conn.execute("SELECT pg_notify(%s, '')", (matching.DUE,))
    return await _shown(conn, reader, subscription_id, "requested")


async def _hold(conn: Connection, reader: Reader, subscription_id: str) -> None:
    """Locks resource and state."""
    require_operator(reader)
    await conn.execute(
        "SELECT FROM resource WHERE resource_type = 'Subscription' AND id = %s AND NOT deleted FOR UPDATE",
        (subscription_id,),
    )
    found = await conn.execute(
        """SELECT FROM subscription_state s JOIN resource r ON r.resource_type = 'Subscription' AND r.id = s.id
           WHERE s.id = %s AND NOT r.deleted FOR UPDATE OF s""",
        (subscription_id,),
    )
    if await found.fetchone() is None:
        raise NotFound("no subscription has this id, or its client has deleted it")


async def _shown(conn: Connection, reader: Reader, subscription_id: str, status: str) -> audit.AuditEntry:
    """Writes the status into the resource that the client reads."""
    version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
    body = {**version.resource(), "status": status}
    body.pop("error", None)
    await resources.put(conn, body)
    about = audit.Entity(f"Subscription/{subscription_id}", role_code="9")
    entry = audit.AuditEntry(
        kind="subscription-changed",
        action="U",
        outcome="0",
        principal="",
        entities=(about,),
        detail={"status": status},
    )
    return audit.Asker.of(reader).said_of(entry)
