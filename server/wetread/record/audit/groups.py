"""Audit rows of reads, written in groups: one statement and one commit for all that wait while the last one runs.

A read changes nothing, so its row need not be in its transaction; it has to be committed before the answer leaves. A
write's row stands in the transaction of the write, and never here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeAlias

from wetread.record.audit.entry import AuditEntry
from wetread.record.audit.noted import note
from wetread.store.database import Connection, Database

_MOST = 64
"""Entries in one statement, unless one reader brings more."""
_GATHER_S = 0.002
"""While several read at once, a group waits so long for more: a statement and a commit cost more than their rows."""

_Waiting: TypeAlias = tuple[Sequence[AuditEntry], "asyncio.Future[list[str]]"]


@dataclass
class Groups:
    """One for each process. Who waits here must hold no connection of the pool: the group needs one."""

    database: Database
    insert: Callable[[Connection, Sequence[AuditEntry]], Awaitable[list[str]]]
    """`audit.write_many`, or what stands for it."""
    _waiting: list[_Waiting] = field(default_factory=list)
    _writing: asyncio.Task[None] | None = None

    async def write(self, entries: Sequence[AuditEntry]) -> list[str]:
        """Returns once the rows are committed, with their ids. Raises what the database raises; nothing is then
        written."""
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, future))
        if self._writing is None or self._writing.done():
            # In a context of its own, since the rows are not all of the request that begins.
            self._writing = asyncio.create_task(self._write(), context=Context())
        ids = await future
        for audit_id in ids:
            note(audit_id)
        return ids

    async def _write(self) -> None:
        last = 1
        while self._waiting:
            if 1 < last < _MOST:
                await asyncio.sleep(_GATHER_S)
            group = self._taken()
            last = len(group)
            try:
                ids = await self._committed([entry for entries, _ in group for entry in entries])
            except Exception as error:
                await self._apart(group, error)
                continue
            for entries, future in group:
                given, ids = ids[: len(entries)], ids[len(entries) :]
                if not future.done():
                    future.set_result(given)

    def _taken(self) -> list[_Waiting]:
        count, size = 0, 0
        while count < len(self._waiting) and (not count or size + len(self._waiting[count][0]) <= _MOST):
            size += len(self._waiting[count][0])
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _apart(self, group: Sequence[_Waiting], error: Exception) -> None:
        """What one reader's rows are to blame for, the others do not suffer from: each once more, for itself."""
        for entries, future in group:
            try:
                if len(group) == 1:
                    raise error
                ids = await self._committed(entries)
            except Exception as own:
                if not future.done():
                    future.set_exception(own)
            else:
                if not future.done():
                    future.set_result(ids)

    async def _committed(self, entries: Sequence[AuditEntry]) -> list[str]:
        async with self.database.statements() as conn:
            return await self.insert(conn, entries)
