"""The rows behind subscriptions: the state of each, and its numbered events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, TypeAlias

from psycopg.rows import class_row

from wetread.domain.reader import Reader, Scope
from wetread.record import lossless
from wetread.record.events import Event
from wetread.record.subscriptions.channel import Channel
from wetread.record.subscriptions.notifications import NotifiedEvent, StatusOf
from wetread.record.subscriptions.patients import patients_of
from wetread.store.database import Connection

COLUMNS: LiteralString = """
    s.id, s.status, s.error, s.start, s.started_seq, s.events_since_start, s.topic, s.filters, s.channel, s.owner,
    s.ends_at, s.criteria, s.delivered, s.worker, s.failures, s.failing_since, s.refused_since, s.last_sent_at,
    coalesce((s.channel ->> 'heartbeat_s')::int, 0) > 0 AND NOT coalesce(
        s.last_sent_at > now() - make_interval(secs => (s.channel ->> 'heartbeat_s')::int)
            AND s.last_sent_at < now() + interval '1 minute', false) AS is_silent
"""
"""Of `subscription_state s`, those of a State. When it is due may be -infinity, for which Python has no datetime. That
it is silent the database says, whose clock wrote when it was not; what was sent in the future, a wrong clock wrote."""

MOST_BYTES = 768 * 1024
"""Of the resources that are read at once for one subscription, unless one alone is larger: with what stands around them
in a notification they are below the 1 MiB that proxies and brokers take where nobody has set more."""
_MOST_BYTES_TOGETHER = 16 * 1024 * 1024
"""Of those that are read at once for several."""

OwnerNow: TypeAlias = Callable[[Connection, Mapping[str, Any]], Awaitable[Reader | None]]
"""From the owner of a subscription, as `owner_row` wrote it down, to what it may do now; None: nothing any more."""


@dataclass(frozen=True, slots=True)
class State:
    """A row of subscription_state."""

    id: str
    status: str
    error: str
    start: int
    started_seq: int | None
    events_since_start: int
    topic: str
    filters: list[list[str]]
    channel: dict[str, Any]
    owner: dict[str, Any]
    ends_at: datetime | None
    criteria: str
    delivered: int
    worker: int | None
    failures: int
    failing_since: datetime | None
    refused_since: datetime | None
    last_sent_at: datetime | None
    is_silent: bool
    """Whether a heartbeat is due unless something else is."""

    @property
    def reader(self) -> Reader:
        """The client that created it, with the rights that it had then."""
        return reader_of(self.owner)

    def told(self, *, status: str = "", count: int | None = None) -> StatusOf:
        shown, number = status or self.status, self.events_since_start if count is None else count
        return StatusOf(self.id, self.topic, self.channel["content"], shown, number, "" if status else self.error)

    def out(self) -> Channel:
        return Channel.of(self.channel)


def reader_of(owner: Mapping[str, Any]) -> Reader:
    """The owner with the rights that it had when it made the subscription."""
    scopes = tuple(Scope.parse(text) for text in owner["scopes"])
    return Reader(
        owner["principal"],
        scopes,
        frozenset(owner["roles"]),
        owner.get("patient_id"),
        client_id=owner.get("client_id"),
        grant_id=owner.get("grant_id"),
    )


async def as_created(conn: Connection, owner: Mapping[str, Any]) -> Reader | None:
    """The rights of creation, for as long as neither the person nor the client is disabled."""
    return reader_of(owner) if await owner_is_open(conn, owner) else None


async def owner_is_open(conn: Connection, owner: Mapping[str, Any]) -> bool:
    """Whether neither the person nor the client that created a subscription is disabled."""
    names = [owner["principal"], owner.get("client_id") or ""]
    shut = await conn.execute(
        """
        SELECT FROM client WHERE client_id = ANY (%s) AND disabled_at IS NOT NULL
        UNION ALL SELECT FROM account WHERE name = ANY (%s) AND disabled_at IS NOT NULL
        """,
        (names, names),
    )
    return shut.rowcount == 0


def owner_row(reader: Reader) -> dict[str, Any]:
    return {
        "principal": reader.principal,
        "client_id": reader.client_id,
        "scopes": [str(scope) for scope in reader.scopes],
        "roles": sorted(reader.roles),
        "patient_id": reader.patient_id,
        "grant_id": reader.grant_id,
    }


async def state_of(conn: Connection, subscription_id: str) -> State | None:
    found = conn.cursor(row_factory=class_row(State))
    await found.execute("SELECT " + COLUMNS + " FROM subscription_state s WHERE id = %s", (subscription_id,))
    return await found.fetchone()


async def hold(
    conn: Connection, subscription_id: str, start: int | None, *statuses: str, worker: int | None = None
) -> bool:
    """Whether the subscription is in one of the statuses (of this `start`, in the hands of this `worker`); locks its
    resource and its state."""
    alive = await conn.execute(
        "SELECT 1 FROM resource WHERE resource_type = 'Subscription' AND id = %s AND NOT deleted FOR UPDATE",
        (subscription_id,),
    )
    if await alive.fetchone() is None:
        return False
    found = await conn.execute(
        """SELECT 1 FROM subscription_state
           WHERE id = %s AND status = ANY(%s) AND start = coalesce(%s, start)
               AND (%s::int IS NULL OR worker = %s) FOR UPDATE""",
        (subscription_id, list(statuses), start, worker, worker),
    )
    return await found.fetchone() is not None


async def first_of(conn: Connection, found: Sequence[Event], most_bytes: int) -> int:
    """How many of the first events are of versions that are together no larger than that; one at least."""
    counted = await conn.execute(
        """
        SELECT count(*) FROM (
            SELECT place, sum(coalesce(octet_length(v.body), 0)) OVER (ORDER BY place) AS bytes
            FROM unnest(%s::text[], %s::text[], %s::int[]) WITH ORDINALITY
                AS wanted (resource_type, id, version_id, place)
            LEFT JOIN resource_version v USING (resource_type, id, version_id)) AS sized
        WHERE bytes <= %s OR place = 1
        """,
        (
            [event.resource_type for event in found],
            [event.resource_id for event in found],
            [event.version_id for event in found],
            most_bytes,
        ),
    )
    row = await counted.fetchone()
    return int(row[0]) if row else 0


async def bodies_of(conn: Connection, found: Sequence[Event]) -> dict[tuple[Event, int], dict[str, Any]]:
    """The parsed version of each event, under `(event, 0)`, and the one before it, under `(event, 1)`."""
    places = [(event, back) for event in found for back in (0, 1)]
    read = await conn.execute(
        """
        SELECT wanted.place, v.body FROM unnest(%s::text[], %s::text[], %s::int[]) WITH ORDINALITY
            AS wanted (resource_type, id, version_id, place)
        JOIN resource_version v USING (resource_type, id, version_id) WHERE NOT v.deleted
        """,
        (
            [event.resource_type for event, _ in places],
            [event.resource_id for event, _ in places],
            [event.version_id - back for event, back in places],
        ),
    )
    return {places[place - 1]: lossless.parse(body) for place, body in await read.fetchall()}


async def numbered(
    conn: Connection, subscription_id: str, since: int, until: int | None, *, limit: int, with_bodies: bool
) -> list[tuple[NotifiedEvent, tuple[str, ...]]]:
    """The numbered events from `since` to `until`, both included, each with the patients of whom it tells: the first
    `limit`, or fewer where these are larger than MOST_BYTES, but one at least."""
    found = await conn.execute(
        """
        SELECT number, at, resource_type, resource_id, kind, body, version_id, patient_ids FROM (
            SELECT n.*, coalesce(v.body, '') AS body, coalesce(octet_length(v.body), 0) AS size,
                sum(coalesce(octet_length(v.body), 0)) OVER (ORDER BY n.number) AS bytes
            FROM (
                SELECT * FROM subscription_event
                WHERE subscription_id = %s AND number >= %s AND number <= coalesce(%s, number)
                ORDER BY number LIMIT %s) n
            LEFT JOIN resource_version v ON (%s OR n.patient_ids IS NULL) AND v.resource_type = n.resource_type
                AND v.id = n.resource_id AND v.version_id = n.version_id) AS told
        WHERE bytes <= %s OR bytes = size
        ORDER BY number
        """,
        (subscription_id, since, until, limit, with_bodies, MOST_BYTES),
    )
    return [_numbered(row, conn.bases) for row in await found.fetchall()]


async def numbered_of(
    conn: Connection, wanted: Mapping[str, tuple[int, int, bool]]
) -> dict[str, list[tuple[NotifiedEvent, tuple[str, ...]]]]:
    """`numbered` for several subscriptions at once: by id from which number, how many at most, and whether with bodies.
    Those are left out that have no such events, and those that are one too many for what is read together."""
    found = await conn.execute(
        """
        SELECT id, number, at, resource_type, resource_id, kind, body, version_id, patient_ids FROM (
            SELECT w.id, told.*, sum(size) OVER (ORDER BY w.id, number) AS together
            FROM unnest(%s::text[], %s::bigint[], %s::int[], %s::boolean[]) AS w (id, since, most, with_bodies)
            CROSS JOIN LATERAL (
                SELECT n.*, coalesce(v.body, '') AS body, coalesce(octet_length(v.body), 0) AS size,
                    sum(coalesce(octet_length(v.body), 0)) OVER (ORDER BY n.number) AS bytes
                FROM (
                    SELECT * FROM subscription_event WHERE subscription_id = w.id AND number >= w.since
                    ORDER BY number LIMIT w.most) n
                LEFT JOIN resource_version v ON (w.with_bodies OR n.patient_ids IS NULL)
                    AND v.resource_type = n.resource_type AND v.id = n.resource_id AND v.version_id = n.version_id
            ) AS told WHERE bytes <= %s OR bytes = size
        ) AS all_told WHERE together <= %s
        ORDER BY id, number
        """,
        (
            list(wanted),
            [since for since, _, _ in wanted.values()],
            [most for _, most, _ in wanted.values()],
            [with_bodies for _, _, with_bodies in wanted.values()],
            MOST_BYTES,
            _MOST_BYTES_TOGETHER,
        ),
    )
    told: dict[str, list[tuple[NotifiedEvent, tuple[str, ...]]]] = {}
    for subscription_id, *row in await found.fetchall():
        told.setdefault(subscription_id, []).append(_numbered(row, conn.bases))
    return told


def _numbered(row: Sequence[Any], bases: Sequence[str]) -> tuple[NotifiedEvent, tuple[str, ...]]:
    event, patient_ids = NotifiedEvent(*row[:-1]), row[-1]
    if patient_ids is None:  # numbered before they were written down
        return event, patients_of(event.resource_type, event.resource_id, event.body, bases)
    return event, tuple(patient_ids)
