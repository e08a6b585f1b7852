from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden, InvalidInput, NotFound
from wetread.record import resources
from wetread.record.search.parameters import parameters_of
from wetread.record.search.search import SearchRequest, SearchSet, search
from wetread.store.database import Connection, Database

BASE = "https://wetread.example/fhir"


def observation(number: int, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "preliminary",
        "code": {"coding": [{"system": "http://loinc.org", "code": "1-1"}], "text": "Bleed, 5% or \\more"},
        "subject": {"reference": f"Patient/p{number % 2}"},
        **more,
    }


async def ids(conn: Connection, query: str, resource_type: str = "Observation") -> list[str]:
    found = await search(
        conn, SYSTEM, SearchRequest(resource_type, parse_qsl(query, keep_blank_values=True), BASE, strict=True)
    )
    return [e["resource"]["id"] for e in bundle(found).get("entry", [])]


def bundle(found: SearchSet) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(found.body)
    return content


def next_link(found: SearchSet) -> list[tuple[str, str]] | None:
    links = {link["relation"]: link["url"] for link in bundle(found)["link"]}
    return parse_qsl(urlsplit(links["next"]).query) if "next" in links else None


@pytest.fixture(scope="module")
async def shelf(module_database: Database) -> Database:
    """Two patients and five observations of many shapes; read only."""
    async with module_database.transaction() as conn:
        for number, name in enumerate(("Müller-Weiß", "O'Brien")):
            await resources.put(
                conn,
                {
                    "resourceType": "Patient",
                    "id": f"p{number}",
                    "identifier": [{"system": "urn:oid:1.2", "value": f"A,{number}|$"}],
                    "name": [{"family": name, "given": ["Jean Luc"]}],
                    "birthDate": ("1980-05", "1990-01-31")[number],
                    "gender": "female",
                },
            )
        shapes: list[dict[str, Any]] = [
            {"effectiveDateTime": "2024-03-15", "valueQuantity": {"value": 100, "system": "urn:u", "code": "mL"}},
            {"effectiveDateTime": "2024-03-15T10:30:00+02:00", "valueString": "Blut"},
            {"effectivePeriod": {"start": "2024-01-01", "end": "2024-12-31"}},
            {"status": "final", "subject": {"identifier": {"system": "urn:x", "value": "7"}}},
            {"valueQuantity": {"value": 100.4, "unit": "mL"}, "derivedFrom": [{"reference": "Observation/o0"}]},
        ]
        for number, shape in enumerate(shapes):
            await resources.put(conn, observation(number, **shape))
    return module_database


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["o0", "o1", "o2", "o3", "o4"]),
        ("status=final", ["o3"]),
        ("status=http://hl7.org/fhir/observation-status|final", ["o3"]),
        ("status=http://other|final", []),
        ("status:not=final", ["o0", "o1", "o2", "o4"]),
        ("status=final,preliminary&_id=o1,o3", ["o1", "o3"]),
        ("code=http://loinc.org|1-1&_count=2", ["o0", "o1"]),
        ("code=http://loinc.org|&_id=o0", ["o0"]),
        ("code=|1-1", []),
        ("subject=Patient/p1", ["o1"]),
        ("subject=p1", ["o1"]),
        ("subject:Patient=p1", ["o1"]),
        ("patient=p1", ["o1"]),
        (f"subject={BASE}/Patient/p1", ["o1"]),
        ("subject=https://elsewhere/Patient/p1", []),
        ("subject:identifier=urn:x|7", ["o3"]),
        ("subject:missing=true", []),
        ("date:missing=true", ["o3", "o4"]),
        ("date=2024-03-15", ["o0", "o1"]),
        ("date=2024-03", ["o0", "o1"]),
        ("date=2024-03-15T08:30Z", ["o1"]),
        ("date=ne2024-03-15", ["o2"]),
        ("date=gt2024-03-15", ["o2"]),
        ("date=ge2024-03-15", ["o0", "o1", "o2"]),
        ("date=lt2024-03-15", ["o2"]),
        ("date=le2024-03-15", ["o0", "o1", "o2"]),
        ("date=sa2024-03-14", ["o0", "o1"]),
        ("date=eb2025", ["o0", "o1", "o2"]),
        ("value-quantity=100", ["o0", "o4"]),
        ("value-quantity=100.0", ["o0"]),
        ("value-quantity=gt100", ["o4"]),
        ("value-quantity=100|urn:u|mL", ["o0"]),
        ("value-quantity=100||mL", ["o0", "o4"]),
        ("value-string=BLU", ["o1"]),
        ("value-string:exact=blut", []),
        ("value-string:exact=Blut", ["o1"]),
        ("derived-from=Observation/o0", ["o4"]),
        ("_lastUpdated=gt2000", ["o0", "o1", "o2", "o3", "o4"]),
        ("_lastUpdated=lt2000", []),
        ("_sort=-_id&_count=2", ["o4", "o3"]),
        ("date=ap2024-03-15&_id=o0,o3", ["o0"]),
    ],
)
async def test_observations_are_found_by(shelf: Database, query: str, expected: list[str]) -> None:
    async with shelf.transaction() as conn:
        assert await ids(conn, query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("family=muller", ["p0"]),
        ("family=MÜLLER-weiss", ["p0"]),
        ("family:contains=brien", ["p1"]),
        ("family=%25", []),
        ("given=jean%20luc", ["p0", "p1"]),
        (r"identifier=urn:oid:1.2|A\,1\|\$", ["p1"]),
        (r"identifier=A\,0\|\$", ["p0"]),
        ("birthdate=1980", ["p0"]),
        ("birthdate=1980-05-01", []),
        ("gender=http://hl7.org/fhir/administrative-gender|female", ["p0", "p1"]),
        ("deceased=false", ["p0", "p1"]),
    ],
)
async def test_patients_are_found_by(shelf: Database, query: str, expected: list[str]) -> None:
    async with shelf.transaction() as conn:
        assert await ids(conn, query, "Patient") == expected


