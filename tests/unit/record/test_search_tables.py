"""The tables of searches are R4's own."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tests.unit.record.searching import found, observation, put, to

from wetread.record import compartment
from wetread.record.search import index, parameters
from wetread.record.search.parameters import parameters_of, resource_types
from wetread.record.search.reindex import reindex
from wetread.store.database import Database

R4 = Path(__file__).parents[3] / "conformance/r4"


def test_the_tables_are_those_of_the_official_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(R4)
    made = runpy.run_path(str(R4 / "search_tables.py"))["texts"]()
    folder = Path(parameters.__file__).parents[1] / "data"
    for name, text in made.items():
        assert (folder / name).read_text(encoding="utf-8") == text, f"{name}: run conformance/r4/search_tables.py"


def test_a_composite_has_parts_that_there_are() -> None:
    for resource_type in resource_types():
        own = parameters_of(resource_type)
        for parameter in own.values():
            if parameter.kind == "composite":
                assert len(parameter.components) > 1
                assert all(own[part].expression for part in parameter.components)
        index.extract({"resourceType": resource_type})


def test_a_compartment_names_parameters_that_there_are() -> None:
    assert set(compartment.definitions()) == {"Patient", "Encounter", "Practitioner", "Device", "RelatedPerson"}
    of_patient = compartment.definitions()["Patient"]
    assert of_patient["Observation"] == ("subject", "performer")
    for resource_type in ("Condition", "DiagnosticReport", "Encounter", "ImagingStudy", "Media", "Provenance"):
        assert of_patient[resource_type]


async def test_an_index_made_anew_finds_the_same(database: Database) -> None:
    async with database.transaction() as conn:
        await put(conn, *(observation(f"o{n}", subject=to("Patient/p")) for n in range(5)))
        await conn.execute("DELETE FROM index_token")
        await conn.execute("UPDATE index_reference SET target_id = 'q'")
    done: int | None = 0
    while done is not None:
        async with database.transaction() as conn:
            done = await reindex(conn, after=done, most=2)
    async with database.transaction() as conn:
        assert await found(conn, "Observation?patient=p&code=1-1") == [f"o{n}" for n in range(5)]
        assert await found(conn, "Observation?patient=q") == []
