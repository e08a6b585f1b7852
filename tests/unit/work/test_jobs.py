"""What the port on the job engine promises beyond the engine."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from wetread.errors import InvalidInput, PeerUnavailable, StoreUnavailable
from wetread.store.database import Database
from wetread.work.jobs import Payload, Step, Work

Died = list[tuple[str, dict[str, Any], str]]


async def _work(database: Database) -> tuple[Work, Died]:
    died: Died = []

    async def on_dead(step: str, payload: Payload, error: BaseException) -> None:
        died.append((step, dict(payload), str(error)))

    work = Work(database, on_dead)
    await work.open()
    return work, died


async def _run(work: Work, stop: asyncio.Event, *, alone: bool = True) -> None:
    async with asyncio.timeout(20):
        await work.run(["work"], concurrency=4, alone=alone, stop=stop)


async def test_a_lane_keeps_its_order_while_its_head_waits_to_be_tried_again(database: Database) -> None:
    work, died = await _work(database)
    done: list[int] = []
    refusals = {0: 2, 3: 1}
    stop = asyncio.Event()

    async def deliver(payload: Payload) -> None:
        number = payload["number"]
        if refusals.get(number, 0) > 0:
            refusals[number] -= 1
            raise PeerUnavailable("closed")
        done.append(number)
        if len(done) == 5:
            stop.set()

    step = Step("deliver", "work", longest_wait_s=0.1)
    work.bind(step, deliver)
    async with database.transaction() as conn:
        for number in range(5):
            await work.enqueue(conn, step, {"number": number}, lane="destination")
    await _run(work, stop)
    assert done == [0, 1, 2, 3, 4]
    assert died == []


async def test_what_is_refused_dies_at_once_is_told_and_frees_its_lane(database: Database) -> None:
    work, died = await _work(database)
    stop = asyncio.Event()

    async def deliver(payload: Payload) -> None:
        if payload["number"] == 0:
            raise InvalidInput("never")
        stop.set()

    step = Step("deliver", "work")
    work.bind(step, deliver)
    async with database.transaction() as conn:
        for number in range(2):
            await work.enqueue(conn, step, {"number": number}, lane="destination")
    await _run(work, stop)
    assert died == [("deliver", {"number": 0}, "never")]


async def test_a_fault_of_our_own_is_tried_a_few_times_then_told(database: Database) -> None:
    work, _ = await _work(database)
    tries = 0
    stop = asyncio.Event()

    async def on_dead(step: str, payload: Payload, error: BaseException) -> None:
        stop.set()

    work._on_dead = on_dead

    async def fail(payload: Payload) -> None:
        nonlocal tries
        tries += 1
        raise KeyError("bug")

    step = Step("fail", "work", unexpected_tries=3, longest_wait_s=0.1)
    work.bind(step, fail)
    async with database.transaction() as conn:
        await work.enqueue(conn, step, {})
    await _run(work, stop)
    assert tries == 3


async def test_a_step_may_ask_to_be_asked_again_any_number_of_times_and_is_asked_when_it_said(
    database: Database,
) -> None:
    work, died = await _work(database)
    asked: list[datetime] = []
    stop = asyncio.Event()

    async def settle(payload: Payload) -> datetime | None:
        asked.append(datetime.now(UTC))
        if len(asked) <= 8:
            return asked[-1] + timedelta(seconds=0.3)
        stop.set()
        return None

    step = Step("settle", "work", unexpected_tries=2)
    work.bind(step, settle)
    async with database.transaction() as conn:
        await work.enqueue(conn, step, {})
    await _run(work, stop)
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert min(waits) >= timedelta(seconds=0.3)
    assert died == []


async def test_work_in_the_hand_of_a_dead_process_is_taken_up_again(database: Database) -> None:
    work, _ = await _work(database)
    stop = asyncio.Event()

    async def infer(payload: Payload) -> None:
        stop.set()

    step = Step("infer", "work")
    work.bind(step, infer)
    async with database.transaction() as conn:
        await work.enqueue(conn, step, {})
        await conn.execute("INSERT INTO procrastinate_workers DEFAULT VALUES")
        await conn.execute(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)"
        )
    await _run(work, stop)
    assert stop.is_set()


async def _cut_all_connections(database: Database, *, away_s: float = 0.0) -> None:
    """What a restart of the database server does to its clients; it is away for `away_s`."""
    url = urlsplit(database.url)
    async with await psycopg.AsyncConnection.connect(
        urlunsplit(url._replace(path="/postgres")), autocommit=True
    ) as other:
        name = sql.Identifier(url.path[1:])
        await other.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (url.path[1:],)
        )
        await asyncio.sleep(away_s)
        await other.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


async def test_work_goes_on_after_the_database_was_away(database: Database) -> None:
    work, died = await _work(database)
    done = asyncio.Queue[int]()
    stop = asyncio.Event()

    async def handle(payload: Payload) -> None:
        done.put_nowait(payload["number"])

    step = Step("once", "work")
    work.bind(step, handle)
    running = asyncio.create_task(_run(work, stop, alone=False))
    async with database.transaction() as conn:
        await work.enqueue(conn, step, {"number": 1})
    assert await asyncio.wait_for(done.get(), 10) == 1
    await _cut_all_connections(database, away_s=3)
    async with asyncio.timeout(15):
        enqueued = False
        while not enqueued:
            with contextlib.suppress(StoreUnavailable):
                async with database.transaction() as conn:
                    enqueued = await work.enqueue(conn, step, {"number": 2})
        assert await done.get() == 2
    stop.set()
    await running
    assert died == []


async def test_a_step_whose_outcome_was_not_written_is_done_again(database: Database) -> None:
    work, died = await _work(database)
    times: list[datetime] = []
    stop = asyncio.Event()

    async def handle(payload: Payload) -> None:
        times.append(datetime.now(UTC))
        if len(times) == 2:
            stop.set()
        else:
            await _cut_all_connections(database)

    step = Step("once", "work")
    work.bind(step, handle)
    async with database.transaction() as conn:
        await work.enqueue(conn, step, {})
    await _run(work, stop, alone=False)
    assert len(times) == 2
    assert died == []


async def test_a_step_that_kills_its_process_is_given_up_in_the_end(database: Database) -> None:
    work, died = await _work(database)
    step = Step("deadly", "work", most_tries=3)

    async def handle(payload: Payload) -> None:
        raise AssertionError("given up before it is begun once more")

    work.bind(step, handle)
    async with database.transaction() as conn:
        await work.enqueue(conn, step, {"number": 1})
        await conn.execute("UPDATE procrastinate_jobs SET status = 'doing', attempts = 2")
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(1, stop.set)
    await _run(work, stop)
    [(name, payload, reason)] = died
    assert (name, payload) == ("deadly", {"number": 1})
    assert "begun 3 times" in reason
