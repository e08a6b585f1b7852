"""Rows of reads in groups: one commit for many, none answered before it, and none to suffer for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from wetread.record.audit import audit, noted
from wetread.record.audit.audit import AuditEntry
from wetread.record.audit.groups import Groups
from wetread.store.database import Connection, Database


def _entries(*names: str) -> list[AuditEntry]:
    return [AuditEntry("read", "R", "0", name) for name in names]


async def _principals(database: Database) -> list[str]:
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT principal FROM audit_event ORDER BY position")
        return [row[0] for row in await rows.fetchall()]


class Counted:
    """`audit.write_many`, which keeps count of its calls, and fails over an entry named `bad`."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def __call__(self, conn: Connection, entries: Sequence[AuditEntry]) -> list[str]:
        self.sizes.append(len(entries))
        await asyncio.sleep(0.01)
        if any(entry.principal == "bad" for entry in entries):
            raise ZeroDivisionError
        return await audit.write_many(conn, entries)


async def test_those_who_come_while_one_is_written_are_written_together_each_with_its_own_rows(
    database: Database,
) -> None:
    insert = Counted()
    groups = Groups(database, insert)
    wanted = [_entries(f"{n}a", f"{n}b") if n % 2 else _entries(f"{n}a") for n in range(30)]
    found = await asyncio.gather(*(groups.write(entries) for entries in wanted))
    assert len(insert.sizes) <= 3
    assert [len(ids) for ids in found] == [len(entries) for entries in wanted]
    assert len({audit_id for ids in found for audit_id in ids}) == 45
    assert await _principals(database) == [entry.principal for entries in wanted for entry in entries]


async def test_the_rows_are_committed_when_it_returns_and_noted_for_their_own_request(database: Database) -> None:
    groups = Groups(database, Counted())

    async def request(name: str) -> tuple[list[str], list[str]]:
        with noted.noting() as added:
            ids = await groups.write(_entries(name))
            assert name in await _principals(database)
        return ids, added

    assert all(ids == added for ids, added in await asyncio.gather(*(request(f"r{n}") for n in range(8))))


async def test_one_that_cannot_be_written_takes_no_other_with_it(database: Database) -> None:
    groups = Groups(database, Counted())
    names = ("good", "bad", "fine")
    found = await asyncio.gather(*(groups.write(_entries(name)) for name in names), return_exceptions=True)
    assert [type(one) for one in found] == [list, ZeroDivisionError, list]
    assert sorted(await _principals(database)) == ["fine", "good"]
    with pytest.raises(ZeroDivisionError):
        await groups.write(_entries("bad"))


async def test_one_who_gives_up_waiting_takes_no_other_with_it(database: Database) -> None:
    groups = Groups(database, Counted())
    waiting = [asyncio.create_task(groups.write(_entries(name))) for name in ("first", "second", "third")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await waiting[2]
    assert "third" in await _principals(database)
    await groups.write(_entries("fourth"))
    assert (await _principals(database))[-1] == "fourth"


async def test_as_many_readers_as_the_pool_has_connections_do_not_wait_for_each_other(database: Database) -> None:
    groups = Groups(database, audit.write_many)
    async with asyncio.timeout(10):
        await asyncio.gather(*(groups.write(_entries(f"r{n}")) for n in range(100)))
    assert len(await _principals(database)) == 100
