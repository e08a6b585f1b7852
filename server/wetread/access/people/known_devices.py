"""Browsers that people have signed in with, known by a random value in a cookie. It opens nothing: who has it may try a
password where strangers have tried too many. The database knows its SHA-256, and one row for each person of a browser.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from wetread.access.secrets import digest
from wetread.store.database import Connection

REMEMBERED = timedelta(days=90)
"""Since the last login."""


async def digest_of(conn: Connection, name: str, cookie: str) -> bytes | None:
    """What names the browser where this person has signed in with it; else None."""
    if not cookie:
        return None
    found = await conn.execute(
        "SELECT FROM known_device WHERE digest = %s AND account_name = %s AND expires_at > clock_timestamp()",
        (digest(cookie), name),
    )
    return digest(cookie) if found.rowcount else None


async def remember(conn: Connection, name: str, cookie: str) -> str:
    """Knows the browser from now on, also for others who use it; its new value, since the old one may be somebody
    else's, planted there."""
    value = secrets.token_urlsafe(32)
    await conn.execute(
        "UPDATE known_device SET digest = %s WHERE digest = %s AND expires_at > clock_timestamp()",
        (digest(value), digest(cookie)),
    )
    await conn.execute(
        """
        INSERT INTO known_device (digest, account_name, expires_at) VALUES (%s, %s, clock_timestamp() + %s)
        ON CONFLICT (digest, account_name) DO UPDATE SET expires_at = excluded.expires_at
        """,
        (digest(value), name, REMEMBERED),
    )
    return value


async def opened(conn: Connection, name: str, device: bytes | None = None) -> None:
    """The count of one of the person's browsers starts anew, or of all."""
    await conn.execute(
        """
        UPDATE known_device SET failures = 0, locked_until = NULL
        WHERE account_name = %s AND (digest = %s OR %s::bytea IS NULL)
        """,
        (name, device, device),
    )


async def sweep(conn: Connection) -> int:
    """Removes those that are known no more; how many."""
    return (await conn.execute("DELETE FROM known_device WHERE expires_at < clock_timestamp()")).rowcount
