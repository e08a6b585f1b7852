"""Reading the audit record."""

import json
import socket
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from fhir.resources.R4B.bundle import Bundle

from wetread.domain.reader import Reader, Scope
from wetread.errors import Forbidden, InvalidInput, NotFound
from wetread.record.audit import audit
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.store.database import Database

AUDITOR = Reader("auditor", (Scope.parse("user/AuditEvent.rs"),))
GOVERNOR = Reader("governor", (Scope.parse("user/AuditEvent.rs"),), frozenset({"governance"}))
EVERYTHING = Reader("app", (Scope.parse("system/*.cruds"),))
BASE = "http://localhost:8080/fhir"

STUDY = Entity(what="ImagingStudy/s1", identifier="urn:oid:1.2.3")
ENTRIES = (
    AuditEntry("read", "R", "0", "viewer", patient_id="p1", entities=(STUDY,), user="Practitioner/r1"),
    AuditEntry("search", "E", "0", "viewer", patient_id="p2"),
    AuditEntry("ai-inference", "E", "8", "Device/d1", patient_id="p1", entities=(STUDY,)),
    AuditEntry("ai-inference", "E", "0", "Device/d2", patient_id="p1", governance_only=True),
    AuditEntry("login", "E", "0", "r1"),
    AuditEntry("page-viewed", "R", "0", "app", "192.0.2.7", user="Patient/p9", token_id="0f2e", roles=("radiologist",)),
)


async def _fill(database: Database, entries: tuple[AuditEntry, ...] = ENTRIES) -> list[str]:
    async with database.transaction() as conn:
        return await audit.write_many(conn, entries)


async def _search(database: Database, query: str, reader: Reader = AUDITOR) -> dict[str, Any]:
    async with database.transaction() as conn:
        text = await audit.search(conn, reader, parse_qsl(query, keep_blank_values=True), BASE)
    bundle: dict[str, Any] = json.loads(text)
    Bundle.model_validate(bundle)
    return bundle


def _ids(bundle: dict[str, Any]) -> list[str]:
    return [entry["resource"]["id"] for entry in bundle.get("entry", [])]


async def test_each_filter_finds_its_records_newest_first(database: Database) -> None:
    read, search, inference, _, login, by_patient = await _fill(database)
    expected = {
        "": [by_patient, login, inference, search, read],
        f"_id={read}": [read],
        "_id=none": [],
        "patient=p1": [inference, read],
        "patient=Patient/p1,Patient/p2": [inference, search, read],
        "entity=ImagingStudy/s1": [inference, read],
        "entity=Patient/p2": [search],
        "entity:identifier=urn:ietf:rfc:3986|urn:oid:1.2.3": [inference, read],
        "agent=viewer": [search, read],
        "agent=Practitioner/r1": [read],
        "type=rest": [search, read],
        "type=http://dicom.nema.org/resources/ontology/DCM|110114": [login],
        "type=http://dicom.nema.org/resources/ontology/DCM|rest": [],
        "subtype=ai-inference": [inference],
        "subtype=read,search": [search, read],
        "action=E": [login, inference, search],
        "action=R": [by_patient, read],
        "outcome=8": [inference],
        "patient=p1&outcome=0": [read],
        "patient=Patient/p9": [by_patient],
        f"patient={BASE}/Patient/p2": [search],
        f"entity={BASE}/ImagingStudy/s1": [inference, read],
        "agent:identifier=urn:wetread:principal|viewer": [search, read],
        "agent-name=practitioner/R": [read],
        "agent-name=ractitioner": [],
        "agent-role=radiologist": [by_patient],
        "address=192.0.2": [by_patient],
        "address=192x0": [],
        "policy=urn:ietf:params:oauth:jti:0f2e": [by_patient],
        "entity-type=http://terminology.hl7.org/CodeSystem/audit-entity-type|1": [inference, search, read],
        "entity-role=1": [inference, search, read],
        "entity-name=x": [],
        "source:identifier=urn:wetread:server|wetread": [by_patient, login, inference, search, read],
        "source:identifier=elsewhere": [],
        "source=Device/1": [],
        f"site={socket.gethostname()}": [by_patient, login, inference, search, read],
        "_sort=date&type=rest": [read, search],
        "patient=p1&patient=p2": [],
    }
    for query, ids in expected.items():
        assert _ids(await _search(database, query)) == ids, query


