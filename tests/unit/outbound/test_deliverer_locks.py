"""A deliverer whose lock is gone, or may be, sends nothing more before another takes over; nor does it judge."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from itertools import pairwise
from typing import Any

import pytest

from wetread.outbound import tenure
from wetread.outbound.deliverer import Deliverer
from wetread.record.subscriptions import claims
from wetread.record.subscriptions.claims import Failure, Patience
from wetread.record.subscriptions.rows import State, state_of
from wetread.store.database import Connection

from .conftest import HANG, Sink
from .subscribing import Server, form, numbers, task, told_by, until, until_cursors, until_status

pytestmark = pytest.mark.usefixtures("short_grace")


async def _state(server: Server, subscription_id: str) -> State:
    async with server.database.transaction() as conn:
        state = await state_of(conn, subscription_id)
    assert state is not None
    return state


async def _locks(server: Server) -> dict[int, int]:
    """By the number of a deliverer the process that holds its lock."""
    async with server.database.transaction() as conn:
        found = await conn.execute(
            """SELECT objid::int, pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())""",
            (claims._LOCK,),
        )
        return dict(await found.fetchall())


async def _end_lock(server: Server, worker: int) -> None:
    pid = (await _locks(server))[worker]
    async with server.database.transaction() as conn:
        await conn.execute("SELECT pg_terminate_backend(%s)", (pid,))


def _assert_in_order(arrived: list[int]) -> None:
    """Each event follows the one before it, or is the beginning of a repetition."""
    assert all(after == before + 1 or after <= before for before, after in pairwise(arrived)), arrived
    assert list(dict.fromkeys(arrived)) == list(range(1, max(arrived) + 1))


async def test_who_lost_its_lock_stops_at_once_whatever_else_it_waits_for(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription_id = await server.active(form(sink.url))
    await server.happen(*(task(f"t{n}") for n in range(40)))
    sink.pause_s = 0.05
    claim, stuck = claims.claim, set()

    async def waits_for_the_database(conn: Connection, worker: int, well: int, in_trouble: int) -> Any:
        if worker in stuck:
            await asyncio.sleep(4)
        return await claim(conn, worker, well, in_trouble)

    monkeypatch.setattr(claims, "claim", waits_for_the_database)
    async with server.delivering():
        await until(lambda: len(sink.received) == 3)
        worker = (await _state(server, subscription_id)).worker
        assert worker is not None
        stuck.add(worker)
        await asyncio.sleep(0.2)
        async with server.delivering():
            await _end_lock(server, worker)
            await until_cursors(server, (40, 40))
    _assert_in_order([int(number) for number in numbers(sink)])


async def test_order_holds_whichever_deliverer_loses_its_lock(server: Server, sink: Sink) -> None:
    subscription_id = await server.active(form(sink.url))
    await server.happen(*(task(f"t{n}") for n in range(60)))
    sink.pause_s = 0.03
    async with server.delivering(), server.delivering():
        for _ in range(2):
            await asyncio.sleep(0.4)
            worker = (await _state(server, subscription_id)).worker
            if worker in await _locks(server):
                await _end_lock(server, worker)
        await until_cursors(server, (60, 60))
    _assert_in_order([int(number) for number in numbers(sink)])


async def test_a_database_that_is_silent_is_taken_for_lost_and_nothing_is_sent(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "_ANSWER_S", 0.5)
    subscription_id = await server.active(form(sink.url, timeout_s=60))
    sink.answer = lambda received: HANG
    await server.happen(task("a"))
    async with contextlib.AsyncExitStack() as stack:
        deliverer: Deliverer = await stack.enter_async_context(server.delivering())
        await until(lambda: len(sink.received) == 1)
        worker = (await _state(server, subscription_id)).worker
        assert worker is not None
        sink.answer = lambda received: 200
        frozen = (await _locks(server))[worker]
        os.kill(frozen, signal.SIGSTOP)
        stack.callback(os.kill, frozen, signal.SIGCONT)
        async with asyncio.timeout(20):
            await until(lambda: numbers(sink) == ["1", "1"])
        assert deliverer._turns.keys() <= {subscription_id}
        await until_cursors(server, (1, 1))


async def test_nothing_is_sent_once_the_database_has_not_answered_for_too_long(server: Server, sink: Sink) -> None:
    """As after a process, or its machine, stood still: before anything else has had its turn."""
    subscription_id = await server.active(form(sink.url))
    await server.happen(task("a"), task("b"))
    sink.pause_s = 0.3
    async with server.delivering() as deliverer:
        await until(lambda: len(sink.received) == 1)
        assert deliverer._tenure is not None
        deliverer._tenure._heard_at -= 60
        await asyncio.sleep(0.5)
        assert numbers(sink) == ["1"]
        await until_cursors(server, (2, 2))
    assert (await _state(server, subscription_id)).failures == 0
    _assert_in_order([int(number) for number in numbers(sink)])


async def test_a_lock_that_is_gone_is_believed_a_second_later(server: Server) -> None:
    subscription_id = await server.active(form("http://127.0.0.1:9/"))
    async with claims.enlisted(server.database) as (conn, _):
        async with contextlib.AsyncExitStack() as dead:
            other, worker = await dead.enter_async_context(claims.enlisted(server.database))
            await claims.claim(other, worker, 1, 1)
            watching = asyncio.create_task(tenure.Tenure(conn, lambda: None).keep())
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.2)
        assert (await _state(server, subscription_id)).worker == worker, "its deliverer may not know yet"
        async with asyncio.timeout(20):
            while (await _state(server, subscription_id)).worker is not None:  # noqa: ASYNC110  (the database)
                await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.wait([watching])


class TestJudgement:
    async def test_a_handshake_that_failed_after_another_succeeded_does_not_count(
        self, server: Server, sink: Sink
    ) -> None:
        subscription_id = await server.subscribe(form(sink.url, timeout_s=2))
        sink.answer = lambda received: HANG
        async with server.delivering():
            await until(lambda: len(sink.received) == 1)
            sink.answer = lambda received: 200
            async with server.database.transaction() as conn:
                await conn.execute("UPDATE subscription_state SET worker = NULL, due_at = now()")
            async with server.delivering():
                await until_status(server, subscription_id, "active")
            await asyncio.sleep(2.2)
            assert (await server.status(subscription_id))["status"] == "active"
        assert [told_by(received)["type"] for received in sink.received] == ["handshake", "handshake"]
        assert await server.audits("delivery-failed") == []

    async def test_what_is_given_up_stays_in_hand_until_it_is_in_error(self, server: Server) -> None:
        subscription_id = await server.active(form("http://127.0.0.1:9/"))
        for is_final in (False, True):
            async with server.database.transaction() as conn:
                await conn.execute("UPDATE subscription_state SET worker = 7")
                state = await state_of(conn, subscription_id)
                assert state is not None
                failure = Failure("410", is_refusal=True, is_final=is_final)
                assert await claims.put_off(conn, 7, state, 0, failure, Patience()) is is_final
            assert (await _state(server, subscription_id)).worker == (7 if is_final else None)
        async with server.database.transaction() as conn:
            assert not await server.subscriptions.fail(conn, subscription_id, "410", start=1, worker=8)
            assert await server.subscriptions.fail(conn, subscription_id, "410", start=1, worker=7)
