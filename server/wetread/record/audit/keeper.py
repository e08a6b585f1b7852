"""Keeps the audit record beside its writing: signs checkpoints, and removes what the site's policy lets go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from wetread.errors import Unreachable
from wetread.record.audit import checkpoints, removal
from wetread.record.audit.keys import Keys
from wetread.store.database import Database

logger = logging.getLogger(__name__)

_LOCK = 0x5745414B
_POLL_S = 1.0
_REMOVE_EVERY_S = 3600.0


@dataclass(frozen=True)
class Keeper:
    """Every process may run one; at any moment one of them is at it. `keep_days` None keeps for ever; `archive` is a
    folder for what is removed, None for none."""

    database: Database
    keys: Keys
    records: int
    after: timedelta
    keep_days: int | None = None
    archive: Path | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and then once more, so that a quiet night ends signed."""
        clock = asyncio.get_running_loop().time
        removed_at = clock() - _REMOVE_EVERY_S + 60.0
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL_S)
            due = self.after if not stop.is_set() else timedelta(0)
            try:
                await self.sign(due)
                if self.keep_days is not None and clock() - removed_at > _REMOVE_EVERY_S and not stop.is_set():
                    removed_at = clock()
                    await self.remove()
            except (Unreachable, OSError) as error:
                logger.warning("the audit record will be kept later: %s", type(error).__name__)

    async def sign(self, after: timedelta) -> None:
        """Signs the head where it is due."""
        async with self.database.transaction() as conn:
            lock = await (await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))).fetchone()
            if lock and lock[0]:
                await checkpoints.sign_due(conn, self.keys, records=self.records, after=after)

    async def remove(self) -> int:
        """Removes all that may go; how many records. Raises OSError where the archive cannot be written."""
        count = 0
        while self.keep_days is not None:
            async with self.database.transaction() as conn:
                await conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                done = await removal.remove_due(conn, self.keys, self.keep_days, self.archive)
            count += done
            if not done:
                break
        if count:
            logger.info("%d audit records older than %d days were removed by policy", count, self.keep_days)
        return count
