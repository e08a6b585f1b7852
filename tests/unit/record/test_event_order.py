"""The event log: dense, final numbers; no resource's versions inverted, whatever the writers do."""

import asyncio
import random

from wetread.record import events
from wetread.record.events import Sequencer
from wetread.store.database import Connection, Database

_LOCK_WRITER = "SELECT pg_advisory_xact_lock(hashtext(%s))"


async def _write(conn: Connection, resource_id: str, version: int = 1) -> None:
    await conn.execute(
        "INSERT INTO event (resource_type, resource_id, version_id, kind) VALUES ('Task', %s, %s, 'update')",
        (resource_id, version),
    )


async def _sequence(database: Database) -> int:
    async with database.transaction() as conn:
        return await events.sequence(conn)


async def _log(database: Database) -> list[tuple[int, str, int]]:
    async with database.transaction() as conn:
        return [(e.seq, e.resource_id, e.version_id) for e in await events.after(conn, 0, 100_000)]


async def test_a_long_transaction_delays_only_its_own_events(database: Database) -> None:
    async with database.transaction() as long:
        await _write(long, "long")
        async with database.transaction() as short:
            await _write(short, "short")
        assert await _sequence(database) == 1
        assert await _log(database) == [(1, "short", 1)]
    assert await _sequence(database) == 1
    assert await _log(database) == [(1, "short", 1), (2, "long", 1)]


async def test_a_rolled_back_writer_leaves_no_gap(database: Database) -> None:
    async with database.transaction() as conn:
        await _write(conn, "a")
        await _write(conn, "b")
    try:
        async with database.transaction() as conn:
            await _write(conn, "never")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    async with database.transaction() as conn:
        await _write(conn, "c")
    await _sequence(database)
    assert await _log(database) == [(1, "a", 1), (2, "b", 1), (3, "c", 1)]


async def test_while_one_sequencer_is_at_work_another_returns_at_once(database: Database) -> None:
    async with database.transaction() as conn:
        await _write(conn, "a")
    async with database.transaction() as first:
        assert await events.sequence(first) == 1
        assert await _sequence(database) == 0
    assert await _log(database) == [(1, "a", 1)]


async def test_concurrent_writers_and_two_sequencers_give_a_dense_log_in_version_order(database: Database) -> None:
    chance = random.Random(7)
    stop = asyncio.Event()
    sequencers = [asyncio.create_task(Sequencer(database).run(stop)) for _ in range(2)]
    versions = {f"r{n}": 0 for n in range(5)}
    seen: list[list[tuple[int, str, int]]] = []

    async def writer() -> None:
        for _ in range(25):
            resource = chance.choice(list(versions))
            fails, waits = chance.random() < 0.2, chance.random() < 0.2
            try:
                async with database.transaction() as conn:
                    await conn.execute(_LOCK_WRITER, (resource,))
                    version = versions[resource] + 1
                    await _write(conn, resource, version)
                    if waits:
                        await asyncio.sleep(0.02)
                    if fails:
                        raise ZeroDivisionError
                    versions[resource] = version
            except ZeroDivisionError:
                pass

    async def watcher() -> None:
        while not stop.is_set():
            seen.append(await _log(database))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watcher())
    await asyncio.gather(*(writer() for _ in range(5)))
    async with asyncio.timeout(10):
        while len(await _log(database)) < sum(versions.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(watching, *sequencers)

    log = await _log(database)
    assert [seq for seq, _, _ in log] == list(range(1, sum(versions.values()) + 1))
    for resource, count in versions.items():
        assert [version for _, name, version in log if name == resource] == list(range(1, count + 1))
    assert all(log[: len(earlier)] == earlier for earlier in seen), "a number that was out has changed"


async def test_a_sequencer_takes_over_when_the_owners_connection_dies(database: Database) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(Sequencer(database).run(stop))
    async with asyncio.timeout(10):
        while True:
            async with database.transaction() as conn:
                killed = await conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query NOT LIKE '%%pg_stat%%'"
                    " AND application_name = 'wetread-listener'"
                )
            if killed.rowcount:
                break
            await asyncio.sleep(0.05)
        async with database.transaction() as conn:
            await _write(conn, "a")
        while await _log(database) != [(1, "a", 1)]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    stop.set()
    await running


async def test_a_cursor_moves_with_what_its_reader_made_and_never_back(database: Database) -> None:
    try:
        async with database.transaction() as conn:
            assert await events.cursor(conn, "worklist") == 0
            await events.advance(conn, "worklist", 7)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    async with database.transaction() as conn:
        assert await events.cursor(conn, "worklist") == 0
        await events.advance(conn, "worklist", 7)
        await events.advance(conn, "worklist", 3)
    async with database.transaction() as conn:
        assert await events.cursor(conn, "worklist") == 7


async def test_a_cursor_is_held_by_one_reader_at_a_time(database: Database) -> None:
    order: list[str] = []

    async def second() -> None:
        async with database.transaction() as conn:
            await events.cursor(conn, "worklist")
            order.append("second")

    async with database.transaction() as conn:
        await events.cursor(conn, "worklist")
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.1)
        order.append("first")
    await waiting
    assert order == ["first", "second"]
