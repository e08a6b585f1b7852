"""Views: the public suite of SQL on FHIR, the forms of a table, and runs over a store."""

from __future__ import annotations

import csv
import io
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden, InvalidInput, NotFound, TooCostly, Unsupported
from wetread.record import lossless, resources
from wetread.record.export import jobs
from wetread.record.views import run
from wetread.record.views.definition import compiled
from wetread.record.views.run import Asked
from wetread.store.database import Database

BASE = "http://wetread.example/fhir"
ROOT = Path(__file__).parents[3]
SUITE = ROOT / "tests/data/sql-on-fhir"
SHIPPED = run.shipped(ROOT / "conformance/views")
CASES = [
    pytest.param(group["resources"], case, id=f"{file.stem}: {case['title']}")
    for file in sorted(SUITE.glob("*.json"))
    for group in (lossless.parse(file.read_text(encoding="utf-8")),)
    for case in group["tests"]
]


def view(*columns: dict[str, Any], resource: str = "Observation", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "ViewDefinition",
        "name": "tried",
        "resource": resource,
        "select": [{"column": list(columns)}],
        **more,
    }


def column(name: str, path: str, kind: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "path": path, **({"type": kind} if kind else {}), **more}


def observation(id_: str, patient: str = "p1", value: str = "1.50", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"text": "volume"},
        "subject": {"reference": f"Patient/{patient}"},
        "valueQuantity": {"value": Decimal(value), "unit": "mL"},
        **more,
    }


def table(content: dict[str, Any], given: list[dict[str, Any]], form: str, *, header: bool = True) -> bytes:
    target = io.BytesIO()
    run.written_of(given, Asked(compiled(content)), form, target, header=header)
    return target.getvalue()


@pytest.mark.parametrize(("given", "case"), CASES)
def test_the_public_suite_holds(given: list[dict[str, Any]], case: dict[str, Any]) -> None:
    if case.get("expectError"):
        with pytest.raises(InvalidInput):
            table(case["view"], given, "json")
        return
    made = compiled(case["view"])
    names = [each.name for each in made.columns]
    rows = [dict(zip(names, row, strict=True)) for resource in given for row in made.rows(resource)]
    if "expectColumns" in case:
        assert names == case["expectColumns"]
    if "expect" in case:
        assert sorted(rows, key=repr_of) == sorted(case["expect"], key=repr_of)
    else:
        assert len(rows) == case["expectCount"]


def repr_of(row: dict[str, Any]) -> str:
    """By value: 0.95 and 0.95000000 are one number."""
    plain = {name: str(v.normalize()) if isinstance(v, Decimal) else v for name, v in row.items()}
    return json.dumps(plain, sort_keys=True)


def test_the_shipped_views_tell_of_the_examples() -> None:
    examples = [lossless.parse(f.read_text(encoding="utf-8")) for f in (ROOT / "conformance/examples").glob("*.json")]
    tables = {name: json.loads(table(dict(content), examples, "json")) for name, content in SHIPPED.items()}
    assert {name: len(rows) for name, rows in tables.items()} == {
        "ai-findings": 3,
        "imaging-studies": 2,
        "reading-turnaround": 2,
    }
    [pneumonia] = [row for row in tables["ai-findings"] if row["code"] == "233604007"]
    assert (pneumonia["value"], pneumonia["certainty"], pneumonia["threshold"]) == ("Present", 0.9998, 0.682)
    assert {row["accession_number"] for row in tables["imaging-studies"]} == {"DEMO-A1001", "DEMO-A1004"}
    assert all(row["authored_on"] < row["last_modified"] for row in tables["reading-turnaround"])
    assert all(row["patient_id"] and row["imaging_study_id"] for row in tables["reading-turnaround"])


def test_decimals_keep_their_digits_in_every_form() -> None:
    content = view(column("id", "id", "id"), column("value", "value.ofType(Quantity).value", "decimal"))
    given = [observation("a", value="1.50"), observation("b", value="12345678901234567890.123456")]
    assert b'"value":1.50}' in table(content, given, "ndjson")
    assert b"b,12345678901234567890.123456\r\n" in table(content, given, "csv")
    read = pyarrow.parquet.read_table(io.BytesIO(table(content, given, "parquet")))
    assert read.column("value").to_pylist() == [Decimal("1.5"), Decimal("12345678901234567890.123456")]
    with pytest.raises(InvalidInput, match="12 digits after the point; make it a string"):
        table(content, [observation("c", value="0.1234567890123")], "parquet")


