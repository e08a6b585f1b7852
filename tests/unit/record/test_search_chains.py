"""Chains, `_has`, and `_include`: searches across references, and what of it a reader may see."""

from __future__ import annotations

import pytest
from tests.unit.record.searching import BASE, found, included, observation, put, reader_of, resource, to

from wetread.domain.reader import SYSTEM
from wetread.errors import Forbidden, InvalidInput, Refused, TooCostly
from wetread.record.search import includes
from wetread.record.search.search import SearchRequest, search
from wetread.store.database import Database


@pytest.fixture(scope="module")
async def ward(module_database: Database) -> Database:
    """Two patients of two organizations, one within the other, with orders, findings and reports; read only."""
    async with module_database.transaction() as conn:
        await put(
            conn,
            resource("Organization", "trust", name="North Trust"),
            resource("Organization", "clinic", name="Eye Clinic", partOf=to("Organization/trust")),
            resource("Practitioner", "rey", name=[{"family": "Rey"}]),
            resource("Patient", "ann", name=[{"family": "Ann"}], managingOrganization=to("Organization/clinic")),
            resource("Patient", "bob", name=[{"family": "Bob"}], managingOrganization=to("Organization/trust")),
            resource("Group", "mice", type="animal", actual=True, code={"text": "mice"}),
            resource("Device", "ann", deviceName=[{"name": "Ann", "type": "other"}]),
            observation("a1", subject=to("Patient/ann"), performer=[to("Practitioner/rey")]),
            observation("a2", "2-2", subject=to("Patient/ann"), hasMember=[to("Observation/a1")]),
            observation("b1", subject=to("Patient/bob"), performer=[to("Organization/trust")]),
            observation("m1", subject=to("Group/mice")),
            observation("d1", subject=to("Device/ann")),
            resource("DiagnosticReport", "r1", status="final", code={"text": "x"}, result=[to("Observation/a2")]),
            resource("Provenance", "p1", target=[to("Observation/a1")], recorded="2024-01-01T00:00:00Z", agent=[{}]),
            resource("List", "mine", status="current", mode="working", entry=[{"item": to("Observation/b1")}]),
            resource("Measure", "m", url="https://m.example/one", status="active", title="Reads"),
            resource("MeasureReport", "mr", measure="https://m.example/one|2", status="complete", type="summary"),
        )
    return module_database


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Observation?subject:Patient.family=ann", ["a1", "a2"]),
        ("Observation?patient.family=bob", ["b1"]),
        ("Observation?subject.family=bob", ["b1"]),
        ("Observation?subject:Patient._id=bob", ["b1"]),
        ("Observation?subject._id=ann", ["a1", "a2", "d1"]),
        ("Observation?patient.organization.name=eye", ["a1", "a2"]),
        ("Observation?patient.organization.name:exact=Eye Clinic,North Trust", ["a1", "a2", "b1"]),
        ("Observation?subject:Patient.organization:Organization.partof:Organization.name=north", ["a1", "a2"]),
        ("Observation?patient.organization=Organization/trust", ["b1"]),
        ("Observation?patient.organization:missing=true", []),
        ("Observation?performer.name=rey,north", ["a1", "b1"]),
        ("Observation?performer:Practitioner.name=rey&patient.family=ann", ["a1"]),
        ("DiagnosticReport?result.patient.family=ann", ["r1"]),
        ("DiagnosticReport?result.has-member.performer:Practitioner.family=rey", ["r1"]),
        ("Patient?_has:Observation:patient:code=2-2", ["ann"]),
        ("Patient?_has:Observation:patient:code=1-1", ["ann", "bob"]),
        ("Patient?_has:Observation:subject:performer.name=rey", ["ann"]),
        ("Patient?_has:Observation:patient:_has:DiagnosticReport:result:status=final", ["ann"]),
        ("Organization?_has:Patient:organization:_has:Observation:patient:_id=b1", ["trust"]),
        ("Observation?patient._has:Observation:patient:code=2-2", ["a1", "a2"]),
        ("Observation?_has:Provenance:target:recorded=2024", ["a1"]),
        ("Observation?_list=mine", ["b1"]),
        ("MeasureReport?measure=https://m.example/one", ["mr"]),
    ],
)
async def test_a_search_goes_along_references(ward: Database, query: str, expected: list[str]) -> None:
    async with ward.transaction() as conn:
        assert await found(conn, query) == expected


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("Observation?subject:Nonsense.name=x", InvalidInput),
        ("Observation?subject:Patient.bogus=x", InvalidInput),
        ("Observation?subject.bogus=x", InvalidInput),
        ("Observation?code.name=x", InvalidInput),
        ("Observation?bogus.name=x", InvalidInput),
        ("Observation?" + "has-member." * 12 + "code=x", InvalidInput),
        ("Patient?_has:Observation:code:code=x", InvalidInput),
        ("Patient?_has:Nonsense:patient:code=x", InvalidInput),
        ("Patient?_has:Observation:patient=x", InvalidInput),
        ("Patient?_has=x", InvalidInput),
        ("Patient?_list=$current-problems", Refused),
        ("Patient?_query=x", Refused),
        ("Location?near=1|2", Refused),
    ],
)
async def test_a_chain_that_leads_nowhere_is_refused(ward: Database, query: str, refusal: type[Refused]) -> None:
    async with ward.transaction() as conn:
        with pytest.raises(refusal):
            await found(conn, query)


