"""From a resource version to the subscriber's door: complete, in order, and the same bytes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.subscription import Subscription

from wetread.access.clients import clients, registration
from wetread.access.people import accounts
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden, StoreUnavailable
from wetread.outbound.deliverer import Deliverer
from wetread.outbound.http import HttpPoster
from wetread.outbound.notify import Matcher
from wetread.outbound.rest_hook import RestHook
from wetread.outbound.sender import Sender
from wetread.record import events, resources
from wetread.record.events import Sequencer
from wetread.record.subscriptions import subscriptions, topics
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Database
from wetread.wire.fetch import Fetch

from .conftest import Received, Sink

FOLDER = Path(__file__).parents[3] / "conformance" / "topics"
TOPICS = topics.load(FOLDER)
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/task-status"
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
BASE = "http://127.0.0.1:8080/fhir"
ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8",))
CLIENT = Reader("ehr", (Scope.parse("system/*.rs"), Scope.parse("system/Subscription.cud")))

Resource = dict[str, Any]


def _form(
    endpoint: str, *, topic: str = "task-status", content: str = "id-only", filters: tuple[str, ...] = ()
) -> Resource:
    form: Resource = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": TOPIC,
        "channel": {
            "type": "rest-hook",
            "endpoint": endpoint,
            "header": ["Authorization: Bearer secret"],
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{B}payload-content", "valueCode": content}]},
        },
    }
    if filters:
        extensions = [{"url": f"{B}filter-criteria", "valueString": text} for text in filters]
        form["_criteria"] = {"extension": extensions}
    Subscription.model_validate(form)
    return form


def _task(task_id: str, status: str = "requested", patient: str = "p1") -> Resource:
    return {
        "resourceType": "Task",
        "id": task_id,
        "status": status,
        "intent": "order",
        "for": {"reference": f"Patient/{patient}"},
    }


class Server:
    """The parts as app binds them, on one database. `running` starts the roles; leaving it is a stop."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.subscriptions = Subscriptions(TOPICS, ALLOWED, BASE)
        self.fetch = Fetch(ALLOWED)
        self.senders: dict[str, Sender] = {"rest-hook": RestHook(HttpPoster(self.fetch), BASE)}

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
            bundle = json.loads(await self.subscriptions.status(conn, CLIENT, [subscription_id]))
        Bundle.model_validate(bundle)
        return _parameters(bundle["entry"][0]["resource"])

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


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    server = Server(database)
    yield server
    await server.fetch.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (the peer's own list is what is waited for)
            await asyncio.sleep(0.02)


async def _until_cursors(server: Server, *cursors: tuple[int, int]) -> None:
    async with asyncio.timeout(20):
        while await server.cursors() != list(cursors):  # noqa: ASYNC110  (the database is what is waited for)
            await asyncio.sleep(0.05)


async def _until_status(server: Server, subscription_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            told = await server.status(subscription_id)
            if told["status"] == status:
                return told
            await asyncio.sleep(0.02)


def _parameters(resource: Resource) -> dict[str, Any]:
    """Name to value, of a status Parameters or of the parts of one of its notification-events."""
    told: dict[str, Any] = {}
    for parameter in resource["parameter"]:
        if "part" in parameter:
            told.setdefault(parameter["name"], []).append(_parameters({"parameter": parameter["part"]}))
        else:
            [value] = [v for k, v in parameter.items() if k.startswith("value")]
            told[parameter["name"]] = value
    return told


def _told(received: Received) -> dict[str, Any]:
    bundle = json.loads(received.body)
    Bundle.model_validate(bundle)
    assert bundle["type"] == "history"
    assert all("request" in entry and "response" in entry for entry in bundle["entry"])
    return _parameters(bundle["entry"][0]["resource"])


def _numbers(sink: Sink) -> list[str]:
    """The event numbers as they arrived, handshakes apart."""
    told = [_told(received) for received in sink.received]
    return [t["notification-event"][0]["event-number"] for t in told if t["type"] == "event-notification"]


async def test_a_subscription_is_requested_shakes_hands_and_is_active(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    assert (await server.status(subscription_id))["status"] == "requested"
    assert await server.resource_status(subscription_id) == "requested"
    async with server.running():
        await _until_status(server, subscription_id, "active")
    assert await server.resource_status(subscription_id) == "active"
    [handshake] = sink.received
    told = _told(handshake)
    assert (told["type"], told["status"], told["events-since-subscription-start"]) == ("handshake", "requested", "0")
    assert handshake.headers["content-type"] == "application/fhir+json"
    assert handshake.headers["authorization"] == "Bearer secret"
    assert json.loads(handshake.body)["entry"][0]["request"]["url"].endswith(f"Subscription/{subscription_id}/$status")


@pytest.mark.parametrize("answer", [404, 503, 0])
async def test_any_failure_of_the_handshake_is_the_error_state(answer: int, server: Server, sink: Sink) -> None:
    sink.answer = lambda received: answer
    subscription_id = await server.subscribe(_form(sink.url))
    async with server.running():
        told = await _until_status(server, subscription_id, "error")
    assert "endpoint" in told["error"]["text"]
    assert await server.resource_status(subscription_id) == "error"
    [failed] = await server.audits("delivery-failed")
    assert failed["outcome"] == "8"


async def test_each_payload_content_tells_as_much_as_was_asked(server: Server, sink: Sink) -> None:
    contents = ("empty", "id-only", "full-resource")
    ids = [await server.subscribe(_form(f"{sink.url}/{content}", content=content)) for content in contents]
    weighed = {**_task("t1"), "restriction": {"repetitions": 2}, "description": "1.10 mL \u00e4"}
    async with server.running():
        for subscription_id in ids:
            await _until_status(server, subscription_id, "active")
        await server.put(weighed)
        await _until(lambda: len(sink.received) == 6)
    bodies = {r.path.rpartition("/")[2]: r for r in sink.received if _told(r)["type"] == "event-notification"}
    empty, id_only, full = (_told(bodies[content]) for content in ("empty", "id-only", "full-resource"))
    assert "topic" not in empty
    assert set(empty["notification-event"][0]) == {"event-number", "timestamp"}
    assert id_only["notification-event"][0]["focus"] == {"reference": f"{BASE}/Task/t1"}
    assert len(json.loads(bodies["id-only"].body)["entry"]) == 1
    assert full["topic"] == TOPIC
    entry = json.loads(bodies["full-resource"].body)["entry"][1]
    assert (entry["fullUrl"], entry["request"]["method"]) == (f"{BASE}/Task/t1", "POST")
    async with server.database.transaction() as conn:
        stored = (await resources.read(conn, SYSTEM, "Task", "t1")).body
    assert stored.encode() in bodies["full-resource"].body


async def test_only_what_passes_every_filter_is_sent_and_numbers_have_no_gap(server: Server, sink: Sink) -> None:
    form = _form(sink.url, filters=("Task?patient=Patient/p1", "Task.status=requested,completed"))
    subscription_id = await server.subscribe(form)
    async with server.running():
        await _until_status(server, subscription_id, "active")
        await server.put(
            _task("a"),
            _task("other", patient="p2"),
            _task("a", "accepted"),
            {**_task("a", "accepted"), "description": "no change of status"},
            _task("a", "completed"),
        )
        await _until(lambda: len(_numbers(sink)) == 2)
        await server.put(_task("last"))
        await _until(lambda: len(_numbers(sink)) == 3)
    assert _numbers(sink) == ["1", "2", "3"]
    focus = [_told(r)["notification-event"][0]["focus"]["reference"] for r in sink.received[1:]]
    assert [f.rpartition("/")[2] for f in focus] == ["a", "a", "last"]
    assert [r.headers["idempotency-key"] for r in sink.received[1:]] == [f"{subscription_id}-{n}" for n in (1, 2, 3)]


async def test_a_flapping_subscriber_gets_every_event_in_order_and_the_same_bytes_again(
    server: Server, sink: Sink
) -> None:
    calls = 0

    def flap(received: Received) -> int:
        nonlocal calls
        calls += 1
        return (200, 503, 0)[calls % 3] if calls > 1 else 200

    sink.answer = flap
    subscription_id = await server.subscribe(_form(sink.url, content="full-resource"))
    async with server.running():
        await _until_status(server, subscription_id, "active")
        await asyncio.gather(*(server.put(_task(f"t{n}")) for n in range(5)))
        await _until(lambda: len(set(_numbers(sink))) == 5)
        await _until_cursors(server, (5, 5))
    arrivals = _numbers(sink)
    accepted = [n for place, n in enumerate(arrivals) if place + 1 == len(arrivals) or arrivals[place + 1] != n]
    assert accepted == [str(n) for n in range(1, 6)]
    assert len(arrivals) > 5, "the peer never refused: nothing was tried again"
    bodies: dict[str, set[bytes]] = {}
    for received in sink.received[1:]:
        bodies.setdefault(received.headers["idempotency-key"], set()).add(received.body)
    assert all(len(same) == 1 for same in bodies.values())
    assert (await server.status(subscription_id))["events-since-subscription-start"] == "5"


async def test_a_kill_between_matching_and_its_commit_loses_and_doubles_nothing(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    async with server.running():
        await _until_status(server, subscription_id, "active")
    await server.put(_task("a"), _task("b"))
    async with server.database.transaction() as conn:
        await events.sequence(conn)
    with contextlib.suppress(ZeroDivisionError):
        async with server.database.transaction() as conn:
            found = await events.after(conn, await events.cursor(conn, subscriptions.CURSOR), 100)
            assert await server.subscriptions.match_events(conn, found) == 2
            raise ZeroDivisionError
    async with server.running():
        await _until(lambda: len(_numbers(sink)) == 2)
        await asyncio.sleep(0.3)
    assert _numbers(sink) == ["1", "2"]


async def test_a_kill_between_the_post_and_its_commit_sends_the_same_bytes_again(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url, content="full-resource"))
    async with server.running():
        await _until_status(server, subscription_id, "active")
    posts = server.senders["rest-hook"]
    server.senders["rest-hook"] = _DyingOnce(posts)
    async with server.running():
        await server.put(_task("a"))
        await _until_cursors(server, (1, 1))
    first, second = (r.body for r in sink.received[1:])
    assert first == second
    assert len(await server.audits("disclosure")) == 1


class _DyingOnce:
    """Posts, and dies before it can say so."""

    def __init__(self, real: Sender) -> None:
        self._real, self._is_dead = real, False

    async def send(self, delivery: Delivery) -> None:
        await self._real.send(delivery)
        if not self._is_dead:
            self._is_dead = True
            raise StoreUnavailable("killed")


async def test_each_patient_told_of_is_a_disclosure_on_record(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    async with server.running():
        await _until_status(server, subscription_id, "active")
        await server.put(_task("a", patient="p7"))
        await _until_cursors(server, (1, 1))
    [disclosure] = await server.audits("disclosure")
    assert disclosure["entity"][0]["what"] == {"reference": "Patient/p7"}
    assert disclosure["entity"][1]["what"] == {"reference": "Task/a"}
    assert disclosure["agent"][0]["network"] == {"address": sink.url, "type": "5"}
    assert "secret" not in json.dumps(disclosure)


async def test_after_a_permanent_refusal_events_are_counted_and_sent_once_the_client_asks_again(
    server: Server, sink: Sink
) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    async with server.running():
        await _until_status(server, subscription_id, "active")
        sink.answer = lambda received: 410
        await server.put(_task("a"))
        await _until_status(server, subscription_id, "error")
        await server.put(_task("b"))
        await _until_cursors(server, (2, 0))
        assert (await server.status(subscription_id))["events-since-subscription-start"] == "2"
        sink.answer = lambda received: 200
        sink.received.clear()
        async with server.database.transaction() as conn:
            version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
            again = await resources.put(conn, {**version.resource(), "status": "requested"})
            await server.subscriptions.accept(conn, CLIENT, again.resource())
        await _until(lambda: len(_numbers(sink)) == 2)
    assert [_told(r)["type"] for r in sink.received] == ["handshake", "event-notification", "event-notification"]
    assert _numbers(sink) == ["1", "2"]
    assert await server.resource_status(subscription_id) == "active"


async def test_events_can_be_asked_for_again_by_number(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url, content="full-resource"))
    async with server.running():
        await _until_status(server, subscription_id, "active")
        await server.put(*(_task(f"t{n}") for n in range(4)))
        await _until(lambda: len(_numbers(sink)) == 4)
    async with server.database.transaction() as conn:
        bundle = json.loads(await server.subscriptions.events(conn, CLIENT, subscription_id, 2, 3))
        no_tasks = Reader("other", (Scope.parse("system/Subscription.r"),))
        bare = json.loads(await server.subscriptions.events(conn, no_tasks, subscription_id))
        with pytest.raises(Forbidden):
            await server.subscriptions.events(conn, Reader("nobody"), subscription_id)
    Bundle.model_validate(bundle)
    told = _parameters(bundle["entry"][0]["resource"])
    assert (told["type"], told["events-since-subscription-start"]) == ("query-event", "4")
    assert [event["event-number"] for event in told["notification-event"]] == ["2", "3"]
    assert [entry["resource"]["id"] for entry in bundle["entry"][1:]] == ["t1", "t2"]
    assert len(bare["entry"]) == 1


async def test_a_client_that_may_not_read_what_the_topic_tells_of_cannot_subscribe(server: Server, sink: Sink) -> None:
    with pytest.raises(Forbidden):
        await server.subscribe(_form(sink.url), Reader("app", (Scope.parse("system/Subscription.cruds"),)))
    async with server.database.transaction() as conn:
        assert await (await conn.execute("SELECT 1 FROM subscription_state")).fetchone() is None


async def test_what_the_client_may_no_longer_read_is_dropped_on_record(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    async with server.running():
        await _until_status(server, subscription_id, "active")
        async with server.database.transaction() as conn:
            await conn.execute(
                """UPDATE subscription_state SET owner = jsonb_set(owner, '{scopes}', '["system/Patient.r"]')"""
            )
        await server.put(_task("a"))
        await _until_cursors(server, (1, 1))
    assert _numbers(sink) == []
    [denied] = await server.audits("access-denied")
    assert denied["entity"][0]["what"] == {"reference": f"Subscription/{subscription_id}"}


async def test_a_subscription_ends_when_it_is_deleted_switched_off_or_over(server: Server, sink: Sink) -> None:
    deleted, switched_off, over = [await server.subscribe(_form(f"{sink.url}/{n}")) for n in range(3)]
    async with server.running():
        for subscription_id in (deleted, switched_off, over):
            await _until_status(server, subscription_id, "active")
        async with server.database.transaction() as conn:
            await resources.delete(conn, SYSTEM, "Subscription", deleted)
            await server.subscriptions.withdraw(conn, deleted)
            version = await resources.read(conn, SYSTEM, "Subscription", switched_off)
            off = await resources.put(conn, {**version.resource(), "status": "off"})
            await server.subscriptions.accept(conn, CLIENT, off.resource())
            await conn.execute("UPDATE subscription_state SET ends_at = now() WHERE id = %s", (over,))
        await server.put(_task("a"))
        await _until_status(server, over, "off")
        await asyncio.sleep(0.5)
    assert _numbers(sink) == []
    assert await server.resource_status(over) == "off"
    for subscription_id in (deleted, switched_off):
        assert (await server.status(subscription_id))["status"] == "off"


async def test_a_subscription_to_a_topic_that_is_no_longer_served_is_in_error(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    async with server.running():
        await _until_status(server, subscription_id, "active")
    await server.put(_task("a"))
    without = Subscriptions({}, ALLOWED, BASE)
    async with server.database.transaction() as conn:
        await events.sequence(conn)
        assert await without.match_events(conn, await events.after(conn, 0, 100)) == 0
        await without.end(conn)
    assert (await server.status(subscription_id))["status"] == "error"
    assert await server.resource_status(subscription_id) == "error"


async def test_what_happened_before_the_handshake_is_not_told(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url))
    await server.put(_task("before"))
    async with server.database.transaction() as conn:
        await events.sequence(conn)
        await server.subscriptions.activate(conn, subscription_id, start=1)
    await server.put(_task("after"))
    async with server.running():
        await _until_cursors(server, (1, 1))
    [received] = sink.received
    assert _told(received)["notification-event"][0]["focus"] == {"reference": f"{BASE}/Task/after"}


@pytest.mark.parametrize("principal", ["ehr", "ana"])
async def test_nothing_is_sent_for_who_is_shut_out(server: Server, sink: Sink, principal: str) -> None:
    wanted = registration.checked(name="EHR", kind="symmetric", scope="system/*.rs", grant_types=["client_credentials"])
    async with server.database.transaction() as conn:
        await clients.add(conn, "ehr", wanted)
        await accounts.add(conn, "ana", "Ana", ["administrator"])
    owner = replace(CLIENT, principal=principal, client_id="ehr")
    async with server.running():
        subscription_id = await server.subscribe(_form(sink.url), owner)
        await _until_status(server, subscription_id, "active")
        await server.put(_task("t1"))
        await _until_cursors(server, (1, 1))
        async with server.database.transaction() as conn:
            await (clients.disable(conn, "ehr") if principal == "ehr" else accounts.disable(conn, "ana"))
        await server.put(_task("t2"))
        await _until_cursors(server, (2, 2))
    assert _numbers(sink) == ["1"]
    assert len(await server.audits("access-denied")) == 1
