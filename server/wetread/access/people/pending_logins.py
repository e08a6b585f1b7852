"""Logins that are under way: at an identity provider, or still without their second factor. A browser holds a random
value, the database what it stands for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from wetread.access.secrets import digest
from wetread.store.database import Connection


async def put(conn: Connection, state: Mapping[str, Any], lifetime: timedelta) -> str:
    """Keeps the state; the value that leads to it. What is over is removed on the way."""
    value = secrets.token_urlsafe(32)
    await conn.execute("DELETE FROM pending_login WHERE expires_at < clock_timestamp()")
    await conn.execute(
        "INSERT INTO pending_login (digest, state, expires_at) VALUES (%s, %s, clock_timestamp() + %s)",
        (digest(value), Jsonb(dict(state)), lifetime),
    )
    return value


async def look(conn: Connection, value: str) -> Mapping[str, Any] | None:
    """The state, which stays."""
    row = await (
        await conn.execute(
            "SELECT state FROM pending_login WHERE digest = %s AND expires_at > clock_timestamp()", (digest(value),)
        )
    ).fetchone()
    return dict(row[0]) if row else None


async def take(conn: Connection, value: str) -> Mapping[str, Any] | None:
    """The state, once: whoever comes second with the value gets None."""
    row = await (
        await conn.execute(
            "DELETE FROM pending_login WHERE digest = %s AND expires_at > clock_timestamp() RETURNING state",
            (digest(value),),
        )
    ).fetchone()
    return dict(row[0]) if row else None