@pytest.mark.parametrize(
    "query",
    [
        "bogus=1",
        "status:bogus=1",
        "status:missing=maybe",
        "date=yesterday",
        "date=2024-13-01",
        "value-quantity=much",
        "value-quantity=1e999999",
        "value-quantity=NaN",
        "_count=-1",
        "_count=many",
        "_sort=bogus",
        "_total=roughly",
        "_summary=sometimes",
        "_include=Observation",
        "_include=Nonsense:subject",
        "_include=Observation:code",
        "_cursor=bogus",
        "_cursor=W10",
        "subject=",
        "_has:Observation:subject=x",
        "status=" + "a," * 600,
    ],
)
async def test_a_search_that_cannot_be_understood_is_refused(shelf: Database, query: str) -> None:
    async with shelf.transaction() as conn:
        with pytest.raises(InvalidInput):
            await ids(conn, query)


async def test_an_unknown_parameter_is_ignored_and_told_of_when_handling_is_lenient(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        found = bundle(
            await search(conn, SYSTEM, SearchRequest("Observation", [("bogus", "1"), ("status", "final")], BASE))
        )
    assert found["link"] == [{"relation": "self", "url": f"{BASE}/Observation?status=final"}]
    match, outcome = found["entry"]
    assert (match["search"], outcome["search"]) == ({"mode": "match"}, {"mode": "outcome"})
    assert outcome["resource"]["issue"][0]["expression"] == ["http.bogus"]
    assert found["total"] == 1


@pytest.mark.parametrize(
    "slip", ["Patient=p0", "patients=p0", "pateint=p0", "patient=", "subject=", "Status=final", "_Code=1", "_HAS:a:b=c"]
)
async def test_a_slip_of_what_narrows_a_search_is_refused_however_lenient(shelf: Database, slip: str) -> None:
    name, _, value = slip.partition("=")
    async with shelf.transaction() as conn:
        with pytest.raises(InvalidInput, match="meant"):
            await search(conn, SYSTEM, SearchRequest("Observation", [(name, value)], BASE))
        with pytest.raises(InvalidInput, match="meant"):
            await search(
                conn, SYSTEM, SearchRequest("", [("_type", "Observation,Organization"), ("patient", "p0")], BASE)
            )


@pytest.fixture(scope="module")
async def fifteen(module_database: Database) -> Database:
    """Fifteen tasks."""
    async with module_database.transaction() as conn:
        for number in range(15):
            await resources.put(conn, {"resourceType": "Task", "id": f"t{number}", "status": "requested"})
    return module_database


@pytest.mark.parametrize("sort", [None, "_lastUpdated", "-_lastUpdated", "_id", "-_id"])
@pytest.mark.parametrize("count", [1, 2, 7, 50])
async def test_the_union_of_the_pages_is_the_unpaged_set(fifteen: Database, sort: str | None, count: int) -> None:
    async with fifteen.transaction() as conn:
        params: list[tuple[str, str]] | None = [("_count", str(count)), *([("_sort", sort)] if sort else [])]
        seen: list[str] = []
        while params is not None:
            page = await search(conn, SYSTEM, SearchRequest("Task", params, BASE, strict=True))
            entries = bundle(page)["entry"]
            assert len(entries) <= count
            seen += [e["resource"]["id"] for e in entries]
            params = next_link(page)
        whole = await ids(conn, f"_count=1000{f'&_sort={sort}' if sort else ''}", "Task")
    assert seen == whole
    assert len(seen) == len(set(seen)) == 15


async def test_pages_hold_still_while_others_write(database: Database) -> None:
    async with database.transaction() as conn:
        for number in range(10):
            await resources.put(conn, observation(number))
        first = await search(conn, SYSTEM, SearchRequest("Observation", [("_count", "4")], BASE))
        await resources.put(conn, observation(1, status="final"))
        await resources.put(conn, observation(8, status="final"))
        await resources.put(conn, observation(99))
        params, seen = next_link(first), [e["resource"]["id"] for e in bundle(first)["entry"]]
        while params is not None:
            page = await search(conn, SYSTEM, SearchRequest("Observation", params, BASE))
            seen += [e["resource"]["id"] for e in bundle(page)["entry"]]
            params = next_link(page)
    assert seen == [f"o{n}" for n in [*range(10), 99]]


async def test_the_total_counts_matches_only_and_on_every_page(shelf: Database) -> None:
    params = [("_count", "2"), ("_total", "accurate"), ("_include", "Observation:subject")]
    async with shelf.transaction() as conn:
        first = await search(conn, SYSTEM, SearchRequest("Observation", params, BASE))
        second = await search(conn, SYSTEM, SearchRequest("Observation", next_link(first) or [], BASE))
        counted = await search(conn, SYSTEM, SearchRequest("Observation", [("_summary", "count")], BASE))
    assert [bundle(found)["total"] for found in (first, second, counted)] == [5, 5, 5]
    assert "entry" not in bundle(counted)


async def test_includes_come_once_and_marked(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        found = await search(
            conn, SYSTEM, SearchRequest("Observation", [("_include", "Observation:subject:Patient")], BASE)
        )
        modes = [(e["resource"]["id"], e["search"]["mode"]) for e in bundle(found)["entry"]]
        assert modes[5:] == [("p0", "include"), ("p1", "include")]
        back = await search(
            conn, SYSTEM, SearchRequest("Patient", [("_id", "p1"), ("_revinclude", "Observation:subject")], BASE)
        )
        assert [e["resource"]["id"] for e in bundle(back)["entry"]] == ["p1", "o1"]
        chain = [
            ("_id", "p0"),
            ("_revinclude", "Observation:subject"),
            ("_revinclude:iterate", "Observation:derived-from"),
        ]
        further = await search(conn, SYSTEM, SearchRequest("Patient", chain, BASE))
        assert [e["resource"]["id"] for e in bundle(further)["entry"]] == ["p0", "o0", "o2", "o4"]


async def test_includes_never_show_a_type_that_the_reader_may_not_read(shelf: Database) -> None:
    reader = Reader("x", (Scope("system", "Observation", frozenset("rs")),))
    async with shelf.transaction() as conn:
        found = await search(conn, reader, SearchRequest("Observation", [("_include", "Observation:subject")], BASE))
        assert {e["resource"]["resourceType"] for e in bundle(found)["entry"]} == {"Observation"}
        with pytest.raises(Forbidden):
            await search(conn, reader, SearchRequest("Patient", [("_revinclude", "Observation:subject")], BASE))


async def test_a_patient_scope_opens_nothing_without_a_patient(shelf: Database) -> None:
    reader = Reader("x", (Scope("patient", "*", frozenset("rs")),))
    async with shelf.transaction() as conn:
        with pytest.raises(Forbidden):
            await search(conn, reader, SearchRequest("Observation", [], BASE))


async def test_the_patients_whom_a_page_is_about_are_told_for_the_audit(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        assert (await search(conn, SYSTEM, SearchRequest("Observation", [], BASE))).patient_ids == ("p0", "p1")
        assert (await search(conn, SYSTEM, SearchRequest("Patient", [("_id", "p1")], BASE))).patient_ids == ("p1",)
        assert (await search(conn, SYSTEM, SearchRequest("Observation", [("status", "final")], BASE))).patient_ids == ()
        await resources.put(conn, {"resourceType": "Device", "id": "d"})
        await resources.put(conn, observation(7, device={"reference": "Device/d"}))
        behind = [("_id", "d"), ("_revinclude", "Observation:device")]
        assert (await search(conn, SYSTEM, SearchRequest("Device", behind, BASE))).patient_ids == ("p1",)
        await resources.delete(conn, SYSTEM, "Observation", "o7")


async def test_a_type_that_is_not_served_is_not_found(database: Database) -> None:
    async with database.transaction() as conn:
        for resource_type in ("Nonsense", "AuditEvent"):
            with pytest.raises(NotFound):
                await search(conn, SYSTEM, SearchRequest(resource_type, [], BASE))


async def test_values_too_long_for_an_index_are_stored_and_found(database: Database) -> None:
    long = "ä" * 20_000
    async with database.transaction() as conn:
        await resources.put(
            conn,
            {"resourceType": "Patient", "id": "p", "identifier": [{"value": long}], "name": [{"family": long}]},
        )
        assert await ids(conn, f"identifier={long}", "Patient") == ["p"]
        assert await ids(conn, f"identifier={long}x", "Patient") == []
        assert await ids(conn, f"family:exact={long}", "Patient") == ["p"]


async def test_open_ended_quantities_and_ranges_are_found_as_far_as_they_reach(database: Database) -> None:
    async with database.transaction() as conn:
        for comparator, name in (("<", "less"), (">=", "more"), ("", "five")):
            quantity = {"value": 5, "unit": "mL", **({"comparator": comparator} if comparator else {})}
            await resources.put(conn, {"resourceType": "Observation", "id": name, "valueQuantity": quantity})
        for name, prediction in (
            ("half", {"probabilityDecimal": 0.5}),
            ("up", {"probabilityRange": {"low": {"value": 1}}}),
        ):
            await resources.put(conn, {"resourceType": "RiskAssessment", "id": name, "prediction": [prediction]})

        assert await ids(conn, "value-quantity=lt1&_sort=_id") == ["less"]
        assert await ids(conn, "value-quantity=gt9&_sort=_id") == ["more"]
        assert await ids(conn, "value-quantity=5") == ["five"]
        assert await ids(conn, "value-quantity=ap5.2||mL") == ["less", "more", "five"]
        assert await ids(conn, "probability=0.5", "RiskAssessment") == ["half"]
        assert await ids(conn, "probability=gt7", "RiskAssessment") == ["up"]


async def test_no_search_is_a_fault_of_ours_however_odd(shelf: Database) -> None:
    chance = random.Random(4)
    controls = ["_count", "_sort", "_total", "_summary", "_include", "_revinclude", "_cursor"]
    names = [*parameters_of("Observation"), *controls]
    modifiers = ["", "", ":exact", ":contains", ":missing", ":not", ":identifier", ":Patient", ":below", ":iterate"]
    dates = ["eq", "ge", "ap", "2024", "-02", "-30", "T", "10:61", "+14:00", "0001", "9999"]
    signs = ["|", ",", "\\", "$", "%", "_", "'", "*", ":", "\x00", "\ud800", "ß", "İ", "😀"]
    pieces = [*dates, *signs, "1e5", "-1", "9" * 400, "NaN", "Patient/p1", "true", "W10"]
    refused = 0
    async with shelf.transaction() as conn:
        for _ in range(800):
            name = chance.choice(names) + chance.choice(modifiers)
            value = "".join(chance.choices(pieces, k=chance.randint(0, 4)))
            try:
                async with conn.transaction():
                    await search(conn, SYSTEM, SearchRequest("Observation", [(name, value)], BASE))
            except InvalidInput:
                refused += 1
    assert 200 < refused < 750
