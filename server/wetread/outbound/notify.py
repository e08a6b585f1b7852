"""The matcher of the notify role: follows the event log for the subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from wetread.errors import Unreachable
from wetread.record import events
from wetread.record.subscriptions import rows
from wetread.record.subscriptions.matching import Unreadable
from wetread.record.subscriptions.subscriptions import CURSOR, Subscriptions
from wetread.store.database import Connection, Database

logger = logging.getLogger(__name__)

_BATCH = 500
_MOST_BYTES = 16 * 1024 * 1024
"""Of the versions that are matched at once, unless one alone is larger: parsed they take several times that."""
_POLL_S = 0.1


class Matcher:
    """Several may run: one works at a time, by the lock on the log's cursor."""

    def __init__(self, database: Database, subscriptions: Subscriptions) -> None:
        self._database = database
        self._subscriptions = subscriptions

    async def run(self, stop: asyncio.Event) -> None:
        """Matches new events until `stop`; outlives the loss of its connection."""
        is_indexed = False
        while not stop.is_set():
            try:
                async with events.listening(self._database, events.NUMBERED) as (conn, hint):
                    if not is_indexed:
                        await self._index(conn)
                        is_indexed = True
                    while not stop.is_set():
                        if not await self._match(conn):
                            await hint(_POLL_S)
            except Unreachable:
                logger.warning("the matcher lost the database and will be back")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.5)

    async def _index(self, conn: Connection) -> None:
        async with conn.transaction():
            await events.cursor(conn, CURSOR)
            refused = await self._subscriptions.index_all(conn)
        await self._refuse(conn, refused)

    async def _match(self, conn: Connection) -> bool:
        """Whether there is more for sure."""
        if not await events.pending(conn, CURSOR):
            return False
        try:
            async with conn.transaction():
                waiting = await events.after(conn, await events.cursor(conn, CURSOR), _BATCH)
                found = waiting[: await rows.first_of(conn, waiting, _MOST_BYTES)]
                if found:
                    await self._subscriptions.match_events(conn, found)
                    await events.advance(conn, CURSOR, found[-1].seq)
        except Unreadable as error:
            await self._refuse(conn, error.ids)
            return False
        return len(found) < len(waiting) or len(waiting) == _BATCH

    async def _refuse(self, conn: Connection, ids: Sequence[str]) -> None:
        """One by one, since locks are taken in the order resource, state."""
        for subscription_id in ids:
            async with conn.transaction():
                await self._subscriptions.refuse(conn, subscription_id)
