"""The ordered log: every committed resource version is one event, and the events have dense, final numbers.

A writer adds its event unnumbered (`seq` null) in the transaction of the version. The sequencer numbers the rows that
it can see by ascending `id`: a number once given never changes, no later row takes a lower one, a rolled-back writer
leaves no gap and a long transaction delays only its own rows. Versions of one resource are never inverted, because
the second takes its `id` only after the first has committed and let go of the resource's row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import psycopg
from psycopg.rows import class_row

from wetread.errors import Unreachable
from wetread.record.audit import chain
from wetread.store.database import Connection, Database, own_errors

logger = logging.getLogger(__name__)

WRITTEN = "wetread_written"
"""The channel on which a writer of events may hint at its commit. A hint serialises commits: not for hot paths."""
NUMBERED = "wetread_numbered"
"""The channel on which the sequencer hints that new numbers are out."""

_LOCK = 0x57455345
_BATCH = 5000
_NUMBER_S = 0.02
_CHAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """One resource version in the log. `kind` is create, update or delete."""

    seq: int
    resource_type: str
    resource_id: str
    version_id: int
    kind: str
    at: datetime


async def sequence(conn: Connection) -> int:
    """One pass of the sequencer, in the short transaction of `conn`; how many events it numbered.

    Returns 0 at once where another process is at it: the advisory lock lives as long as the transaction, so whoever
    outlives a dead owner takes over with its next pass.
    """
    row = await (await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))).fetchone()
    if row is None or not row[0]:
        return 0
    return await _number(conn)


async def settle(conn: Connection) -> int:
    """Numbers all that is committed now, in the short transaction of `conn`; the highest number then.

    For who reads the log backwards and wants to find there what was just written. Who holds a cursor too has taken that
    first.
    """
    if await _is_any(conn, "SELECT EXISTS (SELECT FROM event WHERE seq IS NULL)"):
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        while await _number(conn) == _BATCH:
            pass
    return await last(conn)


async def _number(conn: Connection) -> int:
    # A statement of its own, so that its snapshot is younger than the lock and sees the last pass.
    numbered = await conn.execute(
        """
        WITH last AS (SELECT coalesce(max(seq), 0) AS seq FROM event),
             fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS place
                       FROM (SELECT id FROM event WHERE seq IS NULL ORDER BY id LIMIT %s) AS unnumbered)
        UPDATE event SET seq = last.seq + fresh.place FROM fresh, last WHERE event.id = fresh.id
        """,
        (_BATCH,),
    )
    if numbered.rowcount:
        await conn.execute("SELECT pg_notify(%s, '')", (NUMBERED,))
    return numbered.rowcount


class Sequencer:
    """Numbers events and chains audit rows. Every process may run one; at any moment one of them is at it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, stop: asyncio.Event) -> None:
        """Numbers and chains until `stop`; outlives the loss of its connections."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lasting(self._number, stop))
            # Apart, so that no reader of events waits for the audit record's digests.
            group.create_task(self._lasting(self._chain, stop))

    async def _lasting(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await work(stop)
            except Unreachable:
                logger.warning("the sequencer lost the database and will be back")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.5)

    async def _number(self, stop: asyncio.Event) -> None:
        async with listening(self._database, WRITTEN) as (conn, hint):
            while not stop.is_set():
                numbered = 0
                # One statement to ask, since it is asked often: what is heard of an event waits for this.
                if await _is_any(conn, "SELECT EXISTS (SELECT FROM event WHERE seq IS NULL)"):
                    async with conn.transaction():
                        numbered = await sequence(conn)
                if numbered < _BATCH:
                    await hint(_NUMBER_S)

    async def _chain(self, stop: asyncio.Event) -> None:
        with own_errors():
            async with await self._database.alone("wetread-chain") as conn:
                while not stop.is_set():
                    chained = 0
                    if await _is_any(conn, "SELECT EXISTS (SELECT FROM audit_unchained)"):
                        async with conn.transaction():
                            chained = await chain.extend(conn)
                    if chained < chain.BATCH:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(stop.wait(), _CHAIN_S)


async def _is_any(conn: Connection, query: LiteralString) -> bool:
    row = await (await conn.execute(query)).fetchone()
    return bool(row and row[0])


class Hint:
    """Waits for a notification, or for `timeout_s`: polling is the truth, the notification only hastens it."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def __call__(self, timeout_s: float) -> bool:
        """Whether a notification came."""
        came = False
        async for _ in self._conn.notifies(timeout=timeout_s, stop_after=1):
            came = True
        return came


@contextlib.asynccontextmanager
async def listening(database: Database, channel: str) -> AsyncIterator[tuple[Connection, Hint]]:
    """A connection of its own, outside the pool, that listens on `channel`. Raises StoreUnavailable when it is lost."""
    with own_errors():
        conn = await database.alone("wetread-listener")
        async with conn:
            await conn.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            yield conn, Hint(conn)


async def after(conn: Connection, seq: int, limit: int) -> list[Event]:
    """Up to `limit` events numbered above `seq`, in their order."""
    cursor_ = conn.cursor(row_factory=class_row(Event))
    await cursor_.execute(
        "SELECT seq, resource_type, resource_id, version_id, kind, at FROM event WHERE seq > %s ORDER BY seq LIMIT %s",
        (seq, limit),
    )
    return await cursor_.fetchall()


async def last(conn: Connection) -> int:
    """The highest number given; 0 while there is none."""
    row = await (await conn.execute("SELECT coalesce(max(seq), 0) FROM event")).fetchone()
    return int(row[0]) if row else 0


async def cursor(conn: Connection, name: str) -> int:
    """Up to which number the reader `name` has come. Holds the cursor for the caller until its transaction ends."""
    await conn.execute("INSERT INTO event_cursor (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
    found = await conn.execute("SELECT seq FROM event_cursor WHERE name = %s FOR UPDATE", (name,))
    row = await found.fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


async def pending(conn: Connection, name: str) -> bool:
    """Whether there are events that the reader `name` has not come to. Locks and writes nothing: for polling."""
    found = await conn.execute(
        "SELECT EXISTS (SELECT FROM event WHERE seq > coalesce((SELECT seq FROM event_cursor WHERE name = %s), 0))",
        (name,),
    )
    row = await found.fetchone()
    return bool(row and row[0])


async def advance(conn: Connection, name: str, seq: int) -> None:
    """Moves the cursor forward, in the transaction of what the reader made of the events; never back."""
    await conn.execute("UPDATE event_cursor SET seq = greatest(seq, %s) WHERE name = %s", (seq, name))
