"""An operator switches a subscription off, or asks for it again: what then goes out, and what does not."""

from __future__ import annotations

from wetread.domain.reader import Reader
from wetread.record.subscriptions import switching

from .conftest import Sink
from .subscribing import Server, form, numbers, task, told_by, until, until_cursors, until_status

OPERATOR = Reader("operator:ann", roles=frozenset({"engineer"}))


async def ask_again(server: Server, subscription_id: str) -> None:
    async with server.database.transaction() as conn:
        await switching.ask_again(conn, OPERATOR, subscription_id)


async def switch_off(server: Server, subscription_id: str) -> None:
    async with server.database.transaction() as conn:
        await switching.switch_off(conn, OPERATOR, subscription_id)


async def test_asked_again_after_an_error_it_shakes_hands_and_gets_everything_in_order(
    server: Server, sink: Sink
) -> None:
    sink.answer = lambda received: 410 if told_by(received)["type"] == "event-notification" else 200
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(task("t1"))
        await until_status(server, subscription_id, "error")
        await server.put(task("t2"), task("t3"))
        await until_cursors(server, (3, 0))
        sink.answer = lambda received: 200
        sink.received.clear()
        await ask_again(server, subscription_id)
        await until_cursors(server, (3, 3))
    assert [told_by(received)["type"] for received in sink.received] == ["handshake", *["event-notification"] * 3]
    assert numbers(sink) == ["1", "2", "3"]
    assert (await server.status(subscription_id))["status"] == "active"
    assert await server.resource_status(subscription_id) == "active"


async def test_one_that_waits_between_attempts_is_sent_to_at_once(server: Server, sink: Sink) -> None:
    sink.answer = lambda received: 503 if told_by(received)["type"] == "event-notification" else 200
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("t1"))
    async with server.delivering():
        await until(lambda: len(sink.received) >= 2)
        async with server.database.transaction() as conn:
            await conn.execute("UPDATE subscription_state SET due_at = now() + interval '9 min' WHERE worker IS NULL")
        sink.answer = lambda received: 200
        await ask_again(server, subscription_id)
        await until_cursors(server, (1, 1))
    assert (await server.status(subscription_id))["status"] == "active"


async def test_off_is_off_and_after_it_only_what_happens_from_then_on_is_told(server: Server, sink: Sink) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(task("t1"))
        await until_cursors(server, (1, 1))
        await switch_off(server, subscription_id)
        assert await server.resource_status(subscription_id) == "off"
        await server.put(task("t2"))
        await ask_again(server, subscription_id)
        await until_status(server, subscription_id, "active")
        await server.put(task("t3"))
        await until_cursors(server, (2, 2))
    told = [told_by(received) for received in sink.received]
    assert [one["type"] for one in told] == ["handshake", "event-notification", "handshake", "event-notification"]
    assert told[-1]["notification-event"][0]["focus"]["reference"].endswith("Task/t3")
