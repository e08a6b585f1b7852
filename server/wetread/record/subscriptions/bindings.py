"""Tokens that bind a websocket to subscriptions (Backport IG 1.1 $get-ws-binding-token): random, short-lived, kept as
digests. A token may be used again until it expires, since a connection may be lost at any moment."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from wetread.domain.reader import Reader
from wetread.errors import Forbidden, TooCostly, Unsupported
from wetread.record.subscriptions import questions, rows
from wetread.record.subscriptions.channel import WEBSOCKET
from wetread.record.subscriptions.rows import State
from wetread.store.database import Connection

LIFETIME = timedelta(minutes=10)
MOST_SUBSCRIPTIONS = 1000
"""Of one token."""


@dataclass(frozen=True, slots=True)
class Issued:
    token: str
    expires_at: datetime
    subscription_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a token opens, and to whom; `owner` as `rows.owner_row` writes it down."""

    subscription_ids: tuple[str, ...]
    owner: dict[str, Any]


async def issue(conn: Connection, reader: Reader, ids: Sequence[str] = ()) -> Issued:
    """A token for the caller's own websocket subscriptions: those of `ids`, all that are on where there are none.

    Raises Forbidden, NotFound and Gone for a subscription that is not the caller's to bind, Unsupported for one that is
    off or has no websocket, TooCostly.
    """
    if len(ids) > MOST_SUBSCRIPTIONS:
        raise TooCostly(f"a token binds at most {MOST_SUBSCRIPTIONS} subscriptions", location="http.id")
    if ids:
        wanted = [await questions.state(conn, reader, each) for each in dict.fromkeys(ids)]
        for state in wanted:
            _require_bindable(reader, state)
    else:
        found = await questions.states(conn, reader, statuses=("requested", "active"))
        wanted = [state for state in found if _is_own(reader, state) and state.channel["kind"] == WEBSOCKET]
        if not wanted:
            raise Unsupported("you have no websocket subscription that is on; create one first")
        wanted = wanted[:MOST_SUBSCRIPTIONS]
    token = secrets.token_urlsafe(32)
    bound = tuple(state.id for state in wanted)
    await conn.execute("DELETE FROM subscription_binding WHERE expires_at < now()")
    row = await (
        await conn.execute(
            """INSERT INTO subscription_binding (token_digest, subscription_ids, owner, expires_at)
               VALUES (%s, %s, %s, date_trunc('second', now() + %s)) RETURNING expires_at""",
            (_digest(token), list(bound), Jsonb(rows.owner_row(reader)), LIFETIME),
        )
    ).fetchone()
    assert row is not None  # noqa: S101
    return Issued(token, row[0], bound)


async def redeem(conn: Connection, token: str) -> Binding | None:
    """None where the token is unknown or has expired."""
    found = await conn.execute(
        "SELECT subscription_ids, owner FROM subscription_binding WHERE token_digest = %s AND expires_at > now()",
        (_digest(token),),
    )
    row = await found.fetchone()
    return Binding(tuple(row[0]), row[1]) if row else None


async def of_one(conn: Connection, reader: Reader, subscription_id: str) -> Binding:
    """Without a token, for a caller who is known. Raises Forbidden, NotFound, Gone, Unsupported."""
    _require_bindable(reader, await questions.state(conn, reader, subscription_id))
    return Binding((subscription_id,), rows.owner_row(reader))


def _is_own(reader: Reader, state: State) -> bool:
    return bool(state.owner["principal"] == reader.principal)


def _require_bindable(reader: Reader, state: State) -> None:
    if not _is_own(reader, state):
        raise Forbidden("a websocket is bound to subscriptions of one's own")
    if state.channel["kind"] != WEBSOCKET:
        raise Unsupported(
            "of this subscription the channel type is not websocket", location="Subscription.channel.type"
        )
    if state.status not in ("requested", "active"):
        raise Unsupported(f"the subscription is {state.status}; ask for it again first", location="Subscription.status")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
