"""A server's notifying parts on one database, and what tests ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.subscription import Subscription

from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.outbound.deliverer import Deliverer
from wetread.outbound.http import HttpPoster
from wetread.outbound.notify import Matcher
from wetread.outbound.rest_hook import RestHook
from wetread.outbound.sender import Sender
from wetread.record import events, resources
from wetread.record.events import Sequencer
from wetread.record.subscriptions import questions, topics
from wetread.record.subscriptions.subscriptions import CURSOR, Subscriptions
from wetread.store.database import Database
from wetread.wire.post import Post, Resolver

from .conftest import Received, Sink

FOLDER = Path(__file__).parents[3] / "conformance" / "topics"
TOPICS = topics.load(FOLDER)
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/task-status"
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
BASE = "http://127.0.0.1:8080/fhir"
ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8",))
CLIENT = Reader("ehr", (Scope.parse("system/*.rs"), Scope.parse("system/Subscription.cud")))

Resource = dict[str, Any]


def form(
    endpoint: str, *, content: str = "id-only", filters: tuple[str, ...] = (), most: int = 1, timeout_s: int = 10
) -> Resource:
    made: Resource = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": TOPIC,
        "channel": {
            "extension": [
                {"url": f"{B}max-count", "valuePositiveInt": most},
                {"url": f"{B}timeout", "valueUnsignedInt": timeout_s},
            ],
            "type": "rest-hook",
            "endpoint": endpoint,
            "header": ["Authorization: Bearer secret"],
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{B}payload-content", "valueCode": content}]},
        },
    }
    if filters:
        extensions = [{"url": f"{B}filter-criteria", "valueString": text} for text in filters]
        made["_criteria"] = {"extension": extensions}
    Subscription.model_validate(made)
    return made


def task(task_id: str, status: str = "requested", patient: str = "p1") -> Resource:
    return {
        "resourceType": "Task",
        "id": task_id,
        "status": status,
        "intent": "order",
        "for": {"reference": f"Patient/{patient}"},
    }


class Server:
    """The parts as app binds them, on one database. `running` starts the roles; leaving it is a stop."""

    def __init__(self, database: Database, resolve: Resolver | None = None) -> None:
        self.database = database
        self.subscriptions = Subscriptions(TOPICS, ALLOWED, BASE)
        self.peers = Post(ALLOWED, resolve=resolve)
        self.senders: dict[str, Sender] = {"rest-hook": RestHook(HttpPoster(self.peers), BASE)}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tasks = [
            asyncio.create_task(Sequencer(self.database).run(stop)),
            asyncio.create_task(Matcher(self.database, self.subscriptions).run(stop)),
            asyncio.create_task(Deliverer(self.database, self.subscriptions, self.senders).run(stop)),
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    @contextlib.asynccontextmanager
    async def delivering(self, **settings: Any) -> AsyncIterator[Deliverer]:
        """One deliverer alone, on what there is."""
        stop = asyncio.Event()
        deliverer = Deliverer(self.database, self.subscriptions, self.senders, **settings)
        running = asyncio.create_task(deliverer.run(stop))
        try:
            yield deliverer
        finally:
            stop.set()
            await running

    async def active(self, form: Resource, reader: Reader = CLIENT) -> str:
        """A subscription whose handshake has succeeded."""
        subscription_id = await self.subscribe(form, reader)
        async with self.database.transaction() as conn:
            assert await self.subscriptions.activate(conn, subscription_id, 1)
        return subscription_id

    async def happen(self, *written: Resource) -> int:
        """Writes, numbers and matches; how many events of subscriptions that makes."""
        await self.put(*written)
        async with self.database.transaction() as conn:
            seq = await events.cursor(conn, CURSOR)
            await events.settle(conn)
            found = await events.after(conn, seq, 10_000)
            made = await self.subscriptions.match_events(conn, found)
            await events.advance(conn, CURSOR, await events.last(conn))
        return made

    async def subscribe(self, form: Resource, reader: Reader = CLIENT) -> str:
        async with self.database.transaction() as conn:
            version, _ = await resources.create(conn, form, reader=reader)
            await self.subscriptions.accept(conn, reader, version.resource())
        return version.id

    async def put(self, *written: Resource) -> None:
        for resource in written:
            async with self.database.transaction() as conn:
                await resources.put(conn, resource)

    async def status(self, subscription_id: str) -> dict[str, Any]:
        async with self.database.transaction() as conn:
            bundle = json.loads((await questions.status(conn, CLIENT, BASE, [subscription_id])).body)
        Bundle.model_validate(bundle)
        return parameters(bundle["entry"][0]["resource"])

    async def resource_status(self, subscription_id: str) -> str:
        async with self.database.transaction() as conn:
            version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
        return str(version.resource()["status"])

    async def cursors(self) -> list[tuple[int, int]]:
        """Of each subscription: how many events it has counted, and up to which they are done with."""
        async with self.database.transaction() as conn:
            rows = await conn.execute("SELECT events_since_start, delivered FROM subscription_state ORDER BY id")
            return [(row[0], row[1]) for row in await rows.fetchall()]

    async def audits(self, kind: str) -> list[dict[str, Any]]:
        async with self.database.transaction() as conn:
            rows = await conn.execute("SELECT body FROM audit_event WHERE kind = %s ORDER BY position", (kind,))
            return [json.loads(row[0]) for row in await rows.fetchall()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (the peer's own list is what is waited for)
            await asyncio.sleep(0.02)


async def until_cursors(server: Server, *cursors: tuple[int, int]) -> None:
    async with asyncio.timeout(20):
        while await server.cursors() != list(cursors):  # noqa: ASYNC110  (the database is what is waited for)
            await asyncio.sleep(0.05)


async def until_status(server: Server, subscription_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            told = await server.status(subscription_id)
            if told["status"] == status:
                return told
            await asyncio.sleep(0.02)


def parameters(resource: Resource) -> dict[str, Any]:
    """Name to value, of a status Parameters or of the parts of one of its notification-events."""
    told: dict[str, Any] = {}
    for parameter in resource["parameter"]:
        if "part" in parameter:
            told.setdefault(parameter["name"], []).append(parameters({"parameter": parameter["part"]}))
        else:
            [value] = [v for k, v in parameter.items() if k.startswith("value")]
            told[parameter["name"]] = value
    return told


def told_by(received: Received) -> dict[str, Any]:
    bundle = json.loads(received.body)
    Bundle.model_validate(bundle)
    assert bundle["type"] == "history"
    assert all("request" in entry and "response" in entry for entry in bundle["entry"])
    return parameters(bundle["entry"][0]["resource"])


def numbers(sink: Sink, path: str = "") -> list[str]:
    """The event numbers as they arrived, at addresses that end with `path`, handshakes apart."""
    told = [told_by(received) for received in sink.received if received.path.endswith(path)]
    return [e["event-number"] for t in told if t["type"] == "event-notification" for e in t["notification-event"]]
