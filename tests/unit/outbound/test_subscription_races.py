"""What must not silence a subscription: changes of it, of its topic and of its place in the queue, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wetread.domain.reader import Reader, Scope
from wetread.errors import Conflict
from wetread.record import resources
from wetread.record.subscriptions import switching
from wetread.record.subscriptions.due import next_slice
from wetread.record.subscriptions.rows import as_created, state_of
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Database

from .conftest import Sink
from .subscribing import ALLOWED, BASE, CLIENT, TOPIC, TOPICS, Server, form, numbers, task, until_cursors

OPERATOR = Reader("operator:ann", roles=frozenset({"engineer"}))


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    server = Server(database)
    yield server
    await server.peers.close()


async def _change(server: Server, subscription_id: str, form: dict[str, Any], reader: Reader = CLIENT) -> None:
    async with server.database.transaction() as conn:
        version = await resources.put(conn, {**form, "id": subscription_id})
        await server.subscriptions.accept(conn, reader, version.resource())


async def _one(server: Server, columns: str) -> tuple[Any, ...]:
    async with server.database.transaction() as conn:
        row = await (await conn.execute(f"SELECT {columns} FROM subscription_state".encode())).fetchone()
    assert row is not None
    return row


async def test_one_that_is_changed_while_all_are_indexed_stands_where_it_was_put(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription_id = await server.active(form(sink.url, filters=("Task?patient=Patient/p1",)))
    changing: list[asyncio.Task[None]] = []

    async with server.database.transaction() as conn:
        execute = conn.execute

        async def late(query: Any, *args: Any, **more: Any) -> Any:
            if not changing and b"subscription_key" in (query if isinstance(query, bytes) else str(query).encode()):
                changed = form(sink.url, filters=("Task?patient=Patient/p2",))
                changing.append(asyncio.create_task(_change(server, subscription_id, changed)))
                await asyncio.wait(changing, timeout=0.5)
            return await execute(query, *args, **more)

        monkeypatch.setattr(conn, "execute", late)
        await server.subscriptions.index_all(conn)
    await changing[0]
    async with server.database.transaction() as conn:
        assert await server.subscriptions.activate(conn, subscription_id, 2)
    assert await server.happen(task("a", patient="p2")) == 1


async def test_a_topic_that_lost_a_filter_still_fires_for_who_filters_by_it(server: Server, sink: Sink) -> None:
    await server.active(form(sink.url, filters=("Task?patient=Patient/p1",)))
    topic = replace(TOPICS[TOPIC], filters={})
    server.subscriptions = Subscriptions({TOPIC: topic}, ALLOWED, BASE)
    async with server.database.transaction() as conn:
        await server.subscriptions.index_all(conn)
    assert await server.happen(task("a", patient="p1"), task("b", patient="p2")) == 1


@pytest.mark.parametrize("is_served", [True, False])
async def test_what_a_narrowed_owner_may_see_is_not_dropped_since_its_topic_changed(
    server: Server, sink: Sink, is_served: bool
) -> None:
    scopes = ("system/Task.rs?patient=Patient/p1", "system/Observation.rs", "system/*.cud")
    owner = Reader("ehr", tuple(Scope.parse(scope) for scope in scopes))
    subscription_id = await server.active(form(sink.url), owner)
    assert await server.happen(task("a")) == 1
    topic = TOPICS[TOPIC]
    other = replace(topic, triggers=tuple(replace(each, resource_type="Observation") for each in topic.triggers))
    async with server.database.transaction() as conn:
        state = await state_of(conn, subscription_id)
        assert state is not None
        due = await next_slice(conn, state, as_created, other if is_served else None)
    assert due is not None
    assert [event.number for delivery in due.deliveries for event in delivery.events] == [1]
    assert not due.dropped


async def test_who_is_due_keeps_its_place_when_more_happens(server: Server, sink: Sink) -> None:
    await server.active(form(sink.url))
    await server.happen(task("a"))
    (first,) = await _one(server, "due_at")
    await server.happen(task("b"))
    assert await _one(server, "due_at, events_since_start") == (first, 2)


async def test_a_rest_hook_that_waits_and_becomes_a_websocket_is_left_to_its_sockets(
    server: Server, sink: Sink
) -> None:
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("a"))
    changed = form("")
    del changed["channel"]["endpoint"], changed["channel"]["header"], changed["channel"]["extension"]
    changed["channel"]["type"] = "websocket"
    await _change(server, subscription_id, changed)
    async with server.delivering():
        await asyncio.sleep(0.3)
    assert await _one(server, "status, error") == ("requested", "")


async def test_an_end_that_is_put_off_at_the_last_moment_counts(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    subscription_id = await server.active({**form(sink.url), "end": soon})
    await asyncio.sleep(0.3)
    later = {**form(sink.url), "end": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
    async with server.database.transaction() as conn:
        version = await resources.put(conn, {**later, "id": subscription_id})

        async def end() -> None:
            async with server.database.transaction() as other:
                await server.subscriptions.end(other)

        ending = asyncio.create_task(end())
        await asyncio.sleep(0.2)
        await server.subscriptions.accept(conn, CLIENT, version.resource())
    await ending
    assert (await _one(server, "status"))[0] == "requested"


async def test_what_its_client_switched_off_an_operator_does_not_ask_for(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url))
    await _change(server, subscription_id, {**form(sink.url), "status": "off"})
    with pytest.raises(Conflict):
        async with server.database.transaction() as conn:
            await switching.ask_again(conn, OPERATOR, subscription_id)


async def test_after_off_what_waited_before_is_not_told(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("a"))
    await _change(server, subscription_id, {**form(sink.url), "status": "off"})
    await _change(server, subscription_id, form(sink.url))
    async with server.running():
        await until_cursors(server, (1, 1))
        async with asyncio.timeout(10):
            while (await _one(server, "status"))[0] != "active":  # noqa: ASYNC110  (the database)
                await asyncio.sleep(0.05)
        await server.put(task("b"))
        await until_cursors(server, (2, 2))
    assert numbers(sink) == ["2"]
