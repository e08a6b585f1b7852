from __future__ import annotations

import asyncio
import contextlib
import json
from decimal import Decimal
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import Conflict, Forbidden, Gone, InvalidInput, NotFound, PreconditionFailed, Unsupported
from wetread.record import resources
from wetread.store.database import Connection, Database


def patient(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p1", "name": [{"family": "Müller", "given": ["Ann"]}], **more}


async def events(conn: Connection) -> list[tuple[Any, ...]]:
    cursor = await conn.execute("SELECT resource_type, resource_id, version_id, kind, seq FROM event ORDER BY id")
    return await cursor.fetchall()


async def test_a_put_resource_is_read_back_with_the_digits_and_bytes_that_came(database: Database) -> None:
    text = '{"resourceType" : "Observation", "id":"o1","valueQuantity":{"value": 1.00, "x":1e-7}}'
    async with database.transaction() as conn:
        await resources.put(conn, text)
        version = await resources.read(conn, SYSTEM, "Observation", "o1")
    assert '"valueQuantity":{"value": 1.00, "x":1e-7}' in version.body
    assert version.resource()["valueQuantity"]["value"] == Decimal("1.00")
    assert json.loads(version.body)["meta"]["versionId"] == "1"
    assert version.body.startswith('{"resourceType" : "Observation"')


async def test_putting_the_same_content_again_writes_nothing(database: Database) -> None:
    async with database.transaction() as conn:
        first = await resources.put(conn, patient())
        again = await resources.put(conn, patient(meta={"versionId": "9", "lastUpdated": "2020-01-01T00:00:00Z"}))
        assert again == first
        assert await resources.put(conn, first.resource()) == first
        assert await events(conn) == [("Patient", "p1", 1, "create", None)]


async def test_a_change_of_digits_is_a_change(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, '{"resourceType":"Observation","id":"o1","valueQuantity":{"value":1.0}}')
        changed = await resources.put(conn, '{"resourceType":"Observation","id":"o1","valueQuantity":{"value":1.00}}')
    assert changed.version_id == 2


async def test_every_version_has_one_event_and_all_of_it_rolls_back_together(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, patient())
        await resources.put(conn, patient(active=True))
        await resources.delete(conn, SYSTEM, "Patient", "p1")
        await resources.delete(conn, SYSTEM, "Patient", "p1")
    with contextlib.suppress(Conflict):
        async with database.transaction() as conn:
            await resources.put(conn, patient(active=False))
            raise Conflict("something else in this unit of work failed")
    async with database.transaction() as conn:
        assert [row[2:4] for row in await events(conn)] == [(1, "create"), (2, "update"), (3, "delete")]
        counts = await (await conn.execute("SELECT count(*) FROM resource_version")).fetchone()
        assert counts == (3,)


async def test_a_deleted_resource_is_gone_keeps_its_versions_and_can_come_back(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, patient())
        await resources.delete(conn, SYSTEM, "Patient", "p1")
        with pytest.raises(Gone):
            await resources.read(conn, SYSTEM, "Patient", "p1")
        assert await resources.find(conn, SYSTEM, "Patient", [("family", "muller")]) == []
        assert (await resources.vread(conn, SYSTEM, "Patient", "p1", 1)).resource()["id"] == "p1"
        with pytest.raises(Gone):
            await resources.vread(conn, SYSTEM, "Patient", "p1", 2)
        assert (await resources.put(conn, patient())).version_id == 3
        assert len(await resources.find(conn, SYSTEM, "Patient", [("family", "muller")])) == 1


async def test_what_is_not_there_is_not_found(database: Database) -> None:
    async with database.transaction() as conn:
        for resource_type in ("Patient", "Nonsense"):
            with pytest.raises(NotFound):
                await resources.read(conn, SYSTEM, resource_type, "p1")
        assert await resources.delete(conn, SYSTEM, "Patient", "p1") is None


@pytest.mark.parametrize("resource_type", ["AuditEvent", "Nonsense", "OperationOutcome", None, 3])
async def test_a_type_that_is_not_stored_here_is_refused(database: Database, resource_type: Any) -> None:
    async with database.transaction() as conn:
        with pytest.raises(Unsupported):
            await resources.put(conn, {"resourceType": resource_type, "id": "x"})


@pytest.mark.parametrize("resource_id", [None, "", "a b", "x" * 65, 7])
async def test_an_id_that_is_no_fhir_id_is_refused(database: Database, resource_id: Any) -> None:
    async with database.transaction() as conn:
        with pytest.raises(InvalidInput):
            await resources.put(conn, {"resourceType": "Patient", "id": resource_id})


async def test_a_reader_without_the_scope_reads_and_finds_nothing(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, patient())
        with pytest.raises(Forbidden):
            await resources.read(conn, Reader("nobody"), "Patient", "p1")
        with pytest.raises(Forbidden):
            await resources.find(conn, Reader("nobody"), "Patient", [])


async def test_64_identical_conditional_creates_make_exactly_one(database: Database) -> None:
    order = {"resourceType": "ServiceRequest", "identifier": [{"system": "urn:a", "value": "A1"}]}

    async def once() -> tuple[str, bool]:
        async with database.transaction() as conn:
            version, created = await resources.create(conn, order, if_none_exist="identifier=urn:a%7CA1", reader=SYSTEM)
            return version.id, created

    results = await asyncio.gather(*(once() for _ in range(64)))
    assert sum(created for _, created in results) == 1
    assert len({resource_id for resource_id, _ in results}) == 1


async def test_a_conditional_create_with_several_matches_fails(database: Database) -> None:
    async with database.transaction() as conn:
        for _ in range(2):
            await resources.create(conn, patient(), reader=SYSTEM)
        with pytest.raises(PreconditionFailed):
            await resources.create(conn, patient(), if_none_exist="family=muller", reader=SYSTEM)


async def test_parallel_updates_with_if_match_have_one_winner(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, patient())

    async def update(number: int) -> bool:
        try:
            async with database.transaction() as conn:
                await resources.put(conn, patient(telecom=[{"value": str(number)}]), if_match=1)
        except PreconditionFailed:
            return False
        return True

    assert sum(await asyncio.gather(*(update(n) for n in range(16)))) == 1


async def test_parallel_puts_of_one_new_id_make_consecutive_versions(database: Database) -> None:
    async def put(number: int) -> int:
        async with database.transaction() as conn:
            return (await resources.put(conn, patient(telecom=[{"value": str(number)}]))).version_id

    assert sorted(await asyncio.gather(*(put(n) for n in range(12)))) == list(range(1, 13))


async def test_if_match_on_what_is_not_there_fails(database: Database) -> None:
    async with database.transaction() as conn:
        with pytest.raises(PreconditionFailed):
            await resources.put(conn, patient(), if_match=1)


async def test_a_resource_is_found_by_what_its_current_version_says(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, patient(identifier=[{"system": "urn:oid:1.2", "value": "123"}]))
        await resources.put(conn, patient(identifier=[{"system": "urn:oid:1.2", "value": "456"}]))
        assert await resources.find(conn, SYSTEM, "Patient", [("identifier", "urn:oid:1.2|123")]) == []
        (found,) = await resources.find(conn, SYSTEM, "Patient", [("identifier", "urn:oid:1.2|456")])
    assert (found.id, found.version_id) == ("p1", 2)
