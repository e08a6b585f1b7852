"""The notify role: follows the event log for the subscriptions, and delivers what is due (rest-hook)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from wetread.errors import PeerUnavailable, Refused, StoreUnavailable
from wetread.outbound.http import HttpPoster
from wetread.record import events
from wetread.record.audit import audit
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.record.subscriptions.subscriptions import CURSOR, Delivery, Subscriptions
from wetread.record.subscriptions.subscriptions import STEP_HANDSHAKE as STEP_HANDSHAKE
from wetread.record.subscriptions.subscriptions import STEP_NOTIFY as STEP_NOTIFY
from wetread.store.database import Connection, Database
from wetread.work.jobs import Payload

logger = logging.getLogger(__name__)

_BATCH = 500
_POLL_S = 0.1


class Notifier:
    """`run` matches events; `handshake` and `notify` are the handlers of the two steps."""

    def __init__(self, database: Database, subscriptions: Subscriptions, poster: HttpPoster) -> None:
        self._database = database
        self._subscriptions = subscriptions
        self._poster = poster

    async def run(self, stop: asyncio.Event) -> None:
        """Matches new events until `stop`; outlives the loss of its connection. Several may run: one works."""
        while not stop.is_set():
            try:
                async with events.listening(self._database, events.NUMBERED) as (conn, hint):
                    while not stop.is_set():
                        if await self._match(conn) < _BATCH:
                            await hint(_POLL_S)
            except StoreUnavailable:
                logger.warning("the notifier lost the database and will be back")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.5)

    async def _match(self, conn: Connection) -> int:
        if not await events.pending(conn, CURSOR):
            return 0
        async with conn.transaction():
            found = await events.after(conn, await events.cursor(conn, CURSOR), _BATCH)
            if found:
                await self._subscriptions.match_events(conn, found)
                await events.advance(conn, CURSOR, found[-1].seq)
        return len(found)

    async def handshake(self, payload: Payload) -> None:
        """Posts the handshake. Any failure puts the subscription in error (Backport IG 1.1, workflow): no retry."""
        subscription_id, start = payload["subscription"], payload["start"]
        async with self._database.transaction() as conn:
            delivery = await self._subscriptions.handshake(conn, subscription_id, start)
        if delivery is None:
            return
        try:
            await self._post(delivery)
        except (PeerUnavailable, Refused) as error:
            await self._give_up(delivery, error.message)
            return
        async with self._database.transaction() as conn:
            await self._subscriptions.activate(conn, subscription_id, start)
            await audit.write(conn, _sent(delivery))

    async def notify(self, payload: Payload) -> None:
        """Posts one event. Raises PeerUnavailable to be tried again; a permanent refusal ends in the error state."""
        subscription_id, number = payload["subscription"], payload["number"]
        async with self._database.transaction() as conn:
            delivery = await self._subscriptions.due(conn, subscription_id, number)
        if delivery is None:
            return
        try:
            await self._post(delivery)
        except PeerUnavailable as error:
            async with self._database.transaction() as conn:
                await self._subscriptions.note_trouble(conn, subscription_id, error.message)
            raise
        except Refused as error:
            await self._give_up(delivery, error.message)
            return
        async with self._database.transaction() as conn:
            if await self._subscriptions.settle(conn, delivery):
                disclosures = [_disclosure(delivery, patient_id) for patient_id in delivery.patient_ids]
                await audit.write_many(conn, [_sent(delivery), *disclosures])

    async def _post(self, delivery: Delivery) -> None:
        channel = delivery.channel
        headers = [*channel.headers, ("Content-Type", channel.content_type)]
        if delivery.number:
            headers.append(("Idempotency-Key", f"{delivery.subscription_id}-{delivery.number}"))
        await self._poster.post(channel.endpoint, delivery.body, headers, channel.timeout_s)

    async def _give_up(self, delivery: Delivery, message: str) -> None:
        async with self._database.transaction() as conn:
            await self._subscriptions.fail(conn, delivery.subscription_id, message)
            entry = AuditEntry(
                kind="delivery-failed",
                action="E",
                outcome="8",
                outcome_text=message,
                principal=delivery.principal,
                network=delivery.channel.endpoint,
                entities=(_subscription(delivery),),
            )
            await audit.write(conn, entry)


def _sent(delivery: Delivery) -> AuditEntry:
    return AuditEntry(
        kind="notification-sent",
        action="E",
        outcome="0",
        principal=delivery.principal,
        network=delivery.channel.endpoint,
        entities=(_subscription(delivery),),
        detail={"event-number": str(delivery.number or "handshake")},
    )


def _disclosure(delivery: Delivery, patient_id: str) -> AuditEntry:
    return AuditEntry(
        kind="disclosure",
        action="R",
        outcome="0",
        principal=delivery.principal,
        network=delivery.channel.endpoint,
        patient_id=patient_id,
        entities=(Entity(what=delivery.focus), _subscription(delivery)),
        detail={"event-number": str(delivery.number)},
    )


def _subscription(delivery: Delivery) -> Entity:
    return Entity(what=f"Subscription/{delivery.subscription_id}", type_code="2", role_code="9")