def test_a_table_has_columns_types_and_collections() -> None:
    content = view(
        column("id", "id", "id"),
        column("given", "name.given", "string", collection=True),
        column("active", "active", "boolean"),
        column("births", "multipleBirth.ofType(integer)", "integer"),
        resource="Patient",
    )
    given = [
        {"resourceType": "Patient", "id": "a", "name": [{"given": ["X", 'Y, "Z"']}], "multipleBirthInteger": 2},
        {"resourceType": "Patient", "id": "b", "active": False},
        {"resourceType": "Group", "id": "c"},
    ]
    rows = [
        {"id": "a", "given": ["X", 'Y, "Z"'], "active": None, "births": 2},
        {"id": "b", "given": [], "active": False, "births": None},
    ]
    assert json.loads(table(content, given, "json")) == rows
    assert [json.loads(line) for line in table(content, given, "ndjson").splitlines()] == rows
    assert pyarrow.parquet.read_table(io.BytesIO(table(content, given, "parquet"))).to_pylist() == rows
    read = list(csv.reader(io.StringIO(table(content, given, "csv").decode(), newline="")))
    assert read[0] == ["id", "given", "active", "births"]
    assert read[1:] == [["a", '["X","Y, \\"Z\\""]', "", "2"], ["b", "[]", "false", ""]]
    assert not table(content, given, "csv", header=False).startswith(b"id,")
    assert table(content, [], "json") == b"[]\n"
    with pytest.raises(Unsupported):
        table(content, given, "xlsx")


