"""How much is read and sent at once, however large resources are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM
from wetread.outbound import notify
from wetread.outbound.notify import Matcher
from wetread.record import events
from wetread.record.events import Event
from wetread.record.subscriptions import questions, rows
from wetread.record.subscriptions.due import Slice
from wetread.record.subscriptions.rows import State, state_of
from wetread.store.database import Connection

from .conftest import Sink
from .subscribing import BASE, Server, form, numbers, task, told_by, until_cursors

KIB = 1024
AI_OBSERVATION = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
AIAST = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}


def _large(task_id: str, size: int) -> dict[str, Any]:
    return {**task(task_id), "description": "x" * size}


async def _states(server: Server, ids: Sequence[str]) -> list[State]:
    async with server.database.transaction() as conn:
        return [state for each in ids if (state := await state_of(conn, each)) is not None]


async def _next(server: Server, subscription_id: str) -> Slice:
    [state] = await _states(server, [subscription_id])
    async with server.database.transaction() as conn:
        found = await server.subscriptions.next_slice(conn, state)
    assert found is not None
    return found


def _told(due: Slice) -> list[int]:
    return [event.number for delivery in due.deliveries for event in delivery.events]


async def test_a_slice_is_bounded_by_its_bytes(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url, content="full-resource", most=100))
    await server.happen(*(_large(f"t{n}", 300 * KIB) for n in range(5)))
    found = await _next(server, subscription_id)
    assert (_told(found), found.through) == ([1, 2], 2)
    async with server.delivering():
        await until_cursors(server, (5, 5))
    assert numbers(sink) == ["1", "2", "3", "4", "5"]
    assert all(len(received.body) < 1024 * KIB for received in sink.received)


async def test_one_that_is_larger_goes_alone(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url, content="full-resource", most=100))
    await server.happen(task("a"), _large("b", 2048 * KIB), task("c"), task("d"))
    assert _told(await _next(server, subscription_id)) == [1]
    async with server.delivering():
        await until_cursors(server, (4, 4))
    told = [[e["event-number"] for e in told_by(received)["notification-event"]] for received in sink.received]
    assert told == [["1"], ["2"], ["3", "4"]]


async def test_where_only_numbers_and_references_go_out_sizes_do_not_matter(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url, most=100))
    await server.happen(*(_large(f"t{n}", 300 * KIB) for n in range(5)))
    assert _told(await _next(server, subscription_id)) == [1, 2, 3, 4, 5]


async def test_what_is_read_together_is_bounded_and_the_others_are_read_alone(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_MOST_BYTES_TOGETHER", 1024 * KIB)
    ids = [await server.active(form(f"{sink.url}/{n}", content="full-resource", most=100)) for n in range(6)]
    await server.happen(*(_large(f"t{n}", 300 * KIB) for n in range(3)))
    states = await _states(server, ids)
    async with server.database.transaction() as conn:
        found = await server.subscriptions.next_slices(conn, states)
    bodies = [event.body for each in found.values() for delivery in each.deliveries for event in delivery.events]
    assert 0 < sum(map(len, bodies)) <= 1024 * KIB
    assert all(_told(each) in ([1], [1, 2]) and each.through == _told(each)[-1] for each in found.values())
    async with server.delivering():
        await until_cursors(server, *[(3, 3)] * 6)
    for n in range(6):
        assert numbers(sink, f"/{n}") == ["1", "2", "3"]


async def test_a_notification_is_bounded_with_what_goes_along(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_BYTES", 40 * KIB)
    patients = [{"resourceType": "Patient", "id": f"p{n}", "name": [{"text": "x" * 15 * KIB}]} for n in range(4)]
    await server.put(*patients, {"resourceType": "Device", "id": "d1"})
    await server.active({**form(sink.url, content="full-resource", most=10), "criteria": AI_OBSERVATION})
    await server.happen(
        *(
            {
                "resourceType": "Observation",
                "id": f"o{n}",
                "meta": {"security": [AIAST]},
                "status": "final",
                "code": {"text": "Pneumonia"},
                "subject": {"reference": f"Patient/p{n}"},
                "device": {"reference": "Device/d1"},
            }
            for n in range(4)
        )
    )
    async with server.delivering():
        await until_cursors(server, (4, 4))
    told = [[e["event-number"] for e in told_by(received)["notification-event"]] for received in sink.received]
    assert told == [["1", "2"], ["3", "4"]]
    for received in sink.received:
        along = [e["fullUrl"] for e in json.loads(received.body)["entry"][1:] if e["request"]["method"] == "GET"]
        assert sum("Patient/" in each for each in along) == 2


async def test_events_that_are_asked_for_are_read_within_the_same_bound(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription_id = await server.active(form(sink.url, content="full-resource"))
    await server.happen(*(_large(f"t{n}", 300 * KIB) for n in range(5)))
    read: list[int] = []
    numbered = rows.numbered

    async def watched(*args: Any, **more: Any) -> Any:
        found = await numbered(*args, **more)
        read.append(sum(len(event.body) for event, _ in found))
        return found

    monkeypatch.setattr(rows, "numbered", watched)
    async with server.database.transaction() as conn:
        told = await questions.events(conn, SYSTEM, BASE, subscription_id)
    assert [e["resource"]["id"] for e in json.loads(told.body)["entry"][1:]] == [f"t{n}" for n in range(5)]
    assert max(read) <= rows.MOST_BYTES


async def test_what_is_matched_at_once_is_bounded_by_its_bytes(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_MOST_BYTES", 700 * KIB)
    subscription_id = await server.active(form(sink.url))
    large = [_large("t0", 2048 * KIB), *(_large(f"t{n}", 300 * KIB) for n in range(1, 5))]
    await server.put(*large)
    batches: list[list[str]] = []
    bodies_of = rows.bodies_of

    async def watched(conn: Connection, found: Sequence[Event]) -> Any:
        batches.append([event.resource_id for event in found if event.resource_type == "Task"])
        return await bodies_of(conn, found)

    monkeypatch.setattr(rows, "bodies_of", watched)
    async with server.database.transaction() as conn:
        await events.settle(conn)
    stop = asyncio.Event()
    matching = asyncio.create_task(Matcher(server.database, server.subscriptions).run(stop))
    async with asyncio.timeout(20):
        while (await server.cursors())[0][0] < 5:  # noqa: ASYNC110  (the database is what is waited for)
            await asyncio.sleep(0.02)
    stop.set()
    await matching
    assert [batch for batch in batches if batch] == [["t0"], ["t1", "t2"], ["t3", "t4"]]
    async with server.database.transaction() as conn:
        told = await rows.numbered(conn, subscription_id, 1, None, limit=10, with_bodies=False)
    assert [event.resource_id for event, _ in told] == [f"t{n}" for n in range(5)]
