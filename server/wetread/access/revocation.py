"""What counts no more before it expires: a token, all of a grant's, a session's, a person's or a client's.

The rows are the truth for all processes. Each keeps a copy in memory, so that checking a token asks no database: a
revocation counts at once where it was made, and within about a second elsewhere. While the database is away the copy is
not renewed, but then nothing is answered either, since every access is audited.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Literal, TypeAlias

from wetread.store.database import Connection

Kind: TypeAlias = Literal["token", "grant", "client", "account", "session"]

LONGEST = timedelta(hours=25)
"""No access token that can be revoked lives longer (`access.token_minutes` is a day at most), so no revocation is kept
longer."""
_COMMITTED_AFTER_S = 60.0
_FOR_GOOD = ("token:", "grant:", "session:")
"""What never opens again ends its tokens whenever they were issued: clocks of machines differ, and a token may be made
while its grant is being ended."""
_WHOLE_EVERY_S = 300.0


def subject(kind: Kind, name: str) -> str:
    """How a revocation names what it ends. A session's name is its digest in hexadecimal."""
    return f"{kind}:{name}"


async def revoke(conn: Connection, kind: Kind, name: str, kept: timedelta = LONGEST) -> None:
    """Ends what was issued until now. `kept` is how long a token of it could have lived."""
    await conn.execute(
        """
        INSERT INTO revocation (subject, forget_at) VALUES (%s, clock_timestamp() + %s)
        ON CONFLICT (subject) DO UPDATE
            SET before = excluded.before, forget_at = greatest(revocation.forget_at, excluded.forget_at)
        """,
        (subject(kind, name), kept),
    )


async def forget(conn: Connection) -> int:
    """Removes what could end no token any more; how many."""
    return (await conn.execute("DELETE FROM revocation WHERE forget_at < clock_timestamp()")).rowcount


class Revocations:
    """The copy of one process."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._own: dict[str, tuple[float, float]] = {}
        self._newest = 0.0
        self._whole_at = -_WHOLE_EVERY_S

    def end(self, subjects: Iterable[str], issued_at: float) -> bool:
        """Whether any of these has ended what was issued at that time (seconds since 1970). To the second, so a token
        of the very second of a revocation counts as older."""
        return any(
            name in self._before and (name.startswith(_FOR_GOOD) or int(issued_at) <= self._before[name])
            for name in subjects
        )

    async def revoke(self, conn: Connection, kind: Kind, name: str, kept: timedelta = LONGEST) -> None:
        """As `revoke` does, and at once for this process, even before the transaction is committed."""
        await revoke(conn, kind, name, kept)
        ended = subject(kind, name)
        rows = await conn.execute(
            "SELECT extract(epoch FROM before)::float8 FROM revocation WHERE subject = %s", (ended,)
        )
        async for (before,) in rows:
            self._before[ended] = before
            self._own[ended] = (before, time.monotonic())

    async def refresh(self, conn: Connection) -> None:
        """Reads what is new, with a margin for rows that were committed late; everything now and then, so that what is
        over is forgotten."""
        now = time.monotonic()
        is_whole = now - self._whole_at >= _WHOLE_EVERY_S
        since = 0.0 if is_whole else self._newest - _COMMITTED_AFTER_S
        rows = await conn.execute(
            """
            SELECT subject, extract(epoch FROM before)::float8 FROM revocation
            WHERE forget_at > clock_timestamp() AND before > to_timestamp(%s)
            """,
            (since,),
        )
        found: dict[str, float] = {name: before async for name, before in rows}
        self._newest = max([self._newest, *found.values()])
        # What another task of this process revoked a moment ago: its row may not be committed yet.
        self._own = {name: (before, at) for name, (before, at) in self._own.items() if at > now - _COMMITTED_AFTER_S}
        kept = {} if is_whole else self._before
        self._before = kept | found
        for name, (before, _) in self._own.items():
            self._before[name] = max(before, self._before.get(name, before))
        if is_whole:
            self._whole_at = now
