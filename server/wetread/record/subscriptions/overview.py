"""What operators see of subscriptions: state, numbers, lag and failures. Never a header, a secret or a body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from urllib.parse import urlsplit

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import Forbidden, NotFound
from wetread.store.database import Connection

STATES = ("requested", "active", "error", "off")
OPERATORS = frozenset({"engineer", "administrator", "system"})


@dataclass(frozen=True, slots=True)
class Overview:
    """One subscription. `numbered` events were given numbers, those up to `delivered` went out or were dropped;
    `waiting_since` is when the first that did not happened. `failures` counts attempts since one succeeded; `since` is
    when the state was last shown to its client."""

    id: str
    status: str
    since: datetime | None
    error: str
    topic: str
    criteria: str
    kind: str
    endpoint: str
    content: str
    owner: str
    client: str
    numbered: int
    delivered: int
    failures: int
    failing_since: datetime | None
    last_sent_at: datetime | None
    due_at: datetime | None
    in_hand: bool
    ends_at: datetime | None
    waiting_since: datetime | None
    lag_s: float

    @property
    def pending(self) -> int:
        """How many events wait; none where the subscription is off."""
        return 0 if self.status == "off" else max(0, self.numbered - self.delivered)

    @property
    def host(self) -> str:
        """Where it goes to, without what may hold a secret: user, path and query. Of mail the domain, of a broker the
        subject."""
        if self.kind == "websocket":
            return ""
        parts = urlsplit(self.endpoint)
        if parts.scheme in ("mailto", "nats"):
            return parts.path.rpartition("@")[2]
        try:
            return f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
        except ValueError:
            return parts.hostname or ""


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """One numbered event: which version of which resource, when, and whether it is `done` (sent, or dropped since the
    owner may no longer read it), `in trouble` (the first that waits, after failures) or `waiting`."""

    number: int
    resource_type: str
    resource_id: str
    version_id: int
    kind: str
    at: datetime
    outcome: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all subscriptions together, those that ended included in `numbered` and `delivered`, which only grow.
    `pending` is by state; `oldest_s` is the age of the oldest event that waits in an active one; not by
    websocket, where it may wait for nobody but its client."""

    states: dict[str, int]
    pending: dict[str, int]
    websockets: int
    failing: int
    numbered: int
    delivered: int
    oldest_s: float


# A state that waits for nobody (off) has no lag. The first event that waits is found by its primary key.
_FROM: LiteralString = """
    FROM subscription_state s
    LEFT JOIN LATERAL (
        SELECT e.at FROM subscription_event e
        WHERE s.status <> 'off' AND e.subscription_id = s.id AND e.number > s.delivered
            AND s.delivered < s.events_since_start
        ORDER BY e.number LIMIT 1
    ) waiting ON true
"""
_LAG: LiteralString = "greatest(0, extract(epoch FROM clock_timestamp() - waiting.at))::float"
_COLUMNS: LiteralString = f"""
    s.id, s.status, r.last_updated AS since, s.error, s.topic, s.criteria, s.channel ->> 'kind' AS kind,
    coalesce(s.channel ->> 'endpoint', '') AS endpoint, coalesce(s.channel ->> 'content', '') AS content,
    s.owner ->> 'principal' AS owner, coalesce(s.owner ->> 'client_id', '') AS client,
    s.events_since_start AS numbered, s.delivered, s.failures, s.failing_since, s.last_sent_at,
    CASE WHEN isfinite(s.due_at) THEN s.due_at END AS due_at, s.worker IS NOT NULL AS in_hand, s.ends_at,
    waiting.at AS waiting_since, coalesce({_LAG}, 0) AS lag_s
"""
_RESOURCE: LiteralString = "LEFT JOIN resource r ON r.resource_type = 'Subscription' AND r.id = s.id"
_WORST_FIRST: LiteralString = """
    ORDER BY s.status = 'error' DESC, s.failures DESC, s.status <> 'off' DESC,
        s.events_since_start - s.delivered DESC, s.id
"""


async def subscriptions(conn: Connection, reader: Reader, limit: int, states: Sequence[str] = ()) -> list[Overview]:
    """Those in one of `states` (empty: any), worst first: in error, failing, then by what waits. Raises Forbidden."""
    require_operator(reader)
    found = conn.cursor(row_factory=class_row(Overview))
    await found.execute(
        f"""SELECT {_COLUMNS} {_FROM} {_RESOURCE}
            WHERE s.id IN (SELECT s.id FROM subscription_state s WHERE %(states)s::text[] = '{{}}'
                OR s.status = ANY(%(states)s) {_WORST_FIRST} LIMIT %(limit)s) {_WORST_FIRST}""",
        {"states": list(states), "limit": limit},
    )
    return await found.fetchall()


async def subscription(conn: Connection, reader: Reader, subscription_id: str) -> Overview:
    """Raises Forbidden, NotFound."""
    require_operator(reader)
    found = conn.cursor(row_factory=class_row(Overview))
    await found.execute(f"SELECT {_COLUMNS} {_FROM} {_RESOURCE} WHERE s.id = %s", (subscription_id,))
    one = await found.fetchone()
    if one is None:
        raise NotFound("no subscription has this id")
    return one


async def events_about(conn: Connection, reader: Reader, one: Overview, limit: int) -> list[ToldEvent]:
    """The events about what goes out next, newest first: those before, and of those that wait up to half of `limit`.
    Raises Forbidden."""
    require_operator(reader)
    waiting = "in trouble" if one.failures else "waiting"
    found = conn.cursor(row_factory=class_row(ToldEvent))
    await found.execute(
        """
        SELECT number, resource_type, resource_id, version_id, kind, at,
            CASE WHEN number > %(delivered)s + 1 THEN 'waiting' WHEN number > %(delivered)s THEN %(waiting)s
                 ELSE 'done' END AS outcome
        FROM subscription_event WHERE subscription_id = %(id)s AND number <= %(last)s
        ORDER BY number DESC LIMIT %(limit)s
        """,
        {
            "id": one.id,
            "delivered": one.delivered,
            "last": one.delivered + limit // 2,
            "waiting": waiting,
            "limit": limit,
        },
    )
    return await found.fetchall()


async def totals(conn: Connection) -> Totals:
    """Of the whole server, for its metrics."""
    found = await conn.execute(
        f"""SELECT s.status, count(*), sum(greatest(0, s.events_since_start - s.delivered)),
                count(*) FILTER (WHERE s.status <> 'off' AND s.channel ->> 'kind' = 'websocket'),
                count(*) FILTER (WHERE s.failures > 0), sum(s.events_since_start), sum(s.delivered),
                max({_LAG}) FILTER (WHERE s.status = 'active' AND s.channel ->> 'kind' <> 'websocket')
            {_FROM} GROUP BY s.status"""
    )
    rows = await found.fetchall()
    return Totals(
        states=dict.fromkeys(STATES, 0) | {row[0]: row[1] for row in rows},
        pending={row[0]: int(row[2]) for row in rows if row[0] != "off"},
        websockets=sum(row[3] for row in rows),
        failing=sum(row[4] for row in rows if row[0] != "off"),
        numbered=int(sum(row[5] for row in rows)),
        delivered=int(sum(row[6] for row in rows)),
        oldest_s=max((row[7] or 0.0 for row in rows), default=0.0),
    )


def require_operator(reader: Reader) -> None:
    """Raises Forbidden."""
    if not reader.roles & OPERATORS:
        raise Forbidden("subscriptions are looked after by the roles engineer and administrator")
