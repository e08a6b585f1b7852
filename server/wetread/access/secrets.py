"""Secrets of clients, and API keys: 256 random bits, shown once and kept as SHA-256 (no guess at such a value succeeds,
so a slow hash would add nothing). Several are valid at once, so that one can be changed without a pause."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from psycopg.rows import class_row

from wetread.errors import NotFound
from wetread.store.database import Connection

Kind: TypeAlias = Literal["secret", "api_key"]


@dataclass(frozen=True, slots=True)
class Made:
    """`text` is shown now and never again."""

    id: str
    text: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that was given out, without its text. `scope` and `roles` narrow an API key; None: the client's own."""

    id: str
    client_id: str
    kind: Kind
    scope: str | None
    roles: list[str] | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


def digest(text: str) -> bytes:
    """What is kept of a random value."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


async def make(conn: Connection, client_id: str, lifetime: timedelta) -> Made:
    """A secret of a symmetric client."""
    return await _insert(conn, client_id, "secret", str(uuid.uuid4()), secrets.token_urlsafe(32), lifetime)


async def make_api_key(
    conn: Connection,
    client_id: str,
    lifetime: timedelta,
    *,
    scope: str | None = None,
    roles: Iterable[str] | None = None,
) -> Made:
    """A key for `Authorization: Bearer wtr_<id>_<secret>`, with the client's rights or the narrower ones given."""
    identity = uuid.uuid4()
    text = f"wtr_{identity.hex}_{secrets.token_urlsafe(32)}"
    return await _insert(conn, client_id, "api_key", str(identity), text, lifetime, scope, roles)


async def rotate(conn: Connection, client_id: str, lifetime: timedelta, overlap: timedelta) -> Made:
    """A new secret; those before it end after `overlap`, or when they would have."""
    await conn.execute(
        """
        UPDATE client_secret SET expires_at = least(expires_at, clock_timestamp() + %s)
        WHERE client_id = %s AND kind = 'secret' AND revoked_at IS NULL
        """,
        (overlap, client_id),
    )
    return await make(conn, client_id, lifetime)


async def check(conn: Connection, client_id: str, secret: str) -> bool:
    """Whether it is one of the client's secrets and still counts. It says nothing of whether the client is disabled."""
    found = await conn.execute(
        """
        SELECT digest FROM client_secret
        WHERE client_id = %s AND kind = 'secret' AND revoked_at IS NULL AND expires_at > clock_timestamp()
        """,
        (client_id,),
    )
    given = digest(secret)
    return any([hmac.compare_digest(given, row[0]) async for row in found])


async def of_client(conn: Connection, client_id: str) -> list[Secret]:
    """What was given out to it, newest first."""
    rows = conn.cursor(row_factory=class_row(Secret))
    await rows.execute(
        """
        SELECT id::text, client_id, kind, scope, roles, created_at, expires_at, revoked_at
        FROM client_secret WHERE client_id = %s ORDER BY created_at DESC
        """,
        (client_id,),
    )
    return await rows.fetchall()


async def revoke(conn: Connection, identity: str) -> str:
    """Ends a secret or a key; whose it was. Raises NotFound."""
    ended = await conn.execute(
        """
        UPDATE client_secret SET revoked_at = coalesce(revoked_at, clock_timestamp())
        WHERE id::text = %s RETURNING client_id
        """,
        (identity,),
    )
    row = await ended.fetchone()
    if row is None:
        raise NotFound("no secret or key has this id")
    return str(row[0])


async def _insert(
    conn: Connection,
    client_id: str,
    kind: Kind,
    identity: str,
    text: str,
    lifetime: timedelta,
    scope: str | None = None,
    roles: Iterable[str] | None = None,
) -> Made:
    inserted = await conn.execute(
        """
        INSERT INTO client_secret (id, client_id, kind, digest, scope, roles, expires_at)
        VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp() + %s) RETURNING expires_at
        """,
        (identity, client_id, kind, digest(text), scope, None if roles is None else sorted(roles), lifetime),
    )
    [(expires_at,)] = await inserted.fetchall()
    return Made(identity, text, expires_at)
