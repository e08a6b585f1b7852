"""Sessions of people at a browser: a random value in a cookie, of which the database knows the SHA-256.

Every sign-in begins a new one, so that a value that somebody planted before is worth nothing after (session fixation).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from wetread.access.people.accounts import Account, named
from wetread.access.revocation import revoke
from wetread.access.secrets import digest
from wetread.errors import Forbidden, Unauthorized
from wetread.store.database import Connection

_COOKIE = "wetread_session"
_SEEN_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a session lasts at the most, and how long unused."""

    most: timedelta
    idle: timedelta


@dataclass(frozen=True, slots=True)
class Signed:
    """Who is signed in. `digest` names the session and opens nothing."""

    account: Account
    authenticated_at: datetime
    digest: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """An open session, as its owner sees it in a list. `network` is the address that it began from."""

    digest: bytes
    authenticated_at: datetime
    seen_at: datetime
    expires_at: datetime
    network: str


def cookie_name(*, https: bool) -> str:
    """With the prefix that keeps other hosts of the domain from setting it (RFC 6265bis 4.1.3.2), where that works."""
    return f"__Host-{_COOKIE}" if https else _COOKIE


async def begin(
    conn: Connection, account_name: str, lifetime: Lifetime, network: str = "", provider_session: str = ""
) -> str:
    """A new session of a person who has just proven who they are: the cookie's value, known from now on to the browser
    only. `provider_session` is what their identity provider calls the login. Raises Unauthorized where the account is
    disabled."""
    value = secrets.token_urlsafe(32)
    begun = await conn.execute(
        """
        INSERT INTO login_session (digest, account_name, idle, expires_at, network, provider_session)
        SELECT %s, name, %s, clock_timestamp() + %s, %s, %s FROM account WHERE name = %s AND disabled_at IS NULL
        """,
        (digest(value), lifetime.idle, lifetime.most, network, provider_session, account_name),
    )
    if begun.rowcount == 0:
        raise Unauthorized("this account is not open")
    return value


async def person(conn: Connection, cookie: str, *, active: bool = True) -> Signed | None:
    """Who the cookie's value stands for now; None where its session is over, or the account disabled.

    `active`: the person is there, so the idle time starts anew. What a page's script asks for shows nobody.
    """
    value = digest(cookie)
    found = await (
        await conn.execute(
            """
            SELECT s.account_name, s.authenticated_at, s.seen_at < clock_timestamp() - least(%s, s.idle / 4)
            FROM login_session s JOIN account a ON a.name = s.account_name
            WHERE s.digest = %s AND s.ended_at IS NULL AND s.expires_at > clock_timestamp()
                AND s.seen_at + s.idle > clock_timestamp() AND a.disabled_at IS NULL
            """,
            (_SEEN_EVERY, value),
        )
    ).fetchone()
    if found is None:
        return None
    name, authenticated_at, seen_long_ago = found
    if seen_long_ago and active:
        await conn.execute("UPDATE login_session SET seen_at = clock_timestamp() WHERE digest = %s", (value,))
    return Signed(await named(conn, name), authenticated_at, value)


async def end(conn: Connection, account_name: str, session: bytes) -> bool:
    """Ends one session of the person and the tokens that hang on it; false where it was over or is not theirs."""
    ended = await conn.execute(
        """
        UPDATE login_session SET ended_at = clock_timestamp()
        WHERE digest = %s AND account_name = %s AND ended_at IS NULL
        """,
        (session, account_name),
    )
    if ended.rowcount:
        await revoke(conn, "session", session.hex())
    return ended.rowcount == 1


async def end_all(conn: Connection, account_name: str, *, but: bytes | None = None) -> int:
    """Ends every session of the person but one; how many."""
    ended = await conn.execute(
        """
        UPDATE login_session SET ended_at = clock_timestamp()
        WHERE account_name = %s AND ended_at IS NULL AND digest IS DISTINCT FROM %s RETURNING digest
        """,
        (account_name, but),
    )
    for (session,) in await ended.fetchall():
        await revoke(conn, "session", session.hex())
    return ended.rowcount


async def open_ones(conn: Connection, account_name: str) -> list[Session]:
    """The person's, newest first."""
    rows = conn.cursor(row_factory=class_row(Session))
    await rows.execute(
        """
        SELECT digest, authenticated_at, seen_at, expires_at, network FROM login_session
        WHERE account_name = %s AND ended_at IS NULL AND expires_at > clock_timestamp()
            AND seen_at + idle > clock_timestamp()
        ORDER BY authenticated_at DESC
        """,
        (account_name,),
    )
    return await rows.fetchall()


async def sweep(conn: Connection, kept: timedelta) -> int:
    """Removes sessions that were over before that time; how many."""
    removed = await conn.execute("DELETE FROM login_session WHERE expires_at < clock_timestamp() - %s", (kept,))
    return removed.rowcount


def form_token(cookie: str, purpose: str) -> str:
    """What a form of this browser carries, and another site cannot know: an HMAC of its purpose under the cookie."""
    made = hmac.new(cookie.encode(), purpose.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def check_form_token(cookie: str, purpose: str, token: str) -> None:
    """Raises Forbidden where the form was not made for this browser and purpose."""
    if not cookie or not hmac.compare_digest(form_token(cookie, purpose).encode(), token.encode()):
        raise Forbidden("this form is not of this browser, or too old; open the page again and send it once more")
