"""The index rows of a version by single parameters: what a subscription asks for, and no more, is the same as all."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.search import index
from wetread.record.search.index import Extraction
from wetread.record.search.parameters import parameters_of, resource_types

ARCHIVE = Path(__file__).parents[2] / "data/fhir/examples.tar.xz"
BASES = ("https://wetread.example/fhir", "http://example.org/fhir")
TABLES = tuple(index.COLUMNS)


def _of_each_type() -> dict[str, list[dict[str, Any]]]:
    """Two of R4's own examples of every type."""
    found: dict[str, list[dict[str, Any]]] = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            resource = lossless.parse(stream.read().decode("utf-8-sig")) if stream else {}
            if resource.get("resourceType") in resource_types():
                found.setdefault(resource["resourceType"], []).append(resource)
    return {resource_type: sorted(some, key=str)[:2] for resource_type, some in found.items()}


def test_one_parameter_after_another_gives_what_all_at_once_give() -> None:
    dice = random.Random(20261122)
    examples = _of_each_type()
    assert len(examples) > 130
    for resource in (one for some in examples.values() for one in some):
        whole = index.extract(resource, BASES)
        by_code: dict[str, set[index.Row]] = {}
        for name in TABLES:
            for row in getattr(whole, name):
                by_code.setdefault(row[0].removesuffix(":of-type"), set()).add(row)
        codes = [code for code in parameters_of(resource["resourceType"]) if code not in index.ON_OWN_COLUMN]
        some = dice.sample(codes, min(4, len(codes)))
        for asked in (some, dice.sample(codes, len(codes))):
            version = Extraction(resource, BASES)
            assert {code: rows for code in asked if (rows := version.rows(code))} == {
                code: by_code[code] for code in asked if code in by_code
            }, resource["resourceType"]


def test_what_the_search_has_in_columns_is_a_row_here() -> None:
    version = Extraction({"resourceType": "Task", "id": "t1", "meta": {"lastUpdated": "2026-11-22T07:30:00Z"}})
    assert version.rows("_id") == {("_id", "", "t1", "", 0)}
    [(_, low, _)] = version.rows("_lastUpdated")
    assert low.isoformat() == "2026-11-22T07:30:00+00:00"


def test_what_is_not_asked_for_is_not_read() -> None:
    version = Extraction({"resourceType": "Task", "status": "requested", "authoredOn": "some day"})
    assert version.rows("status") == {("status", "http://hl7.org/fhir/task-status", "requested", "", 0)}
    with pytest.raises(InvalidInput):
        version.rows("authored-on")


@pytest.mark.parametrize("code", ["code-value-quantity", "_text", "colour"])
def test_what_is_not_read_from_elements_has_no_rows(code: str) -> None:
    assert Extraction({"resourceType": "Observation", "status": "final"}).rows(code) == set()
