"""The chained record as a stream: read by the numbers of its links, with a durable cursor for each reader.

Links are dense, in the order of the chain, and final; so a cursor neither passes over a record nor sees one twice.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from wetread.store.database import Connection, Database, own_errors


@dataclass(frozen=True, slots=True)
class Chained:
    """A record and its link in the chain; `body` is the AuditEvent's JSON text."""

    seq: int
    recorded: datetime
    governance_only: bool
    body: str


@contextlib.asynccontextmanager
async def alone(database: Database, name: str) -> AsyncIterator[Connection | None]:
    """A connection of its own, that holds the lock of the stream `name` as long as it lives; None where another
    process has it. Each statement on it is a unit of work. Raises StoreUnavailable when it is lost."""
    with own_errors():
        conn = await database.alone("wetread-audit-stream")
        async with conn:
            key = zlib.crc32(f"audit-stream:{name}".encode())
            row = await (await conn.execute("SELECT pg_try_advisory_lock(%s)", (key,))).fetchone()
            yield conn if row and row[0] else None


async def after(conn: Connection, seq: int, limit: int) -> list[Chained]:
    """Up to `limit` records whose links come after `seq`, in their order."""
    async with conn.cursor(row_factory=class_row(Chained)) as found:
        await found.execute(
            """
            SELECT c.seq, e.recorded, e.governance_only, e.body
            FROM audit_chain c JOIN audit_event e ON e.id = c.audit_id
            WHERE c.seq > %s ORDER BY c.seq LIMIT %s
            """,
            (seq, limit),
        )
        return await found.fetchall()


async def cursor(conn: Connection, name: str) -> int:
    """The last link that has left by the stream `name`. A new stream begins with all that is still kept."""
    await conn.execute("INSERT INTO audit_stream (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
    found = await (await conn.execute("SELECT seq FROM audit_stream WHERE name = %s", (name,))).fetchone()
    return int(found[0]) if found else 0


async def advance(conn: Connection, name: str, seq: int) -> None:
    """Never back."""
    await conn.execute("UPDATE audit_stream SET seq = greatest(seq, %s), moved_at = now() WHERE name = %s", (seq, name))


async def link_of(conn: Connection, audit_id: str) -> int | None:
    """The link of a record; None where it has none here."""
    found = await conn.execute("SELECT seq FROM audit_chain WHERE audit_id::text = %s", (audit_id,))
    row = await found.fetchone()
    return int(row[0]) if row else None


async def forget_others(conn: Connection, names: list[str]) -> None:
    """Drops the cursors of streams that the settings no longer name, which would hold up every removal."""
    await conn.execute("DELETE FROM audit_stream WHERE NOT name = ANY(%s)", (names,))
