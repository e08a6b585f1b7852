"""Sorted searches, page by page, also while others write; totals; searches of the system and of compartments; parts."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.record.searching import (
    BASE,
    bundle,
    entries,
    found,
    next_page,
    observation,
    put,
    quantity,
    reader_of,
    resource,
    to,
)

from wetread.domain.reader import SYSTEM
from wetread.errors import Forbidden, InvalidInput, NotFound, TooCostly
from wetread.record import resources
from wetread.record.search import search as search_module
from wetread.record.search.search import SearchRequest, search
from wetread.store.database import Connection, Database

DAYS = ("2024-03-01", "2024-03-02", "2024-03-02T10:00:00Z", None)


def finding(number: int, **more: Any) -> dict[str, Any]:
    day = DAYS[number % 4]
    return observation(
        f"o{number}",
        f"{number % 3}-0",
        valueQuantity=quantity(number % 5, "mg"),
        subject=to(f"Patient/p{number % 2}"),
        **({"effectiveDateTime": day} if day else {}),
        **more,
    )


@pytest.fixture(scope="module")
async def shelf(module_database: Database) -> Database:
    """Twenty-three findings of two patients; read only."""
    async with module_database.transaction() as conn:
        await put(conn, resource("Patient", "p0", birthDate="1980-01-01"), resource("Patient", "p1"))
        await put(conn, *(finding(number) for number in range(23)))
        await put(
            conn,
            resource("Encounter", "e", status="finished", **{"class": {"code": "AMB"}}, subject=to("Patient/p0")),
            resource("DiagnosticReport", "r", status="final", code={"text": "x"}, subject=to("Patient/p0")),
            resource("ServiceRequest", "s", status="active", intent="order", subject=to("Patient/p1")),
            resource("Device", "d", patient=to("Patient/p0"), meta={"tag": [{"code": "spare"}]}),
            resource("ImagingStudy", "i", status="available", subject=to("Patient/p0")),
            resource("DiagnosticReport", "ri", status="final", code={"text": "x"}, imagingStudy=[to("ImagingStudy/i")]),
        )
    return module_database


async def walk(
    conn: Connection, params: list[tuple[str, str]], between: Callable[[int], Awaitable[None]] | None = None
) -> list[str]:
    """The ids on all pages, in their order; `between` is done after each page."""
    asked: list[tuple[str, str]] | None = params
    seen: list[str] = []
    while asked is not None:
        page = await search(conn, SYSTEM, SearchRequest("Observation", asked, BASE, strict=True))
        seen += entries(page, "match")
        asked = next_page(page)
        if between:
            await between(len(seen))
    return seen


@pytest.mark.parametrize(
    "sort",
    ["date", "-date", "code,-value-quantity", "-date,code,-_id", "patient,-date", "-_lastUpdated", "status", "_id"],
)
@pytest.mark.parametrize("count", [1, 4, 22])
async def test_the_union_of_sorted_pages_is_the_unpaged_set(shelf: Database, sort: str, count: int) -> None:
    async with shelf.transaction() as conn:
        whole = await walk(conn, [("_sort", sort), ("_count", "1000")])
        assert await walk(conn, [("_sort", sort), ("_count", str(count))]) == whole
    assert len(whole) == len(set(whole)) == 23


@pytest.mark.parametrize("sort", ["date", "-date", "code", "-value-quantity", "patient", "-component-code"])
async def test_a_sort_is_the_same_however_much_is_asked_for(shelf: Database, sort: str) -> None:
    """A search that leaves many is read along the index, one that leaves few is sorted."""
    async with shelf.transaction() as conn:
        many = await walk(conn, [("_sort", sort), ("_count", "4"), ("status", "final")])
        few = await walk(conn, [("_sort", sort), ("_count", "4"), ("subject:missing", "false")])
    assert many == few
    assert len(many) == len(set(many)) == 23


async def test_a_sort_is_in_order_and_puts_last_what_has_no_value(shelf: Database) -> None:
    def day(id_: str) -> str:
        return DAYS[int(id_[1:]) % 4] or "none"

    async with shelf.transaction() as conn:
        rising = [day(id_) for id_ in await found(conn, "Observation?_sort=date")]
        falling = [day(id_) for id_ in await found(conn, "Observation?_sort=-date")]
        both = await found(conn, "Observation?_sort=-value-quantity,_id&_count=6")
    assert rising == sorted(rising, key=str)
    assert falling == [*sorted((d for d in falling if d != "none"), reverse=True), *["none"] * 5]
    assert both == ["o14", "o19", "o4", "o9", "o13", "o18"]


@pytest.mark.parametrize("sort", ["_lastUpdated", "-_lastUpdated", "date", "-date,code"])
async def test_sorted_pages_hold_still_while_others_write(database: Database, sort: str) -> None:
    """What is there throughout comes once, though its sort key changes; what is made meanwhile stays out."""
    chance = random.Random(sort)
    async with database.transaction() as conn:
        await put(conn, *(finding(number) for number in range(20)))
        before = await walk(conn, [("_sort", sort), ("_count", "1000")])

        async def change(seen: int) -> None:
            for number in chance.sample(range(20), 4):
                changed = {**finding(chance.randint(0, 19)), "id": f"o{number}", "note": [{"text": f"{seen}"}]}
                await put(conn, changed)
            await put(conn, finding(100 + seen))

        assert await walk(conn, [("_sort", sort), ("_count", "3")], change) == before


@pytest.mark.parametrize("sort", ["patient", "-patient"])
async def test_what_refers_by_identifier_alone_stands_last_also_when_it_is_changed_meanwhile(
    database: Database, sort: str
) -> None:
    unknown = {"subject": {"identifier": {"system": "urn:test", "value": "x"}}}
    async with database.transaction() as conn:
        await put(conn, finding(0), finding(1), {**finding(2), **unknown}, {**finding(3), **unknown})
        whole = await walk(conn, [("_sort", sort), ("_count", "1000")])
        few = [("subject:missing", "false"), ("_sort", sort), ("_count", "1")]
        assert whole[2:] == ["o2", "o3"]
        assert await walk(conn, few) == whole

        async def change(seen: int) -> None:
            await put(conn, {**finding(3), **unknown, "note": [{"text": f"{seen}"}]})

        assert await walk(conn, [("_sort", sort), ("_count", "1")], change) == whole


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("date=ge2024-03-02&date=lt2024-03-03", ["day", "noon", "month", "open"]),
        ("date=ge2024-03-02&date=le2024-03-02", ["day", "noon", "month", "open"]),
        ("date=sa2024-03-01&date=eb2024-03-03", ["day", "noon"]),
        ("date=gt2024-03-02T11:00:00Z&date=lt2024-03-02T13:00:00Z", ["day", "noon", "month", "open"]),
        ("date=ge2024-04&date=lt2024-05", ["open"]),
        ("date=ge2024-03&date=lt2024-04&date=ne2024-03-02", ["month", "open"]),
        ("date=2024-03-02&date=2024-03-02T12:00:00Z", ["noon"]),
        ("date=ge9998&date=lt9998-12-31", ["open"]),
        ("date=ge0001&date=lt0001-02", []),
    ],
)
async def test_a_span_of_dates_finds_what_reaches_into_it(
    module_database: Database, span: str, expected: list[str]
) -> None:
    async with module_database.transaction() as conn:
        for id_, when in (
            ("day", {"effectiveDateTime": "2024-03-02"}),
            ("noon", {"effectiveDateTime": "2024-03-02T12:00:00Z"}),
            ("month", {"effectiveDateTime": "2024-03"}),
            ("open", {"effectivePeriod": {"start": "2024-01-01"}}),
        ):
            await put(conn, observation(id_, "span", **when))
        assert await found(conn, f"Observation?code=span&{span}") == expected
        for id_ in ("day", "noon", "month", "open"):
            await resources.delete(conn, SYSTEM, "Observation", id_)


async def test_the_last_update_is_an_instant_of_a_millisecond(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        first = bundle(await search(conn, SYSTEM, SearchRequest("Observation", [("_id", "o7")], BASE)))["entry"][0][
            "resource"
        ]
        at = first["meta"]["lastUpdated"]
        for prefix, is_found in (
            ("eq", True),
            ("ne", False),
            ("ge", True),
            ("le", True),
            ("gt", False),
            ("lt", False),
            ("sa", False),
            ("eb", False),
            ("ap", True),
        ):
            assert ("o7" in await found(conn, f"Observation?_id=o7&_lastUpdated={prefix}{at}")) is is_found, prefix
            assert ("o7" in await found(conn, f"Observation?_lastUpdated={prefix}{at[:16]}Z")) is is_found, prefix
        page = bundle(await search(conn, SYSTEM, SearchRequest("Observation", [("_count", "5000")], BASE)))
    assert page["link"][0]["url"] == f"{BASE}/Observation?_count=1000"


async def test_totals_on_request(shelf: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def total(*params: tuple[str, str]) -> int | None:
        answer = bundle(await search(conn, SYSTEM, SearchRequest("Observation", [("_count", "5"), *params], BASE)))
        return answer.get("total")

    async with shelf.transaction() as conn:
        assert await total() is None
        assert await total(("_total", "none"), ("_count", "100")) is None
        assert await total(("_count", "100")) == 23
        assert await total(("_total", "accurate"), ("_sort", "-date")) == 23
        assert await total(("_total", "estimate"), ("code", "1-0")) == 8
        assert await total(("_summary", "count"), ("code", "1-0")) == 8
        assert await total(("_count", "0"), ("patient", "p0")) == 12
        monkeypatch.setattr(search_module, "_COUNTED", 3)
        assert (await total(("_total", "estimate"), ("code", "1-0")) or 0) > 3


async def test_a_search_of_the_system_takes_the_types_that_it_names(shelf: Database) -> None:
    async def ids(*params: tuple[str, str], **more: Any) -> list[str]:
        return entries(await search(conn, more.pop("reader", SYSTEM), SearchRequest("", params, BASE, **more)), "match")

    async with shelf.transaction() as conn:
        assert await ids(("_type", "Device,Encounter")) == ["e", "d"]
        assert await ids(("_type", "ServiceRequest,Encounter"), ("patient", "p0")) == ["e"]
        assert await ids(("_tag", "spare")) == ["d"]
        assert await ids(("_id", "e,d"), reader=reader_of("Encounter")) == ["e"]
        assert await ids(("_type", "ServiceRequest,DiagnosticReport"), ("subject:Patient.birthdate", "1980")) == ["r"]
        with pytest.raises(Forbidden):
            await ids(("_type", "Device"), reader=reader_of("Encounter"))
        with pytest.raises(InvalidInput):
            await ids(("_type", "Nonsense"))
        with pytest.raises(InvalidInput):
            await ids(("_type", "Device,Encounter"), ("status", "x"), ("class", "AMB"), strict=True)
        page = await search(conn, SYSTEM, SearchRequest("", [("_type", "Device,Encounter"), ("_count", "1")], BASE))
        assert bundle(page)["link"][0]["url"] == f"{BASE}?_type=Device%2CEncounter&_count=1"
        assert entries(await search(conn, SYSTEM, SearchRequest("", next_page(page) or [], BASE)), "match") == ["d"]


async def test_a_search_of_a_compartment_stays_within(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        mine = await search(
            conn, SYSTEM, SearchRequest("Observation", [("code", "1-0")], BASE, compartment=("Patient", "p0"))
        )
        assert entries(mine, "match") == ["o4", "o10", "o16", "o22"]
        assert bundle(mine)["link"][0]["url"] == f"{BASE}/Patient/p0/Observation?code=1-0"
        all_ = await search(conn, SYSTEM, SearchRequest("", [("_type", "Patient,Encounter,ServiceRequest")], BASE,
                                   compartment=("Patient", "p0")))  # fmt: skip
        assert entries(all_, "match") == ["p0", "e"]
        everything = await search(
            conn, SYSTEM, SearchRequest("", [("_summary", "count")], BASE, compartment=("Patient", "p0"))
        )
        assert bundle(everything)["total"] == 12 + len(["p0", "e", "r", "i"])
        outside = await search(conn, SYSTEM, SearchRequest("Organization", [], BASE, compartment=("Patient", "p0")))
        assert entries(outside, "match") == []
        with pytest.raises(NotFound):
            await search(conn, SYSTEM, SearchRequest("Observation", [], BASE, compartment=("Organization", "x")))


async def test_a_report_is_found_by_its_imaging_study(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        assert await found(conn, "DiagnosticReport?imagingStudy=ImagingStudy/i") == ["ri"]
        assert await found(conn, "DiagnosticReport?imagingStudy.patient=p0") == ["ri"]


async def test_a_result_of_parts_tells_that_it_is_so(shelf: Database) -> None:
    async def resources_of(*params: tuple[str, str]) -> list[dict[str, Any]]:
        answer = bundle(
            await search(conn, SYSTEM, SearchRequest("Observation", [("_id", "o1"), *params], BASE, strict=True))
        )
        return [e["resource"] for e in answer["entry"]]

    subsetted = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
    async with shelf.transaction() as conn:
        (parts,) = await resources_of(("_elements", "value,subject"))
        assert set(parts) == {"resourceType", "id", "meta", "status", "code", "valueQuantity", "subject"}
        assert parts["meta"]["tag"] == [subsetted]
        one, patient = await resources_of(("_elements", "Patient.active"), ("_include", "Observation:subject"))
        assert "tag" not in one["meta"]
        assert patient["meta"]["tag"] == [subsetted]
        (summary,) = await resources_of(("_summary", "true"))
        assert "valueQuantity" in summary
        assert summary["meta"]["tag"] == [subsetted]
        with pytest.raises(InvalidInput):
            await resources_of(("_summary", "text"), ("_include", "Observation:subject"))
        with pytest.raises(InvalidInput):
            await resources_of(("_summary", "true"), ("_elements", "code"))


async def test_a_search_that_takes_too_long_is_stopped_in_the_database(database: Database) -> None:
    async with database.transaction() as conn:
        await conn.execute(
            """INSERT INTO resource (resource_type, id, version_id, last_updated, deleted, body)
               SELECT 'Basic', 'b' || n, 1, now(), false, '{}' FROM generate_series(1, 20000) n"""
        )
    params = [("author:missing", "true"), ("_sort", "author")]
    with pytest.raises(TooCostly):
        async with database.transaction() as conn:
            await search(conn, SYSTEM, SearchRequest("Basic", params, BASE, time_limit_s=0.005))
    async with database.transaction() as conn:
        running = await conn.execute(
            """SELECT count(*) FROM pg_stat_activity
               WHERE query LIKE '%LATERAL%' AND state = 'active' AND pid <> pg_backend_pid()"""
        )
        assert await running.fetchone() == (0,)


async def test_a_search_is_planned_for_its_own_values_however_often_it_is_asked(shelf: Database) -> None:
    """A plan that serves every value is one that looks at everything: what leaves few depends on the value."""
    params = [("patient.family", "a"), ("code", "1-0"), ("_include", "Observation:patient"), ("_total", "accurate")]
    async with shelf.transaction() as conn:
        for _ in range(12):
            await search(conn, SYSTEM, SearchRequest("Observation", params, BASE))
            await resources.find(conn, SYSTEM, "Observation", [("code", "1-0")])
        kept = await conn.execute(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%FROM resource r%IN (%'"
        )
        assert await kept.fetchall() == []


async def test_what_is_unknown_is_told_when_lenient(shelf: Database) -> None:
    params = [("bogus", "1"), ("_sort", "bogus"), ("code", ""), ("_count", "1")]
    async with shelf.transaction() as conn:
        answer = bundle(await search(conn, SYSTEM, SearchRequest("Observation", params, BASE)))
        told = answer["entry"][-1]["resource"]["issue"]
        assert [i["expression"] for i in told] == [["http.bogus"], ["http._sort"], ["http.code"]]
        assert answer["link"][0]["url"] == f"{BASE}/Observation?_count=1"
        for name, value in params[:3]:
            with pytest.raises(InvalidInput):
                await search(conn, SYSTEM, SearchRequest("Observation", [(name, value)], BASE, strict=True))
        await resources.find(conn, SYSTEM, "Observation", [("patient._id", "p0")], most=1)
