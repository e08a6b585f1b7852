"""A unit of work commits or rolls back as one."""

import asyncio

import pytest
from psycopg.conninfo import make_conninfo

from wetread.store.database import Database, SyncDatabase
from wetread.work.jobs import Step, Work

STEP = Step("step", "work")


async def _nobody(step: str, payload: object, error: BaseException) -> None:
    raise AssertionError(f"{step} died of {error}")


async def _count(database: Database, table: str) -> int:
    async with database.transaction() as conn:
        row = await (await conn.execute(f"SELECT count(*) FROM {table}")).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_job_and_rows_roll_back_together(database: Database) -> None:
    work = Work(database, _nobody)
    await work.open()

    async def fail_after_writing() -> None:
        async with database.transaction() as conn:
            await conn.execute("INSERT INTO job_key (key) VALUES ('row')")
            await work.enqueue(conn, STEP, {"id": "1"}, key="job")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_writing()
    assert await _count(database, "job_key") == 0
    assert await _count(database, "procrastinate_jobs") == 0


async def test_a_key_is_enqueued_once_ever(database: Database) -> None:
    work = Work(database, _nobody)
    await work.open()
    async with database.transaction() as conn:
        assert await work.enqueue(conn, STEP, {"id": "1"}, key="k")
    async with database.transaction() as conn:
        assert not await work.enqueue(conn, STEP, {"id": "1"}, key="k")
    assert await _count(database, "procrastinate_jobs") == 1


async def test_a_host_that_is_gone_without_a_word_is_given_up_soon_unless_the_operator_says_otherwise(
    database_url: str,
) -> None:
    url = make_conninfo(database_url, keepalives_count=7)
    database, blocking = Database(url), SyncDatabase(url)
    await database.open()
    await asyncio.to_thread(blocking.open)
    try:
        async with await database.alone("test") as alone, database.statements() as pooled:
            with blocking.transaction() as sync:
                for conn in (alone, pooled, sync):
                    told = conn.info.get_parameters()
                    assert (told["tcp_user_timeout"], told["keepalives_count"]) == ("20000", "7")
    finally:
        await database.close()
        await asyncio.to_thread(blocking.close)
