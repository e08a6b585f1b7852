"""Batch and transaction over HTTP-free functions: order, links between entries, all or nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed, Unsupported, WetreadError
from wetread.record import bundle, lossless, resources
from wetread.record.bundle_entry import Entry, read
from wetread.record.validation import validate
from wetread.store.database import Database

BASE = "https://wetread.example/fhir"
PATIENT = {"resourceType": "Patient", "identifier": [{"system": "urn:a", "value": "1"}]}


def entry(method: str, url: str, resource: Any = None, full_url: str = "", **request: Any) -> dict[str, Any]:
    parts = {"fullUrl": full_url, "resource": resource, "request": {"method": method, "url": url, **request}}
    return {k: v for k, v in parts.items() if v}


def order(subject: str) -> dict[str, Any]:
    return {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"reference": subject}}


def basic(code: str) -> dict[str, Any]:
    return {"resourceType": "Basic", "code": {"coding": [{"code": code}]}}


def transaction(*entries: dict[str, Any], kind: str = "transaction") -> str:
    return lossless.dump({"resourceType": "Bundle", "type": kind, "entry": entries})


async def run(database: Database, text: str, reader: Reader = SYSTEM) -> list[dict[str, Any]]:
    request = await read(text)
    entries = [e for e in request.entries if isinstance(e, Entry)]
    async with database.transaction() as conn:
        done = await bundle.transact(conn, reader, entries, bundle.Manner(BASE))
    answer = json.loads(bundle.response([d.text for d in done], is_transaction=True))
    assert answer["type"] == "transaction-response"
    found: list[dict[str, Any]] = answer["entry"]
    return found


async def count(database: Database) -> int:
    async with database.transaction() as conn:
        row = await (await conn.execute("SELECT count(*) FROM event")).fetchone()
    assert row is not None
    return int(row[0])


async def test_entries_refer_to_each_other_whatever_their_order(database: Database) -> None:
    answer = await run(
        database,
        transaction(
            entry("GET", "ServiceRequest?status=active"),
            entry("POST", "ServiceRequest", order("urn:uuid:1")),
            entry("POST", "Patient", PATIENT, "urn:uuid:1"),
        ),
    )
    found, request, patient = answer
    assert [a["response"]["status"] for a in answer] == ["200 OK", "201 Created", "201 Created"]
    assert request["resource"]["subject"]["reference"] == f"Patient/{patient['resource']['id']}"
    assert found["resource"]["entry"][0]["resource"] == request["resource"]
    assert patient["response"]["location"] == f"{BASE}/Patient/{patient['resource']['id']}/_history/1"


async def test_a_conditional_create_and_a_conditional_reference_find_what_is_there(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, {**PATIENT, "id": "p1"})
    by_condition, by_reference, _ = await run(
        database,
        transaction(
            entry("POST", "ServiceRequest", order("urn:uuid:1")),
            entry("POST", "ServiceRequest", order("Patient?identifier=urn:a|1")),
            entry("POST", "Patient", PATIENT, "urn:uuid:1", ifNoneExist="identifier=urn:a|1"),
        ),
    )
    assert by_condition["resource"]["subject"]["reference"] == "Patient/p1"
    assert by_reference["resource"]["subject"]["reference"] == "Patient/p1"
    assert await count(database) == 3


async def test_puts_and_deletes_by_id_and_by_condition(database: Database) -> None:
    async with database.transaction() as conn:
        for name in ("p1", "p2", "p3"):
            await resources.put(conn, {"resourceType": "Patient", "id": name, "identifier": [{"value": name}]})
    answer = await run(
        database,
        transaction(
            entry("PUT", "Patient/p1", {"resourceType": "Patient", "id": "p1", "active": True}, ifMatch='W/"1"'),
            entry("PUT", "Patient?identifier=p2", {"resourceType": "Patient", "active": True}),
            entry("PUT", "Patient?identifier=p9", {"resourceType": "Patient", "active": True}),
            entry("DELETE", "Patient/p3"),
            entry("DELETE", "Patient?identifier=p8"),
        ),
    )
    assert [a["response"]["status"] for a in answer] == ["200 OK", "200 OK", "201 Created"] + ["204 No Content"] * 2
    assert answer[1]["resource"]["id"] == "p2"
    assert answer[1]["resource"]["meta"]["versionId"] == "2"


@pytest.mark.parametrize(
    ("faulty", "error"),
    [
        (entry("PUT", "Patient/p1", {**PATIENT, "id": "p1"}, ifMatch='W/"7"'), PreconditionFailed),
        (entry("GET", "Patient/none"), NotFound),
        (entry("POST", "ServiceRequest", order("Patient?identifier=none")), PreconditionFailed),
        (entry("PUT", "Patient/new", {**PATIENT, "id": "new", "active": True}), InvalidInput),
    ],
)
async def test_when_one_entry_fails_nothing_was_done(
    database: Database, faulty: dict[str, Any], error: type[WetreadError]
) -> None:
    good = entry("PUT", "Patient/new", {**PATIENT, "id": "new"})
    with pytest.raises(error):
        await run(database, transaction(good, faulty))
    assert await count(database) == 0


@pytest.mark.parametrize(
    ("faulty", "error"),
    [
        ({"request": {"method": "POST"}}, InvalidInput),
        (entry("PATCH", "Patient/1", PATIENT), Unsupported),
        (entry("POST", "Nonsense", PATIENT), NotFound),
        (entry("POST", "AuditEvent", {"resourceType": "AuditEvent"}), NotFound),
        (entry("POST", "Patient/1", PATIENT), InvalidInput),
        (entry("POST", "Observation", PATIENT), InvalidInput),
        (entry("PUT", "Patient", PATIENT), InvalidInput),
        (entry("PUT", "Patient/1", PATIENT), InvalidInput),
        (entry("PUT", "Patient/1", {**PATIENT, "id": "1"}, ifMatch="soon"), InvalidInput),
        (entry("POST", "Patient", PATIENT, ifNoneExist=[1]), InvalidInput),
        (entry("POST", "Patient", {**PATIENT, "bogus": 1}), validate.InvalidResource),
    ],
)
async def test_a_faulty_entry_refuses_a_transaction_and_stands_for_itself_in_a_batch(
    faulty: dict[str, Any], error: type[WetreadError]
) -> None:
    good = entry("POST", "Patient", PATIENT)
    with pytest.raises(error) as caught:
        await read(transaction(good, faulty))
    assert (caught.value.location or "").startswith("Bundle.entry[1]")
    request = await read(transaction(good, faulty, kind="batch"))
    assert isinstance(request.entries[0], Entry)
    assert isinstance(request.entries[1], error)


async def test_two_entries_under_one_condition_are_refused(database: Database) -> None:
    twin = entry("POST", "Patient", PATIENT, ifNoneExist="identifier=urn:a|1")
    with pytest.raises(InvalidInput):
        await run(database, transaction(twin, twin))
    assert await count(database) == 0


async def test_an_entry_needs_the_scope_of_its_own_interaction(database: Database) -> None:
    reader = Reader("x", (Scope("system", "*", frozenset("rs")), Scope("system", "Patient", frozenset("c"))))
    await run(database, transaction(entry("POST", "Patient", PATIENT)), reader)
    with pytest.raises(Forbidden):
        await run(database, transaction(entry("POST", "ServiceRequest", order("Patient/1"))), reader)


async def test_parallel_transactions_on_the_same_resources_and_conditions_all_end(database: Database) -> None:
    def text(number: int) -> str:
        way = 1 if number % 2 else -1
        telecom = [{"system": "phone", "value": str(number)}]
        puts = [
            entry("PUT", f"Patient/p{n}", {"resourceType": "Patient", "id": f"p{n}", "telecom": telecom})
            for n in range(4)
        ]
        creates = [entry("POST", "Basic", basic(c), ifNoneExist=f"code={c}") for c in "abc"]
        return transaction(*puts[::way], *creates[::way])

    await run(database, text(99))
    await asyncio.gather(*(run(database, text(number)) for number in range(12)))
    async with database.transaction() as conn:
        assert len(await resources.find(conn, SYSTEM, "Basic", [])) == 3
        telecoms = [v.resource()["telecom"] for v in await resources.find(conn, SYSTEM, "Patient", [])]
    assert telecoms == [telecoms[0]] * 4


async def test_decimals_keep_their_digits_in_a_bundle(database: Database) -> None:
    text = '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.00}}'
    await run(database, transaction(entry("POST", "Observation", lossless.parse(text))))
    async with database.transaction() as conn:
        (version,) = await resources.find(conn, SYSTEM, "Observation", [])
    assert '"value":1.00' in version.body


async def test_what_is_new_is_written_together_and_seen_by_who_searches_for_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, asked = psycopg.AsyncCursor.execute, []

    async def counting(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        asked.append(query)
        return await execute(self, query, *args, **more)

    patients = [entry("POST", "Patient", {**PATIENT, "active": bool(n % 2)}, f"urn:uuid:{n}") for n in range(60)]
    codes = [entry("POST", "Basic", basic(f"{n}")) for n in range(20)]
    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counting)
    answer = await run(database, transaction(*patients, *codes))
    assert len(asked) < 10
    assert {a["response"]["status"] for a in answer} == {"201 Created"}
    assert await count(database) == 80
    async with database.transaction() as conn:
        assert len(await resources.find(conn, SYSTEM, "Basic", [("code", "7")])) == 1
        assert len(await resources.find(conn, SYSTEM, "Patient", [("active", "true")])) == 30
    new = {"resourceType": "Device", "identifier": [{"system": "urn:d", "value": "1"}]}
    study = {
        "resourceType": "ImagingStudy",
        "status": "available",
        "subject": {"reference": "Device?identifier=urn:d|1"},
    }
    device, found = await run(database, transaction(entry("POST", "Device", new), entry("POST", "ImagingStudy", study)))
    assert found["resource"]["subject"]["reference"] == f"Device/{device['resource']['id']}"


async def test_a_fault_of_what_is_written_together_is_told_where_it_stands(database: Database) -> None:
    wrong = {**basic("x"), "created": "2024-13-45"}
    entries = [Entry(n, "POST", "create", "Basic", content=c) for n, c in enumerate([basic("a"), wrong, basic("b")])]
    with pytest.raises(InvalidInput) as caught:
        async with database.transaction() as conn:
            await bundle.transact(conn, SYSTEM, entries, bundle.Manner(BASE))
    assert str(caught.value.location).startswith("Bundle.entry[1]")
    assert await count(database) == 0
