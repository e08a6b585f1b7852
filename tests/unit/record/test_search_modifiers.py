"""Modifiers, composites, units and full text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.record.searching import LOINC, UCUM, found, observation, put, quantity, resource, to

from wetread.domain.reader import SYSTEM
from wetread.errors import InvalidInput, NotFound, Refused
from wetread.record import resources
from wetread.record.search import units
from wetread.store.database import Database, SyncDatabase

DCM = "http://dicom.nema.org/resources/ontology/DCM"
OBSERVATION_STATUS = "http://hl7.org/fhir/observation-status"


def pressure(id_: str, systolic: int, diastolic: int) -> dict[str, Any]:
    parts = (("8480-6", systolic), ("8462-4", diastolic))
    components = [
        {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueQuantity": quantity(value, "mm[Hg]")}
        for code, value in parts
    ]
    return observation(id_, "85354-9", component=components)


def report(id_: str, **more: Any) -> dict[str, Any]:
    return resource("DiagnosticReport", id_, **more)


@pytest.fixture(scope="module")
async def shelf(module_database: Database) -> Database:
    """Read only."""
    narrative = '<div xmlns="http://www.w3.org/1999/xhtml">Large <b>subdural</b> haematoma; no fracture.</div>'
    head = {"coding": [{"system": DCM, "code": "CT", "display": "Computed Tomography"}], "text": "Schädel CT"}
    mrn = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}], "text": "Medical"}
    async with module_database.transaction() as conn:
        await put(
            conn,
            pressure("high", 180, 60),
            pressure("low", 60, 40),
            observation("g", "3-3", valueQuantity=quantity(0.0054, "g")),
            observation("mg", "3-3", valueQuantity=quantity(5.4, "mg")),
            observation("more", "3-3", valueQuantity=quantity(6, "mg")),
            observation("ml", "3-3", valueQuantity=quantity(5.4, "mL")),
            observation("iu", "3-3", valueQuantity=quantity(5.4, "[iU]")),
            observation("own", "3-3", valueQuantity=quantity(5.4, "drops", "urn:own")),
            observation("warm", "4-4", valueQuantity=quantity(98.6, "[degF]")),
            resource(
                "DiagnosticReport", "told", status="final", code=head, text={"status": "generated", "div": narrative}
            ),
            resource(
                "DiagnosticReport", "other", status="preliminary", code={"text": "Fracture?"}, conclusion="Subdural?"
            ),
            resource(
                "Patient",
                "p",
                identifier=[{"system": "urn:a", "value": "7", "type": mrn}, {"system": "urn:b", "value": "8"}],
                generalPractitioner=[{"identifier": {"system": "urn:gp", "value": "9"}}],
            ),
            resource("Patient", "q", identifier=[{"system": "urn:a", "value": "8"}]),
            resource(
                "ValueSet",
                "open",
                url="https://v.example/open",
                status="active",
                compose={"include": [{"system": OBSERVATION_STATUS, "concept": [{"code": "final"}]}]},
            ),
            resource(
                "CodeSystem",
                "finds",
                url="https://c.example/finds",
                status="active",
                content="complete",
                concept=[{"code": "bleed", "concept": [{"code": "subdural"}, {"code": "epidural"}]}, {"code": "none"}],
            ),
            *(
                resource("Condition", code, subject=to("Patient/p"), code={"coding": [coding]})
                for code in ("bleed", "subdural", "none")
                for coding in ({"system": "https://c.example/finds", "code": code},)
            ),
            resource("CodeSystem", "deep", url="https://c.example/finds/deep", status="active", content="not-present"),
        )
    return module_database


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # a part of one component is not a part of another
        ("component-code-value-quantity=8480-6$gt100", ["high"]),
        (f"component-code-value-quantity={LOINC}|8462-4$gt100", []),
        (f"component-code-value-quantity={LOINC}|8462-4$lt50,{LOINC}|8480-6$180", ["high", "low"]),
        ("combo-code-value-quantity=8462-4$60", ["high"]),
        ("combo-code-value-quantity=3-3$6", ["more"]),
        ("combo-code-value-quantity=8480-6$6", []),
        (f"code-value-quantity=3-3$5.4|{UCUM}|mg", ["g", "mg"]),
        ("code-value-quantity=4-4$5.4", []),
        ("component-code-value-quantity:missing=false", ["high", "low"]),
        # one base for commensurable units, each other unit by itself
        (f"value-quantity=5.4|{UCUM}|mg", ["g", "mg"]),
        (f"value-quantity=0.0054|{UCUM}|g", ["g", "mg"]),
        (f"value-quantity=5400|{UCUM}|ug", ["g", "mg"]),
        (f"value-quantity=gt5.4|{UCUM}|mg", ["more"]),
        (f"value-quantity=le5.4|{UCUM}|mg", ["g", "mg"]),
        (f"value-quantity=sa5.4|{UCUM}|mg", ["more"]),
        (f"value-quantity=ap5.5|{UCUM}|mg", ["g", "mg", "more"]),
        (f"value-quantity=5.4|{UCUM}|[iU]", ["iu"]),
        ("value-quantity=5.4|urn:own|drops", ["own"]),
        (f"value-quantity=37.0|{UCUM}|Cel", ["warm"]),
        (f"value-quantity=310|{UCUM}|K", ["warm"]),
        ("value-quantity=5.4||mg", ["mg"]),
        ("value-quantity=5.4", ["mg", "ml", "iu", "own"]),
        ("value-quantity=5", ["mg", "ml", "iu", "own"]),
        ("value-quantity=5.40", ["mg", "ml", "iu", "own"]),
        (f"value-quantity=5|{UCUM}|mg", ["g", "mg"]),
        (f"value-quantity=ne5.4|{UCUM}|mg", ["more"]),
    ],
)
async def test_quantities_and_composites(shelf: Database, query: str, expected: list[str]) -> None:
    async with shelf.transaction() as conn:
        assert await found(conn, f"Observation?{query}") == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("DiagnosticReport?code:text=computed", ["told"]),
        ("DiagnosticReport?code:text=SCHADEL", ["told"]),
        ("DiagnosticReport?code:text=tomography", []),
        ("DiagnosticReport?code:text=fracture", ["other"]),
        ("DiagnosticReport?code:missing=false", ["told", "other"]),
        ("DiagnosticReport?_text=subdural", ["told"]),
        ('DiagnosticReport?_text="subdural haematoma"', ["told"]),
        ("DiagnosticReport?_text=tomography", []),
        ("DiagnosticReport?_text=subdural -fracture", []),
        ("DiagnosticReport?_content=subdural", ["told", "other"]),
        ("DiagnosticReport?_content=schadel", ["told"]),
        ("DiagnosticReport?_content=tomography or fracture", ["told", "other"]),
        ("Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|7", ["p"]),
        ("Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|8", []),
        ("Patient?identifier:text=medical", ["p"]),
        ("Patient?identifier:not=urn:a|7", ["q"]),
        ("Patient?identifier:not=urn:a|7,urn:a|8", []),
        ("Patient?general-practitioner:identifier=urn:gp|9", ["p"]),
        ("Patient?_id:not=p", ["q"]),
        ("Patient?_id:missing=false", ["p", "q"]),
        ("Patient?_lastUpdated:missing=true", []),
        ("DiagnosticReport?status:in=https://v.example/open", []),
        ("Observation?status:in=https://v.example/open&_id=g", ["g"]),
        ("Observation?status:not-in=https://v.example/open", []),
        ("Condition?code:below=https://c.example/finds|bleed", ["bleed", "subdural"]),
        ("Condition?code:above=https://c.example/finds|subdural", ["bleed", "subdural"]),
        ("Condition?code:not=https://c.example/finds|bleed", ["subdural", "none"]),
        ("CodeSystem?url:below=https://c.example/finds", ["finds", "deep"]),
        ("CodeSystem?url:above=https://c.example/finds/deep/er", ["finds", "deep"]),
        ("Condition?subject:Patient=p&_summary=false", ["bleed", "subdural", "none"]),
        ("Condition?subject:Device=p", []),
    ],
)
async def test_modifiers(shelf: Database, query: str, expected: list[str]) -> None:
    async with shelf.transaction() as conn:
        assert await found(conn, query) == expected


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("Observation?status:in=https://v.example/unheard-of", NotFound),
        ("Observation?code:below=1-1", InvalidInput),
        (f"Observation?code:below={LOINC}|1-1", Refused),
        ("Observation?subject:below=Patient/p", InvalidInput),
        ("Patient?identifier:of-type=7", InvalidInput),
        ("Observation?code-value-quantity=1-1", InvalidInput),
        ("Observation?code-value-quantity=1-1$x", InvalidInput),
        ("Observation?code-value-quantity:not=1-1$1", InvalidInput),
        ("Observation?_text=-", InvalidInput),
        ("Observation?_id:text=x", InvalidInput),
        ("Observation?_id:in=https://v.example/open", InvalidInput),
        ("Observation?_text:exact=x", InvalidInput),
    ],
)
async def test_a_modifier_that_cannot_be_answered_is_refused(
    shelf: Database, query: str, refusal: type[Refused]
) -> None:
    async with shelf.transaction() as conn:
        with pytest.raises(refusal):
            await found(conn, query)


async def test_an_updated_resource_is_found_by_its_new_words_only(database: Database) -> None:
    async with database.transaction() as conn:
        for words in ("first", "second", "third"):
            await put(conn, report("r", status="final", code={"text": words}, conclusion=f"the {words} words"))
        assert await found(conn, "DiagnosticReport?_content=third") == ["r"]
        assert await found(conn, "DiagnosticReport?code:text=third") == ["r"]
        assert await found(conn, "DiagnosticReport?_content=first or second") == []
        await put(conn, report("r", status="final"))
        assert await found(conn, "DiagnosticReport?_content=third") == []
        assert await found(conn, "DiagnosticReport?code:missing=true") == ["r"]


@pytest.mark.parametrize(
    "query", ["Patient?family=Smith,", "Patient?family=%20", "Observation?code:text=%20", "ValueSet?url:below=x,"]
)
async def test_a_value_without_content_matches_nobody_rather_than_everybody(shelf: Database, query: str) -> None:
    async with shelf.transaction() as conn:
        with pytest.raises(InvalidInput, match="empty"):
            await found(conn, query)


async def test_a_condition_without_content_changes_nobody(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        with pytest.raises(InvalidInput, match="empty"):
            await resources.only_match(conn, SYSTEM, "Patient", "family=")


def test_a_power_that_would_take_minutes_is_no_unit() -> None:
    assert units.canonical("10*99999999") is None
    assert units.canonical("10*3/uL") is not None


async def test_the_database_speaks_utc_whatever_its_host_does(shelf: Database, sync_database: SyncDatabase) -> None:
    async with shelf.transaction() as conn:
        assert await (await conn.execute("SHOW timezone")).fetchone() == ("UTC",)
    with sync_database.transaction() as sync:
        assert sync.execute("SHOW timezone").fetchone() == ("UTC",)
