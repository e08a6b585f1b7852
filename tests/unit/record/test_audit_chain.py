"""The hash chain: what anyone with the rights of the database's owner does to the audit record shows."""

import asyncio

import pytest

from wetread.access.audit_keys import AuditKeys
from wetread.record.audit import audit, chain
from wetread.record.audit.audit import AuditEntry
from wetread.record.audit.proof import Verification, verify
from wetread.record.events import Sequencer
from wetread.store.database import Database

KEYS = AuditKeys.parse(AuditKeys.made())


async def _write(database: Database, count: int, start: int = 0) -> list[str]:
    entries = [AuditEntry("read", "R", "0", f"reader-{n}") for n in range(start, start + count)]
    async with database.transaction() as conn:
        return await audit.write_many(conn, entries)


async def _chain(database: Database) -> None:
    async with database.transaction() as conn:
        await chain.extend(conn)


async def _verify(database: Database) -> Verification:
    async with database.transaction() as conn:
        return await verify(conn, KEYS)


async def _after_tampering(database: Database, *statements: str, **ids: str) -> Verification:
    """What verification says when the owner of the tables, past the triggers, has run `statements`; then undoes it."""
    async with database.pool.connection() as conn, conn.transaction(force_rollback=True):
        await conn.execute("ALTER TABLE audit_event DISABLE TRIGGER ALL")
        await conn.execute("ALTER TABLE audit_chain DISABLE TRIGGER ALL")
        for statement in statements:
            await conn.execute(statement, ids)
        return await verify(conn, KEYS)


async def test_an_untouched_record_verifies_and_counts_what_is_not_yet_chained(database: Database) -> None:
    assert await _verify(database) == Verification(True, 0, 0, None)
    await _write(database, 3)
    await _chain(database)
    await _write(database, 2, start=3)
    assert await _verify(database) == Verification(True, 3, 2, None)
    await _chain(database)
    assert await _verify(database) == Verification(True, 5, 0, None)


async def test_rows_are_chained_in_the_order_in_which_they_became_visible(database: Database) -> None:
    async with database.transaction() as long:
        first = await audit.write(long, AuditEntry("read", "R", "0", "long"))
        [second] = await _write(database, 1)
        await _chain(database)
    await _chain(database)
    async with database.transaction() as conn:
        rows = await (await conn.execute("SELECT audit_id::text FROM audit_chain ORDER BY seq")).fetchall()
    assert [row[0] for row in rows] == [second, first]
    assert (await _verify(database)).ok


async def test_an_altered_row_is_named(database: Database) -> None:
    ids = await _write(database, 5)
    await _chain(database)
    for change in (
        "body = replace(body, 'reader-2', 'reader-9')",
        "principal = 'reader-9'",
        "governance_only = true",
        "recorded = recorded - interval '1 microsecond'",
        "patient_id = ''",
        "entities = ARRAY['Patient/1']",
    ):
        found = await _after_tampering(database, f"UPDATE audit_event SET {change} WHERE id = %(third)s", third=ids[2])
        assert (found.ok, found.chained) == (False, 2), change
        assert found.first_bad == f"audit record {ids[2]} (link 3) was altered, replaced or moved"
    assert (await _verify(database)).ok


async def test_a_deleted_row_is_named(database: Database) -> None:
    ids = await _write(database, 5)
    await _chain(database)
    found = await _after_tampering(database, "DELETE FROM audit_event WHERE id = %(second)s", second=ids[1])
    assert found.first_bad == f"audit record {ids[1]} (link 2) is missing"


async def test_a_row_deleted_with_its_link_is_named(database: Database) -> None:
    ids = await _write(database, 5)
    await _chain(database)
    deletions = (
        "DELETE FROM audit_event WHERE id = %(second)s",
        "DELETE FROM audit_chain WHERE audit_id = %(second)s",
    )
    found = await _after_tampering(database, *deletions, second=ids[1])
    assert found.first_bad == "link 2 of the chain is missing"
    renumbering = [f"UPDATE audit_chain SET seq = {seq} - 1 WHERE seq = {seq}" for seq in (3, 4, 5)]
    found = await _after_tampering(database, *deletions, *renumbering, second=ids[1])
    assert found.first_bad == f"audit record {ids[2]} (link 2) was altered, replaced or moved"


async def test_reordered_rows_are_named(database: Database) -> None:
    ids = await _write(database, 5)
    await _chain(database)
    found = await _after_tampering(
        database,
        "UPDATE audit_chain SET seq = 0 WHERE seq = 4",
        "UPDATE audit_chain SET seq = 4 WHERE seq = 3",
        "UPDATE audit_chain SET seq = 3 WHERE seq = 0",
    )
    assert found.first_bad == f"audit record {ids[3]} (link 3) was altered, replaced or moved"


async def test_a_row_added_beside_the_door_is_counted_as_not_chained(database: Database) -> None:
    await _write(database, 1)
    await _chain(database)
    async with database.transaction() as conn:
        await conn.execute(
            """INSERT INTO audit_event (id, recorded, kind, action, outcome, principal, acting_user, request_id,
                                        governance_only, entities, body)
               SELECT gen_random_uuid(), recorded, kind, action, outcome, principal, acting_user, request_id,
                      governance_only, entities, body FROM audit_event"""
        )
    await _chain(database)
    assert (await _verify(database)).unchained == 1


async def test_while_one_chains_another_returns_at_once(database: Database) -> None:
    await _write(database, 3)
    async with database.transaction() as first:
        assert await chain.extend(first) == 3
        async with database.transaction() as second:
            assert await chain.extend(second) == 0
    assert await _verify(database) == Verification(True, 3, 0, None)


async def test_the_sequencer_chains_by_itself(database: Database) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(Sequencer(database).run(stop))
    await _write(database, 3)
    async with asyncio.timeout(10):
        while (await _verify(database)).chained < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    stop.set()
    await running


async def test_a_long_backlog_is_chained_in_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "BATCH", 4)
    await _write(database, 10)
    for _ in range(3):
        await _chain(database)
    assert await _verify(database) == Verification(True, 10, 0, None)