async def test_a_chain_never_looks_into_a_type_that_the_reader_may_not_search(ward: Database) -> None:
    reader = reader_of("Observation", "Organization", "Device")
    async with ward.transaction() as conn:
        for query in (
            "Observation?subject:Patient.family=ann",
            "Observation?patient.family=ann",
            "Observation?subject:Patient.organization.name=north",
            "Organization?_has:Patient:organization:family=ann",
            "Observation?_has:DiagnosticReport:result:status=final",
            "Observation?_list=mine",
        ):
            with pytest.raises(Forbidden):
                await found(conn, query, reader)
        assert await found(conn, "Observation?subject._id=ann", reader) == ["d1"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Observation?_id=a1&_include=Observation:subject", {"ann"}),
        ("Observation?_id=a1&_include=Observation:subject:Group", set()),
        ("Observation?_id=a1&_include=Observation:subject&_include:iterate=Patient:organization", {"ann", "clinic"}),
        (
            "Observation?_id=a1&_include=Observation:subject&_include:iterate=Patient:organization"
            "&_include:iterate=Organization:partof",
            {"ann", "clinic", "trust"},
        ),
        ("Observation?_id=a1&_include=Observation:subject&_include=Patient:organization", {"ann"}),
        ("Observation?_id=a1&_include=*", {"ann", "rey"}),
        ("Observation?_id=a1&_include=Observation:*", {"ann", "rey"}),
        ("Observation?_id=a1&_include:iterate=*", {"ann", "rey", "clinic", "trust"}),
        ("Patient?_id=ann&_revinclude=Observation:*", {"a1", "a2"}),
        ("Patient?_id=ann&_revinclude=Observation:patient&_revinclude:iterate=*", {"a1", "a2", "r1", "p1"}),
        ("Observation?_id=a1&_revinclude=*", {"a2", "p1"}),
        ("Observation?_id=a1&_revinclude=Provenance:target:Observation", {"p1"}),
        ("Observation?_id=a1&_revinclude=Provenance:target:Patient", set()),
        ("MeasureReport?_include=MeasureReport:measure", {"m"}),
    ],
)
async def test_an_include_brings_what_is_linked(ward: Database, query: str, expected: set[str]) -> None:
    async with ward.transaction() as conn:
        assert await included(conn, query) == expected


async def test_a_wildcard_never_brings_a_type_that_the_reader_may_not_read(ward: Database) -> None:
    reader = reader_of("Observation", "Practitioner")
    async with ward.transaction() as conn:
        assert await included(conn, "Observation?_id=a1&_include:iterate=*&_revinclude:iterate=*", reader) == {
            "rey",
            "a2",
        }


async def test_a_page_that_would_include_too_much_has_fewer_matches_and_the_next_goes_on(
    ward: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(includes, "MOST_INCLUDED", 1)
    async with ward.transaction() as conn:
        assert await found(conn, "Observation?_id=a1,b1&_include=Observation:subject") == ["a1"]
        with pytest.raises(TooCostly):
            await search(
                conn, SYSTEM, SearchRequest("Observation", [("_id", "a1"), ("_include", "Observation:*")], BASE)
            )
