"""How often a password may be tried."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from wetread.access.people import accounts, attempts, known_devices, passwords
from wetread.access.people.attempts import LockOut
from wetread.store.database import Database

RULE = LockOut(after=3, first=timedelta(seconds=30), most=timedelta(minutes=5))


@pytest.fixture
async def hospital(database: Database) -> Database:
    async with database.transaction() as conn:
        await accounts.add(conn, "maria", "Maria", ["radiologist"])
        await passwords.keep(conn, "maria", "hash")
    return database


async def _try(database: Database, name: str = "maria", cookie: str = "") -> attempts.Attempt | None:
    async with database.transaction() as conn:
        return await attempts.begin(conn, name, RULE, cookie)


async def _remembered(database: Database, name: str = "maria", cookie: str = "") -> str:
    """The cookie of a browser that the person has signed in with."""
    async with database.transaction() as conn:
        return await known_devices.remember(conn, name, cookie)


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


async def test_a_browser_that_is_known_stays_open_while_a_stranger_closes_the_name(hospital: Database) -> None:
    own = await _remembered(hospital)
    for _ in range(3):
        assert await _try(hospital) is not None
    assert await _try(hospital) is None
    attempt = await _try(hospital, cookie=own)
    assert attempt is not None
    assert (attempt.number, attempt.closes) == (1, False)
    async with hospital.transaction() as conn:
        await attempts.take_back(conn, attempt)
        await attempts.succeeded(conn, "maria", own)
    assert await _try(hospital) is None, "that the person came in gives a stranger no further guesses"
    assert await _closed_s(hospital) > 0


async def test_a_known_browser_closes_by_its_own_failures_and_closes_no_other(hospital: Database) -> None:
    own, other = await _remembered(hospital), await _remembered(hospital)
    tried = [await _try(hospital, cookie=own) for _ in range(4)]
    assert [attempt and (attempt.number, attempt.closes) for attempt in tried] == [
        (1, False),
        (2, False),
        (3, True),
        None,
    ]
    for cookie in (other, ""):
        attempt = await _try(hospital, cookie=cookie)
        assert attempt is not None
        assert attempt.number == 1
    async with hospital.transaction() as conn:
        await attempts.opened(conn, "maria")
    again = await _try(hospital, cookie=own)
    assert again is not None
    assert again.number == 1


async def test_many_at_once_from_a_known_browser_are_no_more_than_may(hospital: Database) -> None:
    own = await _remembered(hospital)
    begun = await asyncio.gather(*(_try(hospital, cookie=own) for _ in range(15)))
    assert sorted(attempt.number for attempt in begun if attempt) == [1, 2, 3]


async def test_a_browser_is_known_for_who_signed_in_with_it_and_by_its_newest_value_alone(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        await accounts.add(conn, "jan", "Jan", ["radiologist"])
        await passwords.keep(conn, "jan", "hash")
    planted = await _remembered(hospital)
    shared = await _remembered(hospital, "jan", planted)
    for name, cookie, is_known in (
        ("maria", planted, False),
        ("maria", shared, True),
        ("jan", shared, True),
        ("jan", "guessed", False),
        ("nobody", shared, False),
    ):
        async with hospital.transaction() as conn:
            assert (await known_devices.digest_of(conn, name, cookie) is not None) == is_known, (name, is_known)
    async with hospital.transaction() as conn:
        await accounts.disable(conn, "jan")
    assert await _try(hospital, "jan", shared) is None


async def test_a_browser_is_forgotten_in_time(hospital: Database) -> None:
    own = await _remembered(hospital)
    async with hospital.transaction() as conn:
        await conn.execute("UPDATE known_device SET expires_at = clock_timestamp()")
    async with hospital.transaction() as conn:
        assert await known_devices.digest_of(conn, "maria", own) is None
        assert await known_devices.sweep(conn) == 1
