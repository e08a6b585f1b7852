"""Subscriptions as the database holds them, some way through their life."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from wetread.record import resources
from wetread.record.events import Event
from wetread.record.subscriptions import undecided
from wetread.store.database import Database

TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
SECRET = "Bearer 4711-secret"


@dataclass(frozen=True)
class Subscriber:
    """`numbered` events, of which those up to `delivered` went out; the first that waits is `age_s` seconds old."""

    id: str
    status: str = "active"
    numbered: int = 0
    delivered: int = 0
    age_s: int = 0
    failures: int = 0
    error: str = ""
    endpoint: str = "https://user:password@ehr.example:8443/hook?key=secret"
    kind: str = "rest-hook"
    is_indexed: bool = True
    """Not so where its client has ended it."""

    @property
    def resource(self) -> dict[str, Any]:
        return {
            "resourceType": "Subscription",
            "id": self.id,
            "status": self.status,
            "reason": "worklist",
            "criteria": TOPIC,
            "channel": {"type": "rest-hook", "endpoint": self.endpoint, "header": [f"Authorization: {SECRET}"]},
        }


async def failed_criterion(database: Database, topic: str, *, times: int = 1) -> None:
    """A topic that the matcher could not decide for changes of a Task."""
    event = Event(7, "Task", "t1", 2, "update", datetime(2026, 5, 3, 12, tzinfo=UTC))
    async with database.transaction() as conn:
        await undecided.keep(conn, [(topic, "one item was expected", event)] * times)


async def subscribed(database: Database, one: Subscriber) -> None:
    """Puts resource, state and numbered events where a client and the notify role would have put them."""
    channel = {
        "kind": one.kind,
        "endpoint": one.endpoint,
        "content_type": "application/fhir+json",
        "content": "id-only",
        "headers": [["Authorization", SECRET]],
        "timeout_s": 10,
        "max_count": 1,
        "heartbeat_s": 0,
    }
    owner = {"principal": "ehr", "client_id": None, "scopes": ["system/*.rs"], "roles": [], "patient_id": None}
    async with database.transaction() as conn:
        await resources.put(conn, one.resource)
        await conn.execute(
            """INSERT INTO subscription_state (id, status, error, started_seq, events_since_start, topic, filters,
                   channel, owner, delivered, failures, failing_since)
               VALUES (%s, %s, %s, 0, %s, %s, '[]', %s, %s, %s, %s, CASE WHEN %s > 0 THEN now() END)""",
            (
                one.id,
                one.status,
                one.error,
                one.numbered,
                TOPIC,
                Jsonb(channel),
                Jsonb(owner),
                one.delivered,
                one.failures,
                one.failures,
            ),
        )
        if one.is_indexed:
            key = f"{TOPIC}|Observation|"
            await conn.execute("INSERT INTO subscription_key (key, subscription_id) VALUES (%s, %s)", (key, one.id))
        await conn.execute(
            """INSERT INTO subscription_event (subscription_id, number, seq, resource_type, resource_id, version_id,
                   kind, at)
               SELECT %s, number, number, 'Observation', 'o' || number, 1, 'create',
                   now() - make_interval(secs => %s) + (number - %s - 1) * interval '1 ms'
               FROM generate_series(1, %s) number""",
            (one.id, one.age_s, one.delivered, one.numbered),
        )