async def test_dates_select_by_their_precision(database: Database) -> None:
    [audit_id] = await _fill(database, ENTRIES[:1])
    async with database.transaction() as conn:
        recorded = datetime.fromisoformat(json.loads(await audit.read(conn, AUDITOR, audit_id))["recorded"])
    year, day, second = recorded.strftime("%Y"), recorded.strftime("%Y-%m-%d"), recorded.strftime("%Y-%m-%dT%H:%M:%S")
    tomorrow = (recorded + timedelta(days=1)).strftime("%Y-%m-%d")
    elsewhere = (recorded + timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S%%2B05:00")
    found = (day, year, f"{second}Z", f"ge{day}", f"le{day}", f"lt{tomorrow}", f"ne{tomorrow}", "gt2001-12", elsewhere)
    not_found = (tomorrow, f"gt{day}", f"lt{day}", f"ne{day}", f"sa{year}", f"eb{year}-01-01", "2001-12-31T23:59Z")
    for value in found:
        assert _ids(await _search(database, f"date={value}")) == [audit_id], value
    for value in not_found:
        assert _ids(await _search(database, f"date={value}")) == [], value
    assert recorded.tzinfo == UTC


@pytest.mark.parametrize("sort", ["", "&_sort=date"])
async def test_pages_are_disjoint_and_complete_while_records_are_added(database: Database, sort: str) -> None:
    ids = await _fill(database, tuple(AuditEntry("read", "R", "0", f"r{n}", patient_id="p1") for n in range(7)))
    query, seen, pages = f"patient=p1&_count=3&_total=accurate{sort}", [], 0
    while query and pages < 4:
        bundle = await _search(database, query)
        seen += _ids(bundle)
        pages += 1
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        query = urlsplit(links.get("next", "")).query
        await _fill(database, (AuditEntry("read", "R", "0", "late", patient_id="p1"),))
    if sort:
        assert seen[:7] == ids  # and what was added meanwhile comes after
    else:
        assert seen == list(reversed(ids))
        assert pages == 3


async def test_a_total_is_counted_when_asked_for(database: Database) -> None:
    await _fill(database)
    bundle = await _search(database, "patient=p1&_count=0")
    assert (bundle["total"], _ids(bundle)) == (2, [])
    assert "total" not in await _search(database, "patient=p1")


async def test_what_is_for_governance_only_is_found_read_and_exported_by_its_roles_alone(database: Database) -> None:
    hidden = (await _fill(database))[3]
    assert hidden in _ids(await _search(database, "patient=p1", GOVERNOR))
    for reader in (AUDITOR, EVERYTHING):
        assert hidden not in _ids(await _search(database, "patient=p1", reader))
        assert hidden not in _ids(await _search(database, f"_id={hidden}", reader))
        assert (await _search(database, "_total=accurate", reader))["total"] == 5
        async with database.transaction() as conn:
            assert len([line async for line in audit.export(conn, reader)]) == 5
            with pytest.raises(NotFound):
                await audit.read(conn, reader, hidden)
    async with database.transaction() as conn:
        assert json.loads(await audit.read(conn, GOVERNOR, hidden))["id"] == hidden
        lines = [line async for line in audit.export(conn, GOVERNOR)]
    assert [json.loads(line)["agent"][0]["who"] for line in lines][3] == {"reference": "Device/d2"}


async def test_a_reader_without_the_scope_is_refused(database: Database) -> None:
    reader = Reader("app", (Scope.parse("user/Patient.rs"), Scope.parse("patient/AuditEvent.rs")), patient_id="p1")
    async with database.transaction() as conn:
        with pytest.raises(Forbidden):
            await audit.search(conn, reader, [], BASE)
        with pytest.raises(Forbidden):
            await audit.read(conn, reader, "any")
        with pytest.raises(Forbidden):
            _ = [line async for line in audit.export(conn, reader)]


async def test_a_query_that_is_not_understood_is_refused(database: Database) -> None:
    queries = (
        "colour=red",
        "date=yesterday",
        "date=2024-02-31",
        "_count=-1",
        "_sort=patient",
        "_page=x",
        "agent=a%00",
        "agent-name=%00",
        "_include=*",
    )
    for query in queries:
        with pytest.raises(InvalidInput):
            await _search(database, query)
