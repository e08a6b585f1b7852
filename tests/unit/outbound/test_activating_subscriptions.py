"""A subscription becomes active beside everything else that holds rows of it, and wholly or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from wetread.errors import OutOfSpace
from wetread.record import events, resources
from wetread.record.subscriptions.subscriptions import CURSOR, Subscriptions
from wetread.store.database import Connection

from .conftest import Sink
from .subscribing import CLIENT, Server, form, task, until_status


async def test_an_activation_that_fails_leaves_nothing(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription_id = await server.subscribe(form(sink.url))
    await server.put(task("a"))
    show = Subscriptions._show

    async def full(self: Subscriptions, conn: Connection, *args: Any) -> None:
        await show(self, conn, *args)
        raise OutOfSpace("full")

    monkeypatch.setattr(Subscriptions, "_show", full)
    with pytest.raises(OutOfSpace):
        async with server.database.transaction() as conn:
            await server.subscriptions.activate(conn, subscription_id, 1)
    monkeypatch.setattr(Subscriptions, "_show", show)
    assert (await server.status(subscription_id))["status"] == "requested"
    assert await server.resource_status(subscription_id) == "requested"
    async with server.database.transaction() as conn:
        found = await conn.execute("SELECT count(*) FILTER (WHERE seq IS NULL), count(*) FROM event")
        assert await found.fetchone() == (2, 2)
        assert await events.sequence(conn) == 2, "the sequencer's lock is let go of"
    async with server.database.transaction() as conn:
        assert await server.subscriptions.activate(conn, subscription_id, 1)
    assert await server.happen(task("b")) == 1


async def test_many_are_activated_and_changed_while_events_are_written_matched_and_sent(
    server: Server, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for another in a circle: the database would end one of them, and that would be in the log."""
    caplog.set_level(logging.WARNING)
    steady = await server.active(form(f"{sink.url}/steady"))
    ids = [await server.subscribe(form(f"{sink.url}/{n}")) for n in range(10)]
    is_over = asyncio.Event()
    written = 0

    async def write(name: str) -> None:
        nonlocal written
        for n in range(25):
            await server.put(task(f"{name}{n}"))
            written += 1

    async def change() -> None:
        while not is_over.is_set():
            for each in ids:
                async with server.database.transaction() as conn:
                    version = await resources.put(conn, {**form(f"{sink.url}/changed"), "id": each})
                    await server.subscriptions.accept(conn, CLIENT, version.resource())

    async def upkeep() -> None:
        while not is_over.is_set():
            for each in ids:
                async with server.database.transaction() as conn:
                    await server.subscriptions.end(conn, each)
            async with server.database.transaction() as conn:
                await events.settle(conn)

    async with server.running():
        busy = [asyncio.create_task(change()), asyncio.create_task(upkeep())]
        await asyncio.gather(*(write(name) for name in "ab"))
        is_over.set()
        await asyncio.gather(*busy)
        async with asyncio.timeout(20):
            while (await server.status(steady))["events-since-subscription-start"] != str(written):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            while {(await server.status(each))["status"] for each in ids} != {"active"}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert caplog.messages == []


class TestUpkeep:
    @pytest.fixture
    async def ids(self, server: Server, sink: Sink) -> list[str]:
        """One whose topic is no longer served, and one whose end is past."""
        first, second = sorted([await server.active(form(sink.url)), await server.active(form(sink.url))])
        async with server.database.transaction() as conn:
            await conn.execute("UPDATE subscription_state SET topic = 'https://gone.example/' WHERE id = %s", (first,))
            await conn.execute("UPDATE subscription_state SET ends_at = now() WHERE id = %s", (second,))
        return [first, second]

    async def test_waits_for_the_matcher_and_not_in_a_circle(
        self, server: Server, ids: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        hold = "SELECT FROM subscription_state WHERE id = %s FOR NO KEY UPDATE"
        async with contextlib.AsyncExitStack() as stack:
            async with server.database.transaction() as matcher:
                await events.cursor(matcher, CURSOR)
                await matcher.execute(hold, (ids[0],))
                await stack.enter_async_context(server.delivering())
                await asyncio.sleep(0.3)
                await matcher.execute(hold, (ids[1],))
            await until_status(server, ids[0], "error")
            await until_status(server, ids[1], "off")
        assert caplog.messages == []

    async def test_one_that_cannot_be_ended_is_in_nobodys_way(
        self, server: Server, sink: Sink, ids: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await server.active(form(sink.url))
        assert await server.happen(task("a")) == 1
        async with server.database.transaction() as conn:
            await conn.execute("UPDATE subscription_event SET at = now() - interval '31 days'")
        show = Subscriptions._show

        async def flawed(self: Subscriptions, conn: Connection, subscription_id: str, *args: Any) -> None:
            if subscription_id == ids[0]:
                raise KeyError(subscription_id)
            await show(self, conn, subscription_id, *args)

        monkeypatch.setattr(Subscriptions, "_show", flawed)
        async with server.delivering():
            await until_status(server, ids[1], "off")
            async with asyncio.timeout(5):
                while await _events(server):  # noqa: ASYNC110  (the database)
                    await asyncio.sleep(0.05)


async def _events(server: Server) -> int:
    async with server.database.transaction() as conn:
        row = await (await conn.execute("SELECT count(*) FROM subscription_event")).fetchone()
    assert row is not None
    return int(row[0])
