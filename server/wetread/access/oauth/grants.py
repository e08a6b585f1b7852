"""What people have given to clients: grants, the codes that carry one to a client, the refresh tokens that renew it.

Codes and refresh tokens are random and used once; the database knows their SHA-256 (RFC 6749 4.1.2, 10.5;
RFC 9700 4.14.2).
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wetread.access.revocation import LONGEST, Revocations
from wetread.access.secrets import digest
from wetread.store.database import Connection

_GRANT: LiteralString = """
    id::text, client_id, account_name, session_digest, scope, context, authenticated_at, nonce, created_at, expires_at,
    revoked_at
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """`context` is as the token response tells it (patient, encounter, fhirContext ...); `session_digest` the login
    that the grant ends with, None where it outlives it."""

    id: str
    client_id: str
    account_name: str
    session_digest: bytes | None
    scope: str
    context: Mapping[str, Any]
    authenticated_at: datetime
    nonce: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Wish:
    """A grant before it is one."""

    client_id: str
    account_name: str
    session_digest: bytes | None
    scope: str
    context: Mapping[str, Any]
    authenticated_at: datetime
    nonce: str


@dataclass(frozen=True, slots=True)
class Code:
    grant_id: str
    redirect_uri: str
    code_challenge: str
    is_good: bool
    """Neither used nor too old."""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    grant_id: str
    scope: str
    expires_at: datetime
    was_used: bool
    is_expired: bool


async def begin(conn: Connection, wish: Wish, lifetime: timedelta) -> Grant:
    rows = conn.cursor(row_factory=class_row(Grant))
    await rows.execute(
        f"""
        INSERT INTO authorization_grant (id, client_id, account_name, session_digest, scope, context, authenticated_at,
                                         nonce, expires_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() + %s) RETURNING {_GRANT}
        """,
        (
            uuid.uuid4(),
            wish.client_id,
            wish.account_name,
            wish.session_digest,
            wish.scope,
            Jsonb(dict(wish.context)),
            wish.authenticated_at,
            wish.nonce,
            lifetime,
        ),
    )
    (made,) = await rows.fetchall()
    return made


async def by_id(conn: Connection, grant_id: str) -> Grant | None:
    """The grant while it counts; None when it was revoked or is over."""
    rows = conn.cursor(row_factory=class_row(Grant))
    await rows.execute(
        f"""
        SELECT {_GRANT} FROM authorization_grant
        WHERE id::text = %s AND revoked_at IS NULL AND expires_at > clock_timestamp()
        """,
        (grant_id,),
    )
    return await rows.fetchone()


async def stands(conn: Connection, grant_id: str) -> bool:
    """Whether a grant counts, and the login that it hangs on has not ended; that nobody is at the browser ends none."""
    found = await conn.execute(
        """
        SELECT FROM authorization_grant g LEFT JOIN login_session s ON s.digest = g.session_digest
        WHERE g.id = %s::uuid AND g.revoked_at IS NULL AND g.expires_at > clock_timestamp()
            AND (g.session_digest IS NULL OR (s.ended_at IS NULL AND s.expires_at > clock_timestamp()))
        """,
        (grant_id,),
    )
    return found.rowcount == 1


async def of_account(conn: Connection, account_name: str) -> list[Grant]:
    """Those that count, newest first."""
    rows = conn.cursor(row_factory=class_row(Grant))
    await rows.execute(
        f"""
        SELECT {_GRANT} FROM authorization_grant
        WHERE account_name = %s AND revoked_at IS NULL AND expires_at > clock_timestamp() ORDER BY created_at DESC
        """,
        (account_name,),
    )
    return await rows.fetchall()


async def revoke(conn: Connection, revocations: Revocations, grant_id: str, kept: timedelta) -> None:
    """Ends the grant with every code and token of it. `kept` is how long an access token lives."""
    await conn.execute(
        "UPDATE authorization_grant SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id::text = %s",
        (grant_id,),
    )
    await revocations.revoke(conn, "grant", grant_id, kept)


