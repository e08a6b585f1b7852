"""Topic-based subscriptions (R5 Backport IG 1.1.0 on R4): from the event log to deliveries that are due.

Every event of a subscription has a number of its own, without gaps, written in the transaction that moves the cursor
over the log and enqueues the delivery. Deliveries of one subscription go out one at a time, in order (`lane`).

A subscription is `requested` until its handshake succeeded, `active` then, `error` after a permanent failure and `off`
when its client or its `end` says so. Events are counted through `error` and a new handshake, and what was not
delivered goes out once the client has put it to `requested` again. An `end` that is past at creation has no effect.

Locks are taken in the order cursor, resource, state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import NotFound
from wetread.record import events, former, lossless, resources
from wetread.record.audit import audit
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.record.compartment import visible
from wetread.record.condition import TRUE
from wetread.record.events import Event
from wetread.record.resources import Version
from wetread.record.search import index
from wetread.record.subscriptions import form as subscription_form
from wetread.record.subscriptions import rows as rows
from wetread.record.subscriptions.channel import Channel
from wetread.record.subscriptions.notifications import NotifiedEvent, notification, status_bundle
from wetread.record.subscriptions.rows import State
from wetread.record.subscriptions.topics import Test, Topic
from wetread.store.database import Connection
from wetread.work.jobs import Step, Work

STEP_HANDSHAKE = Step("subscription-handshake", "notify")
STEP_NOTIFY = Step("subscription-notify", "notify")

CURSOR = "subscriptions"
_MOST_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification that is due: what to post, and of whom it tells. `number` is 0 for a handshake."""

    subscription_id: str
    number: int
    channel: Channel
    body: bytes
    principal: str
    focus: str = ""
    patient_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """The subscriptions of one server: its topics, the hosts it may post to, the FHIR base URL that it calls itself."""

    topics: Mapping[str, Topic]
    allowed: AllowedEndpoints
    work: Work
    base_url: str

    async def accept(self, conn: Connection, reader: Reader, resource: Mapping[str, Any]) -> None:
        """Takes a Subscription that a client has created or replaced, in the transaction of its version; enqueues the
        handshake. Raises Unsupported (422) for what cannot be kept, Forbidden where the client may not read what the
        topic tells of."""
        form = subscription_form.read(resource, self.topics, self.allowed, self.base_url)
        for resource_type in sorted(form.topic.resource_types):
            reader.require_some("r", resource_type)
        starts = resource.get("status") in ("requested", "active")
        ends_at = form.ends_at if form.ends_at and form.ends_at > datetime.now(UTC) else None
        row = {
            "id": resource["id"],
            "status": "requested" if starts else resource.get("status"),
            "topic": form.topic.url,
            "filters": Jsonb(form.filters),
            "channel": Jsonb(asdict(form.channel)),
            "owner": Jsonb(rows.owner_row(reader)),
            "ends_at": ends_at,
        }
        found = await conn.execute(
            """
            INSERT INTO subscription_state AS former (id, status, topic, filters, channel, owner, ends_at)
            VALUES (%(id)s, %(status)s, %(topic)s, %(filters)s, %(channel)s, %(owner)s, %(ends_at)s)
            ON CONFLICT (id) DO UPDATE SET status = excluded.status, topic = excluded.topic, error = '',
                filters = excluded.filters, channel = excluded.channel, owner = excluded.owner,
                ends_at = excluded.ends_at, start = former.start + 1,
                started_seq = CASE WHEN former.status <> 'off' THEN former.started_seq END
            RETURNING start
            """,
            row,
        )
        start = await found.fetchone()
        assert start is not None  # noqa: S101
        if starts:
            await self._show(conn, resource["id"], "requested", "")
            payload = {"subscription": resource["id"], "start": start[0]}
            await self.work.enqueue(conn, STEP_HANDSHAKE, payload, lane=_lane(resource["id"]))

    async def withdraw(self, conn: Connection, subscription_id: str) -> None:
        """Ends a subscription, as when its resource was deleted."""
        await conn.execute("UPDATE subscription_state SET status = 'off' WHERE id = %s", (subscription_id,))

    async def match_events(self, conn: Connection, found: Sequence[Event]) -> int:
        """Gives the events to the subscriptions that they concern; how many deliveries that makes.

        For the notify role, which holds the cursor `CURSOR` in the same transaction and advances it.
        """
        await self._end(conn)
        states = conn.cursor(row_factory=class_row(State))
        await states.execute(
            """SELECT * FROM subscription_state WHERE started_seq IS NOT NULL AND status <> 'off'
               ORDER BY id FOR UPDATE"""
        )
        concerned = [(state, topic) for state in await states.fetchall() if (topic := self.topics.get(state.topic))]
        types = {resource_type for _, topic in concerned for resource_type in topic.resource_types}
        relevant = [event for event in found if event.resource_type in types]
        if not relevant:
            return 0
        bodies = await rows.bodies_of(conn, relevant)
        tests = {state.id: subscription_form.tests(state.filters, self.base_url) for state, _ in concerned}
        counts = {state.id: state.events_since_start for state, _ in concerned}
        made = 0
        for event in relevant:
            current, previous = bodies.get((event, 0)), bodies.get((event, 1))
            if current is None:
                continue
            entries = index.extract(current)
            fired = {
                topic.url: topic.fires(event.resource_type, event.kind, current, previous) for _, topic in concerned
            }
            for state, topic in concerned:
                late = event.seq <= (state.started_seq or 0)
                over = state.ends_at is not None and event.at >= state.ends_at
                if late or over or not fired[topic.url] or not _passes(tests[state.id], event, entries):
                    continue
                owner = state.reader
                if owner.may_some("r", event.resource_type) and not await _may_see(conn, owner, event, current):
                    continue  # and not counted: a number would tell of it
                counts[state.id] += 1
                await rows.record_event(conn, state.id, counts[state.id], event)
                if state.status == "active":
                    await self._enqueue(conn, state.id, counts[state.id])
                made += 1
        return made

    async def handshake(self, conn: Connection, subscription_id: str, start: int) -> Delivery | None:
        """The handshake that is due, or None where the subscription no longer waits for it."""
        state = await rows.state_of(conn, subscription_id)
        if state is None or state.status != "requested" or state.start != start:
            return None
        body = notification(self.base_url, "handshake", state.told(), datetime.now(UTC), ())
        return Delivery(subscription_id, 0, state.out(), body, state.reader.principal)

    async def activate(self, conn: Connection, subscription_id: str, start: int) -> None:
        """After a successful handshake: events from now on count, and what was left undelivered is enqueued."""
        await events.cursor(conn, CURSOR)
        if not await rows.hold(conn, subscription_id, start, "requested"):
            return
        await self._show(conn, subscription_id, "active", "")
        await conn.execute(
            """UPDATE subscription_state SET status = 'active', error = '', started_seq = coalesce(started_seq, %s)
               WHERE id = %s""",
            (await events.last(conn), subscription_id),
        )
        left = await conn.execute(
            "SELECT number FROM subscription_event WHERE subscription_id = %s AND outcome = 'pending' ORDER BY number",
            (subscription_id,),
        )
        for (number,) in await left.fetchall():
            await self._enqueue(conn, subscription_id, number)

    async def fail(self, conn: Connection, subscription_id: str, error: str) -> None:
        """After a permanent failure: nothing more is posted until the client asks again."""
        if await rows.hold(conn, subscription_id, None, "requested", "active"):
            await self._show(conn, subscription_id, "error", error)
            await conn.execute(
                "UPDATE subscription_state SET status = 'error', error = %s WHERE id = %s", (error, subscription_id)
            )

    async def note_trouble(self, conn: Connection, subscription_id: str, error: str) -> None:
        """A passing failure, shown by `$status` until a delivery succeeds; the state stays what it is."""
        await conn.execute(
            """UPDATE subscription_state SET error = %s
               WHERE id = %s AND status IN ('requested', 'active') AND error <> %s""",
            (error, subscription_id, error),
        )

    async def due(self, conn: Connection, subscription_id: str, number: int) -> Delivery | None:
        """The event notification that is due; None where it was settled, or the subscription is not active.

        The client's rights are asked again: what it may no longer read is dropped, on record; all where it is disabled.
        """
        state = await rows.state_of(conn, subscription_id)
        pending = await rows.events_of(conn, subscription_id, number, number, only_pending=True, limit=1)
        if state is None or state.status != "active" or not pending:
            return None
        [event] = pending
        is_open = await rows.owner_is_open(conn, state.owner)
        if not is_open or not await _may_see(conn, state.reader, event, event.body):
            await self._drop(conn, state, number, event)
            return None
        patients = rows.patients_of(event) if state.channel["content"] != "empty" else ()
        sent = event if state.channel["content"] == "full-resource" else replace(event, body="")
        status = state.told(status="active", count=number)
        body = notification(self.base_url, "event-notification", status, event.at, (sent,))
        return Delivery(subscription_id, number, state.out(), body, state.reader.principal, event.focus, patients)

    async def settle(self, conn: Connection, delivery: Delivery) -> bool:
        """Marks an event as delivered; false where it was before."""
        await conn.execute(
            "UPDATE subscription_state SET error = '' WHERE id = %s AND status = 'active' AND error <> ''",
            (delivery.subscription_id,),
        )
        return await rows.settle_event(conn, delivery.subscription_id, delivery.number, "delivered")

    async def status(
        self, conn: Connection, reader: Reader, ids: Sequence[str] = (), statuses: Sequence[str] = ()
    ) -> bytes:
        """What `$status` answers (searchset Bundle): those of `ids` with one of `statuses`; empty means all.

        Raises Forbidden.
        """
        reader.require("r", "Subscription")
        found = conn.cursor(row_factory=class_row(State))
        await found.execute(
            """SELECT * FROM subscription_state
               WHERE (%(ids)s::text[] = '{}' OR id = ANY(%(ids)s)) AND (%(st)s::text[] = '{}' OR status = ANY(%(st)s))
               ORDER BY id""",
            {"ids": list(ids), "st": list(statuses)},
        )
        return status_bundle(self.base_url, [state.told() for state in await found.fetchall()])

    async def events(
        self, conn: Connection, reader: Reader, subscription_id: str, since: int = 1, until: int | None = None
    ) -> bytes:
        """What `$events` answers (history Bundle): the events numbered from `since` to `until`, both included.

        At most 1000; ask on from the last number. Resources come along where the subscription asks for full-resource;
        of what the caller may not read only the number is told. Raises Forbidden, NotFound.
        """
        reader.require("r", "Subscription")
        state = await rows.state_of(conn, subscription_id)
        if state is None:
            raise NotFound("no such Subscription")
        asked = await rows.events_of(conn, subscription_id, since, until, only_pending=False, limit=_MOST_EVENTS)
        full = state.channel["content"] == "full-resource"
        sent = []
        for event in asked:
            is_told = await _may_see(conn, reader, event, event.body)
            sent.append(replace(event, body=event.body if full and is_told else "", is_told=is_told))
        return notification(self.base_url, "query-event", state.told(), datetime.now(UTC), sent)

    async def _drop(self, conn: Connection, state: State, number: int, event: NotifiedEvent) -> None:
        if await rows.settle_event(conn, state.id, number, "dropped"):
            entry = AuditEntry(
                kind="access-denied",
                action="R",
                outcome="4",
                outcome_text="the subscription's owner may no longer read this; the notification was dropped",
                principal=state.owner["principal"],
                entities=(Entity(what=f"Subscription/{state.id}", role_code="9"), Entity(what=event.focus)),
            )
            await audit.write(conn, entry)

    async def _enqueue(self, conn: Connection, subscription_id: str, number: int) -> None:
        payload = {"subscription": subscription_id, "number": number}
        await self.work.enqueue(conn, STEP_NOTIFY, payload, lane=_lane(subscription_id))

    async def _end(self, conn: Connection) -> None:
        """Switches off what is over; says so where the topic is no longer served, rather than never to fire."""
        over = await conn.execute("SELECT id FROM subscription_state WHERE status <> 'off' AND ends_at <= now()")
        for (subscription_id,) in await over.fetchall():
            if await rows.hold(conn, subscription_id, None, "requested", "active", "error"):
                await self._show(conn, subscription_id, "off", "")
                await self.withdraw(conn, subscription_id)
        lost = await conn.execute(
            "SELECT id FROM subscription_state WHERE status IN ('requested', 'active') AND topic <> ALL(%s)",
            (list(self.topics),),
        )
        for (subscription_id,) in await lost.fetchall():
            await self.fail(conn, subscription_id, "the topic is no longer served here")

    async def _show(self, conn: Connection, subscription_id: str, status: str, error: str) -> None:
        """Writes the status into the resource that clients read, as a version of its own where it differs."""
        version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
        body = {**version.resource(), "status": status}
        body.pop("error", None)
        await resources.put(conn, {**body, "error": error} if error else body)


def _lane(subscription_id: str) -> str:
    return f"subscription:{subscription_id}"


async def _may_see(
    conn: Connection, reader: Reader, event: Event | NotifiedEvent, content: Mapping[str, Any] | str
) -> bool:
    """Whether a reader may see both the version of an event, of this content, and the resource as it is now."""
    if visible(reader, event.resource_type, "r") == TRUE:
        return True
    text = content if isinstance(content, str) else lossless.dump(content)
    version = Version(event.resource_type, event.resource_id, event.version_id, event.at, text, deleted=not text)
    return await former.shown(conn, reader, "r", version)


def _passes(tests: Sequence[Test], event: Event, entries: index.Entries) -> bool:
    """A filter on another type of the topic does not narrow this one."""
    return all(test.passes(entries) for test in tests if test.resource_type == event.resource_type)
