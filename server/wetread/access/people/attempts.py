"""Attempts to sign in, counted before they are judged: however many come at once, no more get through than may.

After some failures a name is closed for a while, each time twice as long. What a closed name, a name that nobody has
and a wrong password are answered does not differ, so that no answer tells which names there are.

Anybody can close a name so. A browser that the person has signed in with before (`known_devices`) is therefore counted
by itself: it stays open while strangers guess elsewhere, and closes by its own failures (OWASP, "Slow Down Online
Guessing Attacks with Device Cookies").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import LiteralString

from wetread.access.people import known_devices
from wetread.store.database import Connection

_MOST_FAILURES = 100
"""In a row; then an administrator opens the name again (NIST SP 800-63B 5.2.2)."""
_MOST_DOUBLINGS = 20

_COUNT: LiteralString = """
    failures = counted.failures + 1, locked_until = CASE WHEN counted.failures + 1 >= %(after)s
        THEN clock_timestamp()
            + least(%(most)s, %(first)s * power(2, least(counted.failures + 1 - %(after)s, %(doublings)s))) END
"""
_MAY: LiteralString = """
    a.name = %(name)s AND a.password_hash IS NOT NULL AND a.disabled_at IS NULL AND counted.failures < %(failures)s
    AND (counted.locked_until IS NULL OR counted.locked_until <= clock_timestamp())
    RETURNING a.password_hash, counted.failures, counted.locked_until IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class LockOut:
    """`after` failures in a row close a name for `first`, each one more for twice as long, up to `most`."""

    after: int = 5
    first: timedelta = timedelta(seconds=30)
    most: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that may be made. `number` counts it among those since the last success, `closes` says that the name
    is closed should it fail. `device` is the digest of the browser that it counts for, None where it is not known."""

    name: str
    password_hash: str
    number: int
    closes: bool
    device: bytes | None = None


async def begin(conn: Connection, name: str, rule: LockOut, cookie: str = "") -> Attempt | None:
    """Counts an attempt; None where none may be made: nobody of this name has a password, or it is closed. `cookie` is
    what the browser shows of an earlier login.

    Commit it before the attempt is judged.
    """
    if not name.isprintable():
        return None
    device = await known_devices.digest_of(conn, name, cookie)
    asked = {
        "name": name,
        "after": rule.after,
        "first": rule.first,
        "most": rule.most,
        "doublings": _MOST_DOUBLINGS,
        "failures": _MOST_FAILURES,
        "device": device,
    }
    if device is None:
        begun = await conn.execute(
            f"UPDATE account counted SET {_COUNT} FROM account a WHERE counted.name = a.name AND {_MAY}", asked
        )
    else:
        begun = await conn.execute(
            f"""UPDATE known_device counted SET {_COUNT} FROM account a
                WHERE counted.account_name = a.name AND counted.digest = %(device)s AND {_MAY}""",
            asked,
        )
    row = await begun.fetchone()
    if row is None:
        return None
    password_hash, number, closes = row
    return Attempt(name, password_hash, number, closes, device)


async def take_back(conn: Connection, attempt: Attempt) -> None:
    """It was right so far, but does not end the count: the second factor is still to come."""
    back: LiteralString = """
        SET failures = failures - 1, locked_until = CASE WHEN failures > %s THEN locked_until END WHERE failures >= %s
    """
    number = attempt.number
    if attempt.device is None:
        await conn.execute(f"UPDATE account {back} AND name = %s", (number, number, attempt.name))
    else:
        of = (number, number, attempt.name, attempt.device)
        await conn.execute(f"UPDATE known_device {back} AND account_name = %s AND digest = %s", of)


async def succeeded(conn: Connection, name: str, cookie: str = "") -> None:
    """The person has signed in: the count of this browser, or of those that are not known, starts anew."""
    device = await known_devices.digest_of(conn, name, cookie)
    if device is None:
        await conn.execute("UPDATE account SET failures = 0, locked_until = NULL WHERE name = %s", (name,))
    else:
        await known_devices.opened(conn, name, device)


async def opened(conn: Connection, name: str) -> None:
    """An administrator opens the name: every count starts anew."""
    await succeeded(conn, name)
    await known_devices.opened(conn, name)