async def end_unseen(conn: Connection, revocations: Revocations, unseen: timedelta) -> int:
    """Ends grants that outlive their login, of people whom an identity provider has not vouched for in so long: it has
    no way to tell that somebody has left who does not come back. How many.
    """
    rows = await conn.execute(
        """
        SELECT g.id::text FROM authorization_grant g JOIN account a ON a.name = g.account_name
        WHERE a.issuer <> '' AND g.session_digest IS NULL AND g.revoked_at IS NULL AND g.expires_at > clock_timestamp()
            AND greatest(a.signed_in_at, g.created_at) < clock_timestamp() - %s
        """,
        (unseen,),
    )
    found = [grant_id for (grant_id,) in await rows.fetchall()]
    for grant_id in found:
        await revoke(conn, revocations, grant_id, LONGEST)
    return len(found)


async def give_code(
    conn: Connection, code: str, grant_id: str, redirect_uri: str, code_challenge: str, lifetime: timedelta
) -> None:
    await conn.execute(
        """
        INSERT INTO authorization_code (digest, grant_id, redirect_uri, code_challenge, expires_at)
        VALUES (%s, %s, %s, %s, clock_timestamp() + %s)
        """,
        (digest(code), grant_id, redirect_uri, code_challenge, lifetime),
    )


async def take_code(conn: Connection, code: str, client_id: str) -> Code | None:
    """The client's code, used from now on; None where it is not one of the client's."""
    rows = conn.cursor(row_factory=class_row(Code))
    await rows.execute(
        """
        SELECT c.grant_id::text, c.redirect_uri, c.code_challenge,
               c.used_at IS NULL AND c.expires_at > clock_timestamp() AS is_good
        FROM authorization_code c JOIN authorization_grant g ON g.id = c.grant_id
        WHERE c.digest = %s AND g.client_id = %s FOR UPDATE OF c
        """,
        (digest(code), client_id),
    )
    found = await rows.fetchone()
    await conn.execute(
        "UPDATE authorization_code SET used_at = clock_timestamp() WHERE digest = %s AND used_at IS NULL AND %s",
        (digest(code), found is not None),
    )
    return found


async def give_refresh_token(conn: Connection, grant: Grant) -> str:
    """A refresh token that carries all of its grant, and lives as long."""
    token = secrets.token_urlsafe(32)
    await conn.execute(
        "INSERT INTO refresh_token (digest, grant_id, scope, expires_at) VALUES (%s, %s, %s, %s)",
        (digest(token), grant.id, grant.scope, grant.expires_at),
    )
    return token


async def refresh_token(conn: Connection, token: str, client_id: str) -> RefreshToken | None:
    """The client's token, held against others who use it at this moment; None where it is not one of the client's."""
    rows = conn.cursor(row_factory=class_row(RefreshToken))
    await rows.execute(
        """
        SELECT r.grant_id::text, r.scope, r.expires_at, r.used_at IS NOT NULL AS was_used,
               r.expires_at <= clock_timestamp() AS is_expired
        FROM refresh_token r JOIN authorization_grant g ON g.id = r.grant_id
        WHERE r.digest = %s AND g.client_id = %s FOR UPDATE OF r
        """,
        (digest(token), client_id),
    )
    return await rows.fetchone()


async def use_refresh_token(conn: Connection, token: str) -> None:
    await conn.execute(
        "UPDATE refresh_token SET used_at = clock_timestamp() WHERE digest = %s AND used_at IS NULL", (digest(token),)
    )


async def owner_of_refresh_token(conn: Connection, token: str) -> tuple[RefreshToken, str] | None:
    """A refresh token whosever it is, and the client that it was given to."""
    row = await (
        await conn.execute(
            """
            SELECT g.client_id FROM refresh_token r JOIN authorization_grant g ON g.id = r.grant_id WHERE r.digest = %s
            """,
            (digest(token),),
        )
    ).fetchone()
    if row is None:
        return None
    found = await refresh_token(conn, token, row[0])
    return (found, row[0]) if found else None


async def sweep(conn: Connection, kept: timedelta) -> int:
    """Removes grants that were over before that time, with their codes and tokens; how many.

    Codes and refresh tokens stay with their grant until then, so that a second use is known for what it is.
    """
    removed = await conn.execute("DELETE FROM authorization_grant WHERE expires_at < clock_timestamp() - %s", (kept,))
    return removed.rowcount
