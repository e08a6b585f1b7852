"""Attempts to sign in, counted before they are judged: however many come at once, no more get through than may.

After some failures a name is closed for a while, each time twice as long. What a closed name, a name that nobody has
and a wrong password are answered does not differ, so that no answer tells which names there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from wetread.store.database import Connection

_MOST_FAILURES = 100
"""In a row; then an administrator opens the name again (NIST SP 800-63B 5.2.2)."""
_MOST_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class LockOut:
    """`after` failures in a row close a name for `first`, each one more for twice as long, up to `most`."""

    after: int = 5
    first: timedelta = timedelta(seconds=30)
    most: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that may be made. `number` counts it among those since the last success, `closes` says that the name
    is closed should it fail."""

    name: str
    password_hash: str
    number: int
    closes: bool


async def begin(conn: Connection, name: str, rule: LockOut) -> Attempt | None:
    """Counts an attempt; None where none may be made: nobody of this name has a password, or it is closed.

    Commit it before the attempt is judged.
    """
    if not name.isprintable():
        return None
    begun = await conn.execute(
        """
        UPDATE account SET failures = failures + 1, locked_until = CASE WHEN failures + 1 >= %(after)s
            THEN clock_timestamp()
                + least(%(most)s, %(first)s * power(2, least(failures + 1 - %(after)s, %(doublings)s))) END
        WHERE name = %(name)s AND password_hash IS NOT NULL AND disabled_at IS NULL AND failures < %(failures)s
            AND (locked_until IS NULL OR locked_until <= clock_timestamp())
        RETURNING password_hash, failures, locked_until IS NOT NULL
        """,
        {
            "name": name,
            "after": rule.after,
            "first": rule.first,
            "most": rule.most,
            "doublings": _MOST_DOUBLINGS,
            "failures": _MOST_FAILURES,
        },
    )
    row = await begun.fetchone()
    return Attempt(name, *row) if row else None


async def take_back(conn: Connection, attempt: Attempt) -> None:
    """It was right so far, but does not end the count: the second factor is still to come."""
    await conn.execute(
        """
        UPDATE account SET failures = failures - 1,
            locked_until = CASE WHEN failures > %s THEN locked_until END
        WHERE name = %s AND failures >= %s
        """,
        (attempt.number, attempt.name, attempt.number),
    )


async def succeeded(conn: Connection, name: str) -> None:
    """The person has signed in, or an administrator opens the name: the count starts anew."""
    await conn.execute("UPDATE account SET failures = 0, locked_until = NULL WHERE name = %s", (name,))
