"""The audit record on its way to other systems: each sink takes every chained record, in the order of the chain.

The cursor moves after the sink has the records, in a statement of its own. One process at a time feeds a sink. What is
for governance only stays here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wetread.errors import Unreachable
from wetread.record.audit import stream
from wetread.record.audit.stream import Chained
from wetread.store.database import Connection, Database

logger = logging.getLogger(__name__)

_BATCH = 500
_POLL_S = 0.5
_LONGEST_WAIT_S = 60.0


class Sink(Protocol):
    """`take` returns once the records are where they are to go, all of them; it raises OSError or Unreachable where
    that is in doubt. `last` then tells, where the sink can know it, which record it holds as its last (an id)."""

    @property
    def name(self) -> str: ...
    async def last(self) -> str | None: ...
    async def take(self, records: Sequence[Chained]) -> None: ...
    async def close(self) -> None: ...


@dataclass
class Stream:
    """Feeds one sink."""

    database: Database
    sink: Sink
    first_wait_s: float = 0.5
    _seq: int = field(default=0, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; after a fault again, ever more slowly, from where it is known to have come."""
        failures = 0
        while not stop.is_set():
            try:
                async with self._alone() as conn:
                    while conn is not None and not stop.is_set():
                        moved = await self._once(conn)
                        failures = 0
                        if moved < _BATCH:
                            await _waited(stop, _POLL_S)
                await _waited(stop, _POLL_S)
            except (Unreachable, OSError) as error:
                logger.warning("the audit stream %s will be tried again: %s", self.sink.name, type(error).__name__)
                with contextlib.suppress(Unreachable, OSError):
                    await self.sink.close()
                longest = min(_LONGEST_WAIT_S, self.first_wait_s * 2**failures)
                failures += 1
                await _waited(stop, random.uniform(longest / 2, longest))  # noqa: S311
        with contextlib.suppress(Unreachable, OSError):
            await self.sink.close()

    async def _once(self, conn: Connection) -> int:
        records = await stream.after(conn, self._seq, _BATCH)
        if records:
            await self.sink.take([record for record in records if not record.governance_only])
            await stream.advance(conn, self.sink.name, records[-1].seq)
            self._seq = records[-1].seq
        return len(records)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[Connection | None]:
        """A connection that holds the stream's lock, and the place to go on from; None where another process has it."""
        async with stream.alone(self.database, self.sink.name) as conn:
            if conn is not None:
                self._seq = await stream.cursor(conn, self.sink.name)
                last = await self.sink.last()
                if last is not None:
                    self._seq = max(self._seq, await stream.link_of(conn, last) or 0)
                    await stream.advance(conn, self.sink.name, self._seq)
            yield conn


async def _waited(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
