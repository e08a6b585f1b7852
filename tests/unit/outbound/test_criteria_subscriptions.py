"""R4's own Subscription, by a search: what its endpoint gets, with the same guarantees as topics give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden
from wetread.record import resources

from .conftest import Received, Sink
from .subscribing import Resource, Server, task, until, until_cursors, until_status


def _form(endpoint: str, criteria: str, **channel: Any) -> Resource:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "header": ["X-Own: 1"], **channel},
    }


async def test_with_a_payload_each_matching_version_is_an_update_at_the_endpoint_in_order(
    server: Server, sink: Sink
) -> None:
    form = _form(sink.url, "Task?status=requested,accepted&patient=p1", payload="application/fhir+json")
    subscription_id = await server.subscribe(form)
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(task("t1"), task("t1", "accepted"), task("t1", "completed"), task("t2", patient="p2"))
        await server.put(task("t1", "requested"))
        await until_cursors(server, (3, 3))
    assert [(r.method, r.path) for r in sink.received] == [("PUT", "/hook/Task/t1")] * 3
    assert [json.loads(r.body)["status"] for r in sink.received] == ["requested", "accepted", "requested"]
    assert [r.headers["idempotency-key"] for r in sink.received] == [f"{subscription_id}-{n}" for n in (1, 2, 3)]
    assert {(r.headers["content-type"], r.headers["x-own"]) for r in sink.received} == {("application/fhir+json", "1")}


async def test_without_a_payload_an_empty_post_says_that_something_matched(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(_form(sink.url, "Task?status=requested"))
    async with server.running():
        await until_status(server, subscription_id, "active")
        assert sink.received == []
        await server.put(task("t1"), task("t2"))
        await until_cursors(server, (2, 2))
    assert [(r.method, r.path, r.body) for r in sink.received] == [("POST", "/hook", b"")] * 2
    assert all("content-type" not in r.headers for r in sink.received)


async def test_a_matching_resource_that_is_deleted_is_not_told(server: Server, sink: Sink) -> None:
    await server.active(_form(sink.url, "Task", payload="application/fhir+json"))
    made = await server.happen(task("t1"))
    async with server.database.transaction() as conn:
        await resources.delete(conn, SYSTEM, "Task", "t1")
    assert (made, await server.happen()) == (1, 0)


async def test_what_fails_is_sent_again_before_what_comes_after(server: Server, sink: Sink) -> None:
    def once(received: Received) -> int:
        return 503 if len(sink.received) == 1 else 200

    sink.answer = once
    subscription_id = await server.subscribe(_form(sink.url, "Task?_id=t1,t2", payload="application/fhir+json"))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(task("t1"), task("t2"), task("t3"))
        await until(lambda: len(sink.received) == 3)
        await until_cursors(server, (2, 2))
    first, again, second = sink.received
    assert (first.path, first.body, first.headers["idempotency-key"]) == (
        again.path,
        again.body,
        again.headers["idempotency-key"],
    )
    assert second.path == "/hook/Task/t2"


async def test_a_client_subscribes_only_to_what_it_may_read(server: Server, sink: Sink) -> None:
    narrow = Reader("ehr", (Scope.parse("system/Patient.rs"), Scope.parse("system/Subscription.cud")))
    with pytest.raises(Forbidden):
        await server.subscribe(_form(sink.url, "Task?status=requested"), narrow)
