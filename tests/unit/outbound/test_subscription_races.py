"""What must not silence a subscription: changes of it, of its topic and of its place in the queue, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wetread.domain.reader import Reader, Scope
from wetread.errors import Conflict, OutOfSpace, StoreUnavailable
from wetread.outbound.settling import Settler
from wetread.record import events, resources
from wetread.record.subscriptions import claims, switching
from wetread.record.subscriptions.claims import Done, Failure, Patience
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.due import next_slice
from wetread.record.subscriptions.rows import as_created, state_of
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Connection

from .conftest import Sink
from .subscribing import ALLOWED, BASE, CLIENT, TOPIC, TOPICS, Server, form, numbers, task, until_cursors, until_status

OPERATOR = Reader("operator:ann", roles=frozenset({"engineer"}))


async def _change(server: Server, subscription_id: str, form: dict[str, Any], reader: Reader = CLIENT) -> None:
    async with server.database.transaction() as conn:
        version = await resources.put(conn, {**form, "id": subscription_id})
        await server.subscriptions.accept(conn, reader, version.resource())


def _of_websocket() -> dict[str, Any]:
    made = form("")
    del made["channel"]["endpoint"], made["channel"]["header"], made["channel"]["extension"]
    made["channel"]["type"] = "websocket"
    return made


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


async def test_who_is_let_go_of_while_something_happens_is_due(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url))
    async with claims.enlisted(server.database) as (conn, worker):
        await claims.claim(conn, worker, 1, 1)
        async with server.database.transaction() as matcher:
            await matcher.execute("UPDATE subscription_state SET events_since_start = 1")
            releasing = asyncio.create_task(claims.release(conn, worker, [subscription_id]))
            await asyncio.sleep(0.2)
        await releasing
    assert await _one(server, "worker, due_at IS NULL") == (None, False)


async def test_a_rest_hook_that_waits_and_becomes_a_websocket_is_left_to_its_sockets(
    server: Server, sink: Sink
) -> None:
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("a"))
    await _change(server, subscription_id, _of_websocket())
    async with server.delivering():
        await asyncio.sleep(0.3)
    assert await _one(server, "status, error") == ("requested", "")


@pytest.mark.parametrize("is_dead", [True, False])
async def test_so_is_one_that_is_in_the_hands_of_a_deliverer_when_it_becomes_a_websocket(
    server: Server, sink: Sink, is_dead: bool
) -> None:
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("a"))
    async with claims.enlisted(server.database) as (conn, worker):
        [state] = await claims.claim(conn, worker, 1, 1)
        await _change(server, subscription_id, _of_websocket())
        if not is_dead:
            await claims.put_off(conn, worker, state, 0, Failure("no answer", is_refusal=False), Patience())
    async with server.delivering():
        await asyncio.sleep(1.5 if is_dead else 0.3)
    assert await _one(server, "status, due_at, worker") == ("requested", None, None)


class _Flawed:
    """Sends, and meets with a fault of its own at one event."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.sent: list[int] = []

    async def send(self, delivery: Delivery) -> None:
        for event in delivery.events:
            if event.number == self.at:
                raise KeyError(event.number)
            self.sent.append(event.number)


async def test_a_fault_of_ours_does_not_send_again_what_went_out_before_it(server: Server, sink: Sink) -> None:
    flawed = _Flawed(3)
    server.senders["rest-hook"] = flawed
    await server.active(form(sink.url, content="full-resource"))
    await server.happen(*(task(f"t{n}") for n in range(4)))
    async with server.delivering():
        async with asyncio.timeout(10):
            while (await _one(server, "failures"))[0] < 2:  # noqa: ASYNC110  (the database)
                await asyncio.sleep(0.05)
        assert flawed.sent == [1, 2]
        assert (await _one(server, "delivered"))[0] == 2
        assert len(await server.audits("disclosure")) == 1
        flawed.at = 0
        await until_cursors(server, (4, 4))
    assert flawed.sent == [1, 2, 3, 4]


async def test_a_fault_of_ours_does_not_last_for_ever(server: Server, sink: Sink) -> None:
    server.senders["rest-hook"] = _Flawed(1)
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("a"))
    async with server.delivering(patience=Patience(no_answer=timedelta(seconds=0.1))):
        told = await until_status(server, subscription_id, "error")
    assert told["error"]["text"] == "the server could not make the notification"


async def test_what_is_let_go_of_while_others_are_is_not_kept_in_hand(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two turns lose the database, the second while the first is being released."""
    await server.active(form(f"{sink.url}/1"))
    await server.active(form(f"{sink.url}/2"))
    settle, release = Settler.settle, claims.release
    lost: list[str] = []
    is_releasing = asyncio.Event()

    async def fails_once(self: Settler, done: Done, told: Any) -> Any:
        if done.subscription_id in lost:
            return await settle(self, done, told)
        lost.append(done.subscription_id)
        if len(lost) == 2:
            await is_releasing.wait()
        raise StoreUnavailable("away")

    async def slowly(conn: Connection, worker: int, ids: Sequence[str]) -> None:
        await release(conn, worker, ids)
        is_releasing.set()
        await asyncio.sleep(0.1)

    monkeypatch.setattr(Settler, "settle", fails_once)
    monkeypatch.setattr(claims, "release", slowly)
    await server.happen(task("a"))
    async with server.delivering():
        await until_cursors(server, (1, 1), (1, 1))


async def test_a_database_that_is_full_for_a_moment_keeps_nothing_in_hand(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.active(form(sink.url))
    settle, put_off, claim = Settler.settle, claims.put_off, claims.claim
    full = {"settle", "put_off", "claim"}

    def once(name: str, work: Any) -> Any:
        async def tried(*args: Any) -> Any:
            if name in full and (name != "claim" or len(full) < 3):
                full.remove(name)
                raise OutOfSpace("full")
            return await work(*args)

        return tried

    monkeypatch.setattr(Settler, "settle", once("settle", settle))
    monkeypatch.setattr(claims, "put_off", once("put_off", put_off))
    monkeypatch.setattr(claims, "claim", once("claim", claim))
    await server.happen(task("a"))
    async with server.delivering():
        await until_cursors(server, (1, 1))
    assert "claim" not in full


async def test_a_database_that_is_full_for_a_moment_ends_neither_sequencer_nor_matcher(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.active(form(sink.url))
    full: list[str] = []

    def once(work: Any) -> Any:
        async def tried(*args: Any) -> Any:
            if work.__name__ not in full:
                full.append(work.__name__)
                raise OutOfSpace("full")
            return await work(*args)

        return tried

    monkeypatch.setattr(events, "sequence", once(events.sequence))
    monkeypatch.setattr(Subscriptions, "match_events", once(Subscriptions.match_events))
    async with server.running():
        await server.put(task("a"))
        await until_cursors(server, (1, 1))
    assert full == ["sequence", "match_events"]


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
                await server.subscriptions.end(other, subscription_id)

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
