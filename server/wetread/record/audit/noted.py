"""Which audit rows were added on behalf of one request, so that no answer leaves without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from wetread.store.database import Connection

_ADDED: ContextVar[list[str] | None] = ContextVar("audit_rows_added", default=None)


@contextlib.contextmanager
def noting() -> Iterator[list[str]]:
    """The ids of the rows that are added within, also by tasks and threads that start within; filled as they come."""
    added: list[str] = []
    token = _ADDED.set(added)
    try:
        yield added
    finally:
        _ADDED.reset(token)


def note(audit_id: str) -> None:
    added = _ADDED.get()
    if added is not None:
        added.append(audit_id)


async def is_on_record(conn: Connection, audit_ids: Sequence[str]) -> bool:
    """Whether one of these rows was committed: the transaction of what failed took its own with it."""
    found = await conn.execute("SELECT FROM audit_event WHERE id = ANY(%s::uuid[]) LIMIT 1", (list(audit_ids),))
    return await found.fetchone() is not None
