"""From a resource version to the subscriber's door: complete, in order, and the same bytes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
from fhir.resources.R4B.bundle import Bundle

from wetread.access.clients import clients, registration
from wetread.access.people import accounts
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden, StoreUnavailable
from wetread.outbound import deliverer
from wetread.outbound.sender import Sender
from wetread.record import events, resources
from wetread.record.subscriptions import questions, subscriptions
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.subscriptions import Subscriptions

from .conftest import Received, Sink
from .subscribing import (
    ALLOWED,
    BASE,
    CLIENT,
    TOPIC,
    Server,
    form,
    numbers,
    parameters,
    task,
    told_by,
    until,
    until_cursors,
    until_status,
)


async def test_a_subscription_is_requested_shakes_hands_and_is_active(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    assert (await server.status(subscription_id))["status"] == "requested"
    assert await server.resource_status(subscription_id) == "requested"
    async with server.running():
        await until_status(server, subscription_id, "active")
    assert await server.resource_status(subscription_id) == "active"
    [handshake] = sink.received
    told = told_by(handshake)
    assert (told["type"], told["status"], told["events-since-subscription-start"]) == ("handshake", "requested", "0")
    assert handshake.headers["content-type"] == "application/fhir+json"
    assert handshake.headers["authorization"] == "Bearer secret"
    assert json.loads(handshake.body)["entry"][0]["request"]["url"].endswith(f"Subscription/{subscription_id}/$status")


@pytest.mark.parametrize("answer", [404, 503, 0])
async def test_any_failure_of_the_handshake_is_the_error_state(answer: int, server: Server, sink: Sink) -> None:
    sink.answer = lambda received: answer
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        told = await until_status(server, subscription_id, "error")
    assert "endpoint" in told["error"]["text"]
    assert await server.resource_status(subscription_id) == "error"
    [failed] = await server.audits("delivery-failed")
    assert failed["outcome"] == "8"


async def test_each_payload_content_tells_as_much_as_was_asked(server: Server, sink: Sink) -> None:
    contents = ("empty", "id-only", "full-resource")
    ids = [await server.subscribe(form(f"{sink.url}/{content}", content=content)) for content in contents]
    weighed = {**task("t1"), "restriction": {"repetitions": 2}, "description": "1.10 mL \u00e4"}
    async with server.running():
        for subscription_id in ids:
            await until_status(server, subscription_id, "active")
        await server.put(weighed)
        await until(lambda: len(sink.received) == 6)
    bodies = {r.path.rpartition("/")[2]: r for r in sink.received if told_by(r)["type"] == "event-notification"}
    empty, id_only, full = (told_by(bodies[content]) for content in ("empty", "id-only", "full-resource"))
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
    filters = ("Task?patient=Patient/p1", "Task.status=requested,completed")
    subscription_id = await server.subscribe(form(sink.url, filters=filters))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(
            task("a"),
            task("other", patient="p2"),
            task("a", "accepted"),
            {**task("a", "accepted"), "description": "no change of status"},
            task("a", "completed"),
        )
        await until(lambda: len(numbers(sink)) == 2)
        await server.put(task("last"))
        await until(lambda: len(numbers(sink)) == 3)
    assert numbers(sink) == ["1", "2", "3"]
    focus = [told_by(r)["notification-event"][0]["focus"]["reference"] for r in sink.received[1:]]
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
    subscription_id = await server.subscribe(form(sink.url, content="full-resource"))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await asyncio.gather(*(server.put(task(f"t{n}")) for n in range(5)))
        await until(lambda: len(set(numbers(sink))) == 5)
        await until_cursors(server, (5, 5))
    arrivals = numbers(sink)
    accepted = [n for place, n in enumerate(arrivals) if place + 1 == len(arrivals) or arrivals[place + 1] != n]
    assert accepted == [str(n) for n in range(1, 6)]
    assert len(arrivals) > 5, "the peer never refused: nothing was tried again"
    bodies: dict[str, set[bytes]] = {}
    for received in sink.received[1:]:
        bodies.setdefault(received.headers["idempotency-key"], set()).add(received.body)
    assert all(len(same) == 1 for same in bodies.values())
    assert (await server.status(subscription_id))["events-since-subscription-start"] == "5"


async def test_a_kill_between_matching_and_its_commit_loses_and_doubles_nothing(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
    await server.put(task("a"), task("b"))
    async with server.database.transaction() as conn:
        await events.sequence(conn)
    with contextlib.suppress(ZeroDivisionError):
        async with server.database.transaction() as conn:
            found = await events.after(conn, await events.cursor(conn, subscriptions.CURSOR), 100)
            assert await server.subscriptions.match_events(conn, found) == 2
            raise ZeroDivisionError
    async with server.running():
        await until(lambda: len(numbers(sink)) == 2)
        await asyncio.sleep(0.3)
    assert numbers(sink) == ["1", "2"]


async def test_a_kill_between_the_post_and_its_commit_sends_the_same_bytes_again(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url, content="full-resource"))
    async with server.running():
        await until_status(server, subscription_id, "active")
    posts = server.senders["rest-hook"]
    server.senders["rest-hook"] = _DyingOnce(posts)
    async with server.running():
        await server.put(task("a"))
        await until_cursors(server, (1, 1))
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
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(task("a", patient="p7"))
        await until_cursors(server, (1, 1))
    [disclosure] = await server.audits("disclosure")
    assert disclosure["entity"][0]["what"] == {"reference": "Patient/p7"}
    assert disclosure["entity"][1]["what"] == {"reference": "Task/a"}
    assert disclosure["agent"][0]["network"] == {"address": sink.url, "type": "5"}
    assert "secret" not in json.dumps(disclosure)


async def test_after_a_permanent_refusal_events_are_counted_and_sent_once_the_client_asks_again(
    server: Server, sink: Sink
) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
        sink.answer = lambda received: 410
        await server.put(task("a"))
        await until_status(server, subscription_id, "error")
        await server.put(task("b"))
        await until_cursors(server, (2, 0))
        assert (await server.status(subscription_id))["events-since-subscription-start"] == "2"
        sink.answer = lambda received: 200
        sink.received.clear()
        async with server.database.transaction() as conn:
            version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
            again = await resources.put(conn, {**version.resource(), "status": "requested"})
            await server.subscriptions.accept(conn, CLIENT, again.resource())
        await until(lambda: len(numbers(sink)) == 2)
    assert [told_by(r)["type"] for r in sink.received] == ["handshake", "event-notification", "event-notification"]
    assert numbers(sink) == ["1", "2"]
    assert await server.resource_status(subscription_id) == "active"


async def test_events_can_be_asked_for_again_by_number(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url, content="full-resource"))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(*(task(f"t{n}") for n in range(4)))
        await until(lambda: len(numbers(sink)) == 4)
    async with server.database.transaction() as conn:
        bundle = json.loads((await questions.events(conn, CLIENT, BASE, subscription_id, 2, 3)).body)
        no_tasks = Reader("other", (Scope.parse("system/Subscription.r"),))
        bare = json.loads((await questions.events(conn, no_tasks, BASE, subscription_id)).body)
        with pytest.raises(Forbidden):
            await questions.events(conn, Reader("nobody"), BASE, subscription_id)
    Bundle.model_validate(bundle)
    told = parameters(bundle["entry"][0]["resource"])
    assert (told["type"], told["events-since-subscription-start"]) == ("query-event", "4")
    assert [event["event-number"] for event in told["notification-event"]] == ["2", "3"]
    assert [entry["resource"]["id"] for entry in bundle["entry"][1:]] == ["t1", "t2"]
    assert len(bare["entry"]) == 1


async def test_a_client_that_may_not_read_what_the_topic_tells_of_cannot_subscribe(server: Server, sink: Sink) -> None:
    with pytest.raises(Forbidden):
        await server.subscribe(form(sink.url), Reader("app", (Scope.parse("system/Subscription.cruds"),)))
    async with server.database.transaction() as conn:
        assert await (await conn.execute("SELECT 1 FROM subscription_state")).fetchone() is None


async def test_what_the_client_may_no_longer_read_is_dropped_on_record(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
        async with server.database.transaction() as conn:
            await conn.execute(
                """UPDATE subscription_state SET owner = jsonb_set(owner, '{scopes}', '["system/Patient.r"]')"""
            )
        await server.put(task("a"))
        await until_cursors(server, (1, 1))
    assert numbers(sink) == []
    [denied] = await server.audits("access-denied")
    assert denied["entity"][0]["what"] == {"reference": f"Subscription/{subscription_id}"}


async def test_a_subscription_ends_when_it_is_deleted_switched_off_or_over(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer, "_UPKEEP_S", 0.1)
    deleted, switched_off, over = [await server.subscribe(form(f"{sink.url}/{n}")) for n in range(3)]
    async with server.running():
        for subscription_id in (deleted, switched_off, over):
            await until_status(server, subscription_id, "active")
        async with server.database.transaction() as conn:
            await resources.delete(conn, SYSTEM, "Subscription", deleted)
            await server.subscriptions.withdraw(conn, deleted)
            version = await resources.read(conn, SYSTEM, "Subscription", switched_off)
            off = await resources.put(conn, {**version.resource(), "status": "off"})
            await server.subscriptions.accept(conn, CLIENT, off.resource())
            await conn.execute("UPDATE subscription_state SET ends_at = now() WHERE id = %s", (over,))
        await server.put(task("a"))
        await until_status(server, over, "off")
        await asyncio.sleep(0.5)
    assert numbers(sink) == []
    assert await server.resource_status(over) == "off"
    async with server.database.transaction() as conn:
        found = await conn.execute("SELECT status FROM subscription_state")
        assert await found.fetchall() == [("off",)] * 3


async def test_a_subscription_to_a_topic_that_is_no_longer_served_is_in_error(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
    await server.put(task("a"))
    without = Subscriptions({}, ALLOWED, BASE)
    async with server.database.transaction() as conn:
        await events.sequence(conn)
        assert await without.match_events(conn, await events.after(conn, 0, 100)) == 0
        assert await without.over(conn) == [subscription_id]
        await without.end(conn, subscription_id)
    assert (await server.status(subscription_id))["status"] == "error"
    assert await server.resource_status(subscription_id) == "error"


async def test_what_happened_before_the_handshake_is_not_told(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    await server.put(task("before"))
    async with server.database.transaction() as conn:
        await events.sequence(conn)
        await server.subscriptions.activate(conn, subscription_id, start=1)
    await server.put(task("after"))
    async with server.running():
        await until_cursors(server, (1, 1))
    [received] = sink.received
    assert told_by(received)["notification-event"][0]["focus"] == {"reference": f"{BASE}/Task/after"}


@pytest.mark.parametrize("principal", ["ehr", "ana"])
async def test_nothing_is_sent_for_who_is_shut_out(server: Server, sink: Sink, principal: str) -> None:
    wanted = registration.checked(name="EHR", kind="symmetric", scope="system/*.rs", grant_types=["client_credentials"])
    async with server.database.transaction() as conn:
        await clients.add(conn, "ehr", wanted)
        await accounts.add(conn, "ana", "Ana", ["administrator"])
    owner = replace(CLIENT, principal=principal, client_id="ehr")
    async with server.running():
        subscription_id = await server.subscribe(form(sink.url), owner)
        await until_status(server, subscription_id, "active")
        await server.put(task("t1"))
        await until_cursors(server, (1, 1))
        async with server.database.transaction() as conn:
            await (clients.disable(conn, "ehr") if principal == "ehr" else accounts.disable(conn, "ana"))
        await server.put(task("t2"))
        told = await until_status(server, subscription_id, "error")
    assert told["error"]["text"] == "the owner of the subscription has no access any more"
    assert numbers(sink) == ["1"]
    assert await server.cursors() == [(2, 1)]
    assert len(await server.audits("delivery-failed")) == 1
    assert await server.audits("access-denied") == []
