"""How often a password may be tried."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from wetread.access.people import accounts, attempts, passwords
from wetread.access.people.attempts import LockOut
from wetread.store.database import Database

RULE = LockOut(after=3, first=timedelta(seconds=30), most=timedelta(minutes=5))


@pytest.fixture
async def hospital(database: Database) -> Database:
    async with database.transaction() as conn:
        await accounts.add(conn, "maria", "Maria", ["radiologist"])
        await passwords.keep(conn, "maria", "hash")
    return database


async def _try(database: Database, name: str = "maria") -> attempts.Attempt | None:
    async with database.transaction() as conn:
        return await attempts.begin(conn, name, RULE)


async def _closed_s(database: Database) -> float:
    """For how long the name is closed; 0 where it is not."""
    async with database.transaction() as conn:
        until = (await accounts.named(conn, "maria")).locked_until
    return 0.0 if until is None else (until - datetime.now(UTC)).total_seconds()


async def _wait(database: Database) -> None:
    async with database.transaction() as conn:
        await conn.execute("UPDATE account SET locked_until = clock_timestamp() WHERE locked_until IS NOT NULL")


async def test_each_failure_closes_the_name_for_twice_as_long_up_to_the_most(hospital: Database) -> None:
    closed_s = []
    for _ in range(9):
        assert await _try(hospital) is not None
        closed_s.append(round(await _closed_s(hospital) / 30))
        await _wait(hospital)
    assert closed_s == [0, 0, 1, 2, 4, 8, 10, 10, 10]


async def test_a_closed_name_takes_no_attempt_and_is_not_closed_for_longer_by_one(hospital: Database) -> None:
    for _ in range(3):
        await _try(hospital)
    assert await _try(hospital) is None
    assert await _closed_s(hospital) <= 30


async def test_many_at_once_are_no_more_than_may(hospital: Database) -> None:
    begun = await asyncio.gather(*(_try(hospital) for _ in range(15)))
    assert sorted(attempt.number for attempt in begun if attempt) == [1, 2, 3]


async def test_success_starts_the_count_anew(hospital: Database) -> None:
    for _ in range(3):
        await _try(hospital)
    async with hospital.transaction() as conn:
        await attempts.succeeded(conn, "maria")
    attempt = await _try(hospital)
    assert attempt is not None
    assert attempt.number == 1


async def test_a_right_password_takes_back_its_own_attempt_only(hospital: Database) -> None:
    first, second, third = [await _try(hospital) for _ in range(3)]
    assert first
    assert second
    assert third
    assert (first.closes, second.closes, third.closes) == (False, False, True)
    async with hospital.transaction() as conn:
        await attempts.take_back(conn, second)
    assert await _closed_s(hospital) > 0, "the third failure stands, so the name stays closed"
    async with hospital.transaction() as conn:
        await conn.execute("UPDATE account SET failures = 2, locked_until = NULL")
    third = await _try(hospital)
    assert third
    async with hospital.transaction() as conn:
        await attempts.take_back(conn, third)
    assert await _closed_s(hospital) == 0


async def test_after_a_hundred_in_a_row_an_administrator_is_needed(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        await conn.execute("UPDATE account SET failures = 99")
    assert await _try(hospital) is not None
    await _wait(hospital)
    assert await _try(hospital) is None
    async with hospital.transaction() as conn:
        await attempts.succeeded(conn, "maria")
    assert await _try(hospital) is not None


async def test_who_has_no_password_here_cannot_try(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        eve = await accounts.vouched(conn, "https://sso.example", "7", "Eve", [], "")
        await accounts.add(conn, "new", "New", [])
    for name in (eve.name, "new", "nobody", "", "\x00", "' OR 1=1 --"):
        assert await _try(hospital, name) is None
