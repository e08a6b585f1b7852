"""The official R4 examples of the types that the store holds."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM
from wetread.record import lossless, resources
from wetread.record.search import index
from wetread.record.search.parameters import resource_types
from wetread.record.validation import validate
from wetread.store.database import Database

FILES = sorted((Path(__file__).parents[2] / "data/fhir/examples").glob("*.json"))

WITHOUT_EXAMPLE = {
    *("SubstanceNucleicAcid", "SubstancePolymer", "SubstanceProtein", "SubstanceReferenceInformation"),
    "SubstanceSourceMaterial",
}
"""The specification has none of these."""


def content(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig")


def without_identity(resource: dict[str, Any]) -> dict[str, Any]:
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")}
    rest = {k: v for k, v in resource.items() if k not in ("id", "meta")}
    return {**rest, "meta": meta} if meta else rest


def test_there_are_examples() -> None:
    assert len(FILES) >= 40


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_an_example_is_valid_and_survives_create_and_read_digit_for_digit(
    module_database: Database, file: Path
) -> None:
    text = content(file)
    sent = await validate.parsed(text)
    async with module_database.transaction() as conn:
        created, _ = await resources.create(conn, text, reader=SYSTEM)
        read = await resources.read(conn, SYSTEM, created.resource_type, created.id)
    assert read.body == created.body
    back = read.resource()
    assert back["id"] == created.id
    assert lossless.canonical(without_identity(back)) == lossless.canonical(without_identity(sent))


async def test_every_official_example_survives_create_and_read_digit_for_digit(module_database: Database) -> None:
    """All types that are stored. A write refuses one of them alone: its items lack the linkId that R4 requires."""
    types, differ, refused = set(), [], []
    with tarfile.open(FILES[0].parents[1] / "examples.tar.xz") as archive:
        texts = {m.name: stream.read().decode("utf-8-sig") for m in archive if (stream := archive.extractfile(m))}
    async with module_database.transaction() as conn:
        for name, text in texts.items():
            sent = lossless.parse(text)
            if sent["resourceType"] not in resource_types():
                assert sent["resourceType"] in ("AuditEvent", "OperationOutcome", "Parameters")
                continue
            try:
                validate.check(sent)
            except validate.InvalidResource:
                refused.append(name)
            created, _ = await resources.create(conn, text, reader=SYSTEM)
            read = await resources.read(conn, SYSTEM, created.resource_type, created.id)
            types.add(created.resource_type)
            if lossless.canonical(without_identity(read.resource())) != lossless.canonical(without_identity(sent)):
                differ.append(name)
    assert not differ
    assert refused == ["./examplescenario-questionnaire.json"]
    assert (len(texts), types) == (604, resource_types() - WITHOUT_EXAMPLE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_search_expression_reads_an_example(file: Path) -> None:
    entries = index.extract(lossless.parse(content(file)))
    assert entries.token or entries.reference or entries.date or entries.string


def expected(file_name: str) -> index.Entries:
    return index.extract(lossless.parse(content(FILES[0].parent / file_name)))


def tokens(entries: index.Entries) -> set[index.Row]:
    """(param, system, code)"""
    return {row[:3] for row in entries.token}


def test_an_imaging_study_is_indexed_by_what_imaging_people_ask() -> None:
    entries = expected("imagingstudy-example-xr.json")
    assert ("identifier", "urn:dicom:uid", "urn:oid:2.16.124.113543.6003.1154777499.30246.19789.3503430046") in (
        tokens(entries)
    )
    assert ("modality", "http://dicom.nema.org/resources/ontology/DCM", "DX") in tokens(entries)
    assert ("status", "http://hl7.org/fhir/imagingstudy-status", "available") in tokens(entries)
    assert {row[:3] for row in entries.reference} >= {
        ("basedon", "ServiceRequest", "example"),
        ("endpoint", "Endpoint", "example-wadors"),
        ("patient", "Patient", "dicom"),
    }


def test_an_observation_is_indexed_by_its_components() -> None:
    entries = expected("observation-example-bloodpressure.json")
    assert {row[0] for row in entries.quantity} == {"component-value-quantity", "combo-value-quantity"}
    assert ("component-code", "http://loinc.org", "8480-6") in tokens(entries)
    assert ("combo-code", "http://loinc.org", "85354-9") in tokens(entries)
    assert ("code", "http://loinc.org", "8480-6") not in tokens(entries)


def test_a_task_is_indexed_by_its_patient_only_where_the_reference_is_one() -> None:
    entries = expected("task-example1.json")
    assert ("patient", "Patient", "example", "", "", "") in {row[:6] for row in entries.reference}
    assert ("focus", "ServiceRequest", "lipid", "", "", "") in {row[:6] for row in entries.reference}
    assert {row[1] for row in entries.reference if row[0] == "patient"} == {"Patient"}
    assert ("intent", "http://hl7.org/fhir/request-intent", "order") in tokens(entries)