@pytest.mark.parametrize(
    ("content", "location"),
    [
        (view(column("id", "id"), resource="Patent"), "ViewDefinition.resource"),
        (view(), "ViewDefinition.select"),
        (view(column("id", "id"), column("id", "id")), "ViewDefinition.select"),
        (view(column("1st", "id")), "ViewDefinition.select[0].column[0].name"),
        (view(column("id", "id.")), "ViewDefinition.select[0].column[0].path"),
        (view(column("id", "id.matches('(a+)+$')")), "ViewDefinition.select[0].column[0].path"),
        (view(column("id", "subject.getReferenceKey(`(a+)+$`)")), "ViewDefinition.select[0].column[0].path"),
        (view(column("x", r"'\u0000'")), "ViewDefinition.select[0].column[0].path"),
        (view(column("x", r"'\ud800'", collection=True)), "ViewDefinition.select[0].column[0].path"),
        (view(column("id", "memberOf('x')")), "ViewDefinition.select[0].column[0].path"),
        (view(column("id", "id"), where=[{"path": "%nothing"}]), "ViewDefinition.where[0].path"),
        (view(column("x", "id" + ".select($this.combine($this))" * 40)), "ViewDefinition.select[0].column[0].path"),
        (view(column("x", "id" + ".select($this & $this)" * 40)), "ViewDefinition.select[0].column[0].path"),
        (view(column("x", "id" + ".replace('a', 'aaaaaaaa')" * 40)), "ViewDefinition.select[0].column[0].path"),
        (view(column("x", "(" * 3000 + "id" + ")" * 3000)), "ViewDefinition.select[0].column[0].path"),
        (
            view(column("x", "%n"), constant=[{"name": "n", "valueInteger": "one"}]),
            "ViewDefinition.select[0].column[0].path",
        ),
        (view(column("x", "id"), constant=[{"name": "n", "valueHumanName": {}}]), "ViewDefinition.constant[0]"),
        (view(column("x", "id"), select="id"), "ViewDefinition.select"),
        (view(column("code", "code")), "ViewDefinition.select[0].column[0].path"),
        ({"resourceType": "Library"}, "resourceType"),
    ],
)
def test_what_is_no_view_is_refused_where_it_goes_wrong(content: dict[str, Any], location: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        table(content, [observation("a")], "json")
    assert refused.value.location == location


def test_the_rows_of_one_resource_have_a_bound() -> None:
    many = {"forEach": "extension", "column": [column("url", "url")]}
    selects = [{**many, "column": [column(f"c{number}", "url")]} for number in range(3)]
    wide = observation("a", extension=[{"url": "http://x.example", "valueString": "x"}] * 50)
    with pytest.raises(TooCostly):
        table({"resource": "Observation", "select": selects}, [wide], "json")


def test_loops_that_make_no_rows_end_at_the_deadline() -> None:
    select: dict[str, Any] = {"forEach": "method", "column": [column("x", "text")]}
    for _ in range(8):
        select = {"forEach": "%resource.extension", "select": [select]}
    wide = observation("a", extension=[{"url": "http://x.example", "valueString": "x"}] * 50)
    asked = Asked(compiled({"resource": "Observation", "select": [select]}), deadline=time.monotonic() + 0.1)
    with pytest.raises(TooCostly, match="takes too long"):
        run.written_of([wide], asked, "csv", io.BytesIO(), header=True)


@pytest.fixture(scope="module")
async def stored(module_database: Database) -> Database:
    """Three patients and more observations than a batch holds, some of them changed and deleted since."""
    async with module_database.transaction() as conn:
        for patient in ("p1", "p2", "p3"):
            await put(conn, {"resourceType": "Patient", "id": patient})
        members = [{"entity": {"reference": f"Patient/{p}"}, "inactive": p == "p3"} for p in ("p2", "p3")]
        group = {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "member": members}
        await put(conn, group)
        for number in range(run.BATCH_ROWS + 20):
            await put(conn, observation(f"o{number}", f"p{number % 2 + 1}"))
        await resources.delete(conn, SYSTEM, "Observation", "o0")
    return module_database


async def put(conn: Any, content: dict[str, Any]) -> None:
    await resources.put(conn, content)


IDS = compiled(view(column("id", "getResourceKey()", "id")))


async def ids(database: Database, reader: Reader = SYSTEM, **asked: Any) -> list[str]:
    target = io.BytesIO()
    made = await run.written(database, reader, Asked(IDS, **asked), "csv", target, header=False)
    found = target.getvalue().decode().split()
    assert made.rows == len(found)
    return found


async def test_a_run_goes_over_the_store_in_batches(stored: Database) -> None:
    assert await ids(stored) == [f"o{number}" for number in range(1, run.BATCH_ROWS + 20)]
    assert await ids(stored, most_rows=3) == ["o1", "o2", "o3"]
    assert await ids(stored, since=datetime.now(UTC)) == []


async def test_a_run_is_of_the_patients_asked_for_and_of_nobody_else(stored: Database) -> None:
    async with stored.transaction() as conn:
        both = observation("both", "p2", performer=[{"reference": "Patient/p1"}])
        await put(conn, both)
        assert await jobs.members(conn, SYSTEM, "g", BASE) == {"p2"}
    found = await ids(stored, patients=frozenset({"p2"}))
    assert found == [f"o{number}" for number in range(1, run.BATCH_ROWS + 20, 2)]
    assert await ids(stored, patients=frozenset()) == []
    patients = Asked(compiled(view(column("id", "id"), resource="Patient")), patients=frozenset({"p3"}))
    target = io.BytesIO()
    await run.written(stored, SYSTEM, patients, "ndjson", target)
    assert target.getvalue() == b'{"id":"p3"}\n'
    nobodys = Asked(compiled(view(column("id", "id"), resource="Organization")), patients=frozenset({"p3"}))
    with pytest.raises(InvalidInput, match="belongs to no patient"):
        await run.written(stored, SYSTEM, nobodys, "ndjson", target)


async def test_the_members_of_a_group_are_those_that_an_export_takes(database: Database) -> None:
    def group(id_: str, *members: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"resourceType": "Group", "id": id_, "type": "person", "actual": True, "member": list(members), **more}

    def member(reference: str, **more: Any) -> dict[str, Any]:
        return {"entity": {"reference": reference}, **more}

    def rule(text: str) -> dict[str, Any]:
        expression = {"language": "application/x-fhir-query", "expression": text}
        return {"modifierExtension": [{"url": jobs.MEMBER_FILTER, "valueExpression": expression}]}

    yesterday = {"end": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
    active, observed = rule("Patient?active=true"), rule(f"Observation?subject={BASE}/Patient/p2")
    listed = [member("Patient/p1"), member("Patient/p2", period=yesterday), member("Patient/p3")]
    async with database.transaction() as conn:
        for number in (1, 2, 3):
            await put(conn, {"resourceType": "Patient", "id": f"p{number}", "active": number != 3})
        await put(conn, observation("o", "p2"))
        for content in (
            group("listed", *listed),
            group("outer", member("Group/listed"), member("Patient/p2")),
            group("narrow", *listed, **active),
            {"resourceType": "Group", "id": "cohort", "type": "person", "actual": False, **observed},
            group("odd", *listed, modifierExtension=[{"url": "http://x.example", "valueBoolean": True}]),
        ):
            await put(conn, content)
        names = ("listed", "outer", "narrow", "cohort")
        found = {name: await jobs.members(conn, SYSTEM, name, BASE) for name in names}
        with pytest.raises(Unsupported):
            await jobs.members(conn, SYSTEM, "odd", BASE)
    assert found == {"listed": {"p1", "p3"}, "outer": {"p1", "p2", "p3"}, "narrow": {"p1"}, "cohort": {"p2"}}


async def test_a_run_takes_the_right_to_search_and_read_the_type(stored: Database) -> None:
    def reader(letters: str, resource_type: str = "Observation") -> Reader:
        return Reader("client", (Scope("system", resource_type, frozenset(letters)),))

    assert await ids(stored, reader("rs"), most_rows=1) == ["o1"]
    for refused in (reader("r"), reader("s"), reader("rs", "Patient")):
        with pytest.raises(Forbidden):
            await ids(stored, refused)
    audit_view = Asked(compiled(view(column("id", "id"), resource="AuditEvent")))
    with pytest.raises(Unsupported):
        await run.written(stored, SYSTEM, audit_view, "csv", io.BytesIO())


def test_a_shipped_view_goes_by_id_reference_and_canonical() -> None:
    for name in ("ai-findings", "ViewDefinition/ai-findings", "https://wetread.org/fhir/ViewDefinition/ai-findings|1"):
        assert run.named(SHIPPED, name)["name"] == "ai_findings"
    with pytest.raises(NotFound):
        run.named(SHIPPED, "ViewDefinition/none")
