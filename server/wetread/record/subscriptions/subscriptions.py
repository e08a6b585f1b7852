"""Topic-based subscriptions (R5 Backport IG 1.1.0 on R4), and those by criteria (FHIR R4): their states.

A subscription is `requested` until its handshake succeeded, `active` then, `error` after a permanent failure and `off`
when its client or its `end` says so. Every event of it has a number of its own, without gaps (`matching`); up to which
number they went out is its cursor, `delivered`. Events are counted through `error` and a new handshake, and what was
not delivered goes out once the client has put it to `requested` again. An `end` that is past at creation has no effect.
What waits goes out as it was counted when its client asks for something else, filters and channel say, but for another
topic: under its name, and in a form that may not carry it, it would be something that nobody asked for.

Locks are taken in the order cursor, resource, state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import Refused, Unsupported
from wetread.record import events, resources
from wetread.record.audit import audit
from wetread.record.events import Event
from wetread.record.subscriptions import form as subscription_form
from wetread.record.subscriptions import headers, keys, matching, undecided
from wetread.record.subscriptions import rows as rows
from wetread.record.subscriptions.carried import require_carried
from wetread.record.subscriptions.due import Slice, next_slice, next_slices
from wetread.record.subscriptions.notification_audit import given_up
from wetread.record.subscriptions.rows import OwnerNow, State
from wetread.record.subscriptions.topics import Topic, of_criteria
from wetread.store.database import Connection

CURSOR = "subscriptions"


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """The subscriptions of one server: its topics, the hosts it may post to, the FHIR base URL that it calls itself."""

    topics: Mapping[str, Topic]
    allowed: AllowedEndpoints
    base_url: str
    owner_now: OwnerNow = rows.as_created
    carried: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The resource types that a kind of channel carries; one that is not named carries all, and deletions."""

    async def accept(self, conn: Connection, reader: Reader, resource: Mapping[str, Any]) -> None:
        """Takes a Subscription that a client has created or replaced, in the transaction of its version; its handshake
        is due then. Raises Unsupported (422) for what cannot be kept, Forbidden where the client may not read what the
        topic tells of."""
        bases = self._bases(conn)
        form = subscription_form.read(resource, self.topics, self.allowed, bases)
        require_carried(form.channel.kind, form.topic, self.carried)
        former = await rows.state_of(conn, resource["id"])
        channel = headers.kept(form.channel, former.out() if former else None)
        await headers.hide(conn, resource, channel)
        for resource_type in sorted(form.topic.resource_types):
            reader.require_some("r", resource_type)
        starts = resource.get("status") in ("requested", "active")
        row = {
            "id": resource["id"],
            "status": "requested" if starts else resource.get("status"),
            "topic": form.topic.url,
            "criteria": form.criteria,
            "filters": Jsonb(form.filters),
            "channel": Jsonb(asdict(channel)),
            "owner": Jsonb(rows.owner_row(reader)),
            "ends_at": form.ends_at,
        }
        await conn.execute(
            """
            INSERT INTO subscription_state AS former (id, status, topic, criteria, filters, channel, owner, ends_at)
            VALUES (%(id)s, %(status)s, %(topic)s, %(criteria)s, %(filters)s, %(channel)s, %(owner)s,
                CASE WHEN %(ends_at)s::timestamptz > now() THEN %(ends_at)s END)
            ON CONFLICT (id) DO UPDATE SET status = excluded.status, topic = excluded.topic, error = '',
                criteria = excluded.criteria, filters = excluded.filters, channel = excluded.channel,
                owner = excluded.owner, ends_at = excluded.ends_at, start = former.start + 1, failures = 0,
                due_at = NULL, delivered = CASE
                    WHEN former.status = 'off' OR former.topic <> excluded.topic
                        OR split_part(ltrim(former.criteria, '/'), '?', 1)
                            <> split_part(ltrim(excluded.criteria, '/'), '?', 1)
                    THEN former.events_since_start ELSE former.delivered END,
                started_seq = CASE WHEN former.status <> 'off' THEN former.started_seq END
            """,
            row,
        )
        is_off = resource.get("status") == "off"
        await keys.write(conn, {resource["id"]: frozenset() if is_off else _keys(form.topic, form.filters, bases)})
        if starts:
            await self._show(conn, resource["id"], "requested", "")
            await self._make_due(conn, resource["id"])

    async def withdraw(self, conn: Connection, subscription_id: str) -> None:
        """Ends a subscription whose resource was deleted."""
        await self._switch_off(conn, subscription_id)
        await headers.forget(conn, subscription_id)

    async def _switch_off(self, conn: Connection, subscription_id: str) -> None:
        await conn.execute(
            "UPDATE subscription_state SET status = 'off', due_at = NULL WHERE id = %s", (subscription_id,)
        )
        await keys.write(conn, {subscription_id: frozenset()})

    async def match_events(self, conn: Connection, found: Sequence[Event]) -> int:
        """Gives the events to the subscriptions that they concern; how many numbered events that makes.

        For the notify role, which holds the cursor `CURSOR` in the same transaction and advances it. Raises
        matching.Unreadable, with those to `refuse` before it is tried again.
        """
        return await matching.match(conn, self.topics, self.base_url, found)

    async def next_slice(self, conn: Connection, state: State) -> Slice | None:
        """What is due to a subscription that a deliverer has in hand; None where nothing is."""
        return await next_slice(conn, state, self.owner_now, self._topic_of(state))

    async def next_slices(self, conn: Connection, states: Sequence[State]) -> dict[str, Slice]:
        """The same for several, by id, as far as that can be read together."""
        return await next_slices(conn, states, self.owner_now, self._topic_of)

    def _topic_of(self, state: State) -> Topic | None:
        return subscription_form.topic_of(state.topic, state.criteria, self.topics)

    async def activate(self, conn: Connection, subscription_id: str, start: int) -> bool:
        """After a successful handshake: events from now on count, and what was left undelivered is due. False where
        the client has asked for something else since."""
        await events.cursor(conn, CURSOR)
        if not await rows.hold(conn, subscription_id, start, "requested"):
            return False
        # With their numbers, what was written before does not count, however late the sequencer comes to it.
        last = await events.settle(conn)
        await self._show(conn, subscription_id, "active", "")
        await conn.execute(
            """UPDATE subscription_state SET status = 'active', error = '', failures = 0, last_sent_at = now(),
                   started_seq = coalesce(started_seq, %s) WHERE id = %s""",
            (last, subscription_id),
        )
        await self._make_due(conn, subscription_id)
        return True

    async def fail(
        self, conn: Connection, subscription_id: str, error: str, start: int | None = None, worker: int | None = None
    ) -> bool:
        """After a permanent failure: nothing more is sent until the client asks again. False where it is over
        already, the client has asked again since this `start`, or this `worker` has it in hand no longer."""
        if not await rows.hold(conn, subscription_id, start, "requested", "active", worker=worker):
            return False
        await self._show(conn, subscription_id, "error", error)
        await conn.execute(
            "UPDATE subscription_state SET status = 'error', error = %s, due_at = NULL WHERE id = %s",
            (error, subscription_id),
        )
        return True

    async def over(self, conn: Connection) -> list[str]:
        """The subscriptions to `end`, in transactions of their own: one that cannot be is in nobody's way."""
        open_ = await conn.execute(
            "SELECT DISTINCT topic, criteria FROM subscription_state WHERE status IN ('requested', 'active')"
        )
        lost = [
            (topic, criteria)
            for topic, criteria in await open_.fetchall()
            if subscription_form.topic_of(topic, criteria, self.topics) is None
        ]
        found = await conn.execute(
            """
            SELECT id FROM subscription_state
            WHERE status <> 'off' AND (ends_at <= now() OR status <> 'error'
                AND (topic, criteria) IN (SELECT * FROM unnest(%s::text[], %s::text[])))
            """,
            ([topic for topic, _ in lost], [criteria for _, criteria in lost]),
        )
        return [row[0] for row in await found.fetchall()]

    async def end(self, conn: Connection, subscription_id: str) -> None:
        """Switches off what is over; says so where the topic is no longer served, rather than never to fire."""
        is_held = await rows.hold(conn, subscription_id, None, "requested", "active", "error")
        if is_held and await self._is_over(conn, subscription_id):
            await self._show(conn, subscription_id, "off", "")
            await self._switch_off(conn, subscription_id)
        else:
            await self.refuse(conn, subscription_id)

    async def _is_over(self, conn: Connection, subscription_id: str) -> bool:
        """Asked again of one that is held: its client may just have put its end off."""
        found = await conn.execute(
            "SELECT FROM subscription_state WHERE id = %s AND ends_at <= now()", (subscription_id,)
        )
        return found.rowcount > 0

    async def index_all(self, conn: Connection) -> list[str]:
        """Puts all subscriptions under the keys that this version and these topics give them. Holds all of them, since
        what a client asks for at the same moment must not be found under the keys of what it asked for before. Returns
        those to `refuse` in transactions of their own: they stand under no key."""
        found = conn.cursor(row_factory=class_row(State))
        await found.execute(
            "SELECT " + rows.COLUMNS + " FROM subscription_state s WHERE status <> 'off' ORDER BY id FOR NO KEY UPDATE"
        )
        wanted: dict[str, frozenset[str]] = {}
        refused = []
        for state in await found.fetchall():
            try:
                wanted[state.id] = self._understood(state, self._bases(conn))
            except subscription_form.NOT_UNDERSTOOD:
                wanted[state.id] = frozenset()
                refused.append(state.id)
        await keys.write(conn, wanted)
        await undecided.forget_others(conn, self.topics)
        return refused

    async def refuse(self, conn: Connection, subscription_id: str) -> None:
        """Puts a subscription that asks for what this version or these topics do not know in error, on record, and
        takes it out of the index, where it would stand in everybody's way."""
        is_held = await rows.hold(conn, subscription_id, None, "requested", "active", "error")
        state = await rows.state_of(conn, subscription_id)
        if state is None:
            return
        try:
            self._understood(state, self._bases(conn))
        except subscription_form.NOT_UNDERSTOOD as fault:
            error = fault.message if isinstance(fault, Refused) else "another version wrote it, which this cannot read"
            await keys.write(conn, {subscription_id: frozenset()})
            if is_held and await self.fail(conn, subscription_id, error):
                await audit.write(conn, given_up(state, error))

    def _understood(self, state: State, bases: Sequence[str]) -> frozenset[str]:
        """The keys of a subscription. Raises one of `form.NOT_UNDERSTOOD`."""
        topic = of_criteria(state.criteria)[0] if state.criteria else self.topics.get(state.topic)
        if topic is None:
            raise Unsupported("the topic is no longer served here")
        _ = state.reader
        return _keys(topic, state.filters, bases)

    def _bases(self, conn: Connection) -> tuple[str, ...]:
        return (self.base_url, *conn.bases)

    async def _make_due(self, conn: Connection, subscription_id: str) -> None:
        await conn.execute(
            "UPDATE subscription_state SET due_at = now() WHERE id = %s AND channel ->> 'kind' <> 'websocket'",
            (subscription_id,),
        )
        await conn.execute("SELECT pg_notify(%s, '')", (matching.DUE,))

    async def _show(self, conn: Connection, subscription_id: str, status: str, error: str) -> None:
        """Writes the status into the resource that clients read, as a version of its own where it differs."""
        version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
        body = {**version.resource(), "status": status}
        body.pop("error", None)
        await resources.put(conn, {**body, "error": error} if error else body)


def _keys(topic: Topic, filters: Sequence[Sequence[str]], bases: Sequence[str]) -> frozenset[str]:
    """Raises Unsupported."""
    tests = subscription_form.tests(filters, bases)
    if topic.url:  # under what a topic can no longer be filtered by, nobody would look
        tests = [test for test in tests if test.param in topic.filters.get(test.resource_type, ())]
    return keys.keys_of(topic.url, topic.resource_types, tests)
