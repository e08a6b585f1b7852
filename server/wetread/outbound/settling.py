"""What was sent is recorded: that of several subscriptions, which come to their end at the same time, in one
transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from wetread.errors import StoreUnavailable
from wetread.record.audit import audit
from wetread.record.audit.audit import AuditEntry
from wetread.record.subscriptions import claims
from wetread.record.subscriptions.claims import Done
from wetread.record.subscriptions.rows import State
from wetread.store.database import Database

_Waiting: TypeAlias = tuple[Done, Sequence[AuditEntry], asyncio.Future[State | None]]

_MOST = 200
"""In one transaction."""


class Settler:
    """Of one deliverer's `worker`. While one transaction is under way, what comes gathers for the next."""

    def __init__(self, database: Database, worker: int) -> None:
        self._database = database
        self._worker = worker
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def settle(self, done: Done, told: Sequence[AuditEntry]) -> State | None:
        """Returns when it is committed: the state then, None where the worker had it no longer in hand. What was `told`
        is on record in any case. Raises StoreUnavailable."""
        future: asyncio.Future[State | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((done, told, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                states = await self._commit(batch)
            except Exception as error:
                if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                    # One of them cannot be written; the others can.
                    for one in batch:
                        await self._alone(one)
                else:
                    _fail(batch, error)
            else:
                for done, _, future in batch:
                    if not future.done():
                        future.set_result(states.get(done.subscription_id))

    async def _alone(self, one: _Waiting) -> None:
        try:
            states = await self._commit([one])
        except Exception as error:
            _fail([one], error)
        else:
            if not one[2].done():
                one[2].set_result(states.get(one[0].subscription_id))

    async def _commit(self, batch: Sequence[_Waiting]) -> dict[str, State]:
        async with self._database.transaction() as conn:
            states = await claims.settle(conn, self._worker, [done for done, _, _ in batch])
            await audit.write_many(conn, [entry for _, told, _ in batch for entry in told])
        return states


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for _, _, future in batch:
        if not future.done():
            future.set_exception(error)
