"""What waits when a client asks for something else without switching its subscription off first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.record import resources
from wetread.record.subscriptions import questions

from .conftest import Sink
from .subscribing import BASE, CLIENT, Server, form, numbers, task, told_by, until, until_cursors

ORDERS = "https://wetread.org/fhir/SubscriptionTopic/order-received"


async def _change(server: Server, subscription_id: str, asked: dict[str, Any], reader: Reader = CLIENT) -> None:
    async with server.database.transaction() as conn:
        version = await resources.put(conn, {**asked, "id": subscription_id})
        await server.subscriptions.accept(conn, reader, version.resource())


def _by_criteria(endpoint: str, criteria: str) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"},
    }


def _kinds(sink: Sink) -> list[str]:
    return [told_by(received)["type"] for received in sink.received]


async def test_other_filters_are_for_what_happens_then_and_what_waits_is_told(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url, filters=("Task?patient=Patient/p1",)))
    await server.happen(task("a", patient="p1"), task("b", patient="p2"))
    asked = form(f"{sink.url}/new", content="full-resource", filters=("Task?patient=Patient/p2",))
    await _change(server, subscription_id, asked)
    await server.happen(task("c", patient="p1"), task("d", patient="p2"))
    async with server.delivering():
        await until_cursors(server, (2, 2))
    assert all(received.path.endswith("/new") for received in sink.received)
    assert _kinds(sink) == ["handshake", "event-notification", "event-notification"]
    told = [json.loads(received.body)["entry"][1]["resource"]["id"] for received in sink.received[1:]]
    assert told == ["a", "d"]


async def test_what_its_owner_then_may_not_read_is_dropped_on_record(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url, content="full-resource"))
    await server.happen(task("a", patient="p1"), task("b", patient="p2"))
    scopes = ("system/Task.rs?patient=Patient/p2", "system/Subscription.cud")
    narrowed = Reader("ehr", tuple(Scope.parse(scope) for scope in scopes))
    await _change(server, subscription_id, form(sink.url, content="full-resource", most=2), narrowed)
    async with server.delivering():
        await until_cursors(server, (2, 2))
    assert numbers(sink) == ["2"]
    [dropped] = await server.audits("access-denied")
    assert {entity["what"]["reference"] for entity in dropped["entity"]} >= {"Task/a"}


class TestAnotherTopic:
    """What waits is of another topic, and not told: it stays to be asked for, and no number is given twice."""

    @pytest.fixture
    async def subscription_id(self, server: Server, sink: Sink) -> str:
        subscription_id = await server.active(form(sink.url, content="full-resource"))
        await server.happen(task("a"), task("b"))
        return subscription_id

    async def test_by_its_url(self, server: Server, sink: Sink, subscription_id: str) -> None:
        await _change(server, subscription_id, {**form(sink.url, content="full-resource"), "criteria": ORDERS})
        async with server.delivering():
            await until(lambda: _kinds(sink) == ["handshake"])
            assert told_by(sink.received[0])["events-since-subscription-start"] == "2"
            await server.happen(task("c"), _order("o"))
            await until_cursors(server, (3, 3))
        assert numbers(sink) == ["3"]
        async with server.database.transaction() as conn:
            asked = json.loads((await questions.events(conn, SYSTEM, BASE, subscription_id, content="id-only")).body)
        events = [p for p in asked["entry"][0]["resource"]["parameter"] if p["name"] == "notification-event"]
        assert len(events) == 3

    async def test_by_criteria(self, server: Server, sink: Sink, subscription_id: str) -> None:
        async with server.database.transaction() as conn:
            await resources.delete(conn, SYSTEM, "Task", "a")
        await server.happen()
        await _change(server, subscription_id, _by_criteria(sink.url, "Task?status=requested"))
        (counted, _), *_ = await server.cursors()
        async with server.delivering():
            await server.happen(task("c"))
            await until_cursors(server, (counted + 1, counted + 1))
        assert [(received.method, received.path) for received in sink.received] == [("PUT", "/hook/Task/c")]

    async def test_but_criteria_in_the_same_type_are_filters(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(_by_criteria(sink.url, "Task?status=requested"))
        await server.happen(task("a"))
        await _change(server, subscription_id, _by_criteria(sink.url, "Task?status=completed"))
        async with server.delivering():
            await server.happen(task("b", status="completed"))
            await until_cursors(server, (2, 2))
        assert [received.path for received in sink.received] == ["/hook/Task/a", "/hook/Task/b"]


def _order(order_id: str) -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "id": order_id,
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/p1"},
    }
