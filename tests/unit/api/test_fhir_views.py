"""`ViewDefinition/$run` over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from fastapi import FastAPI
from tests.unit.api.conftest import _authenticate
from tests.unit.api.test_fhir import audits

from wetread.api import fhir_views
from wetread.record import resources
from wetread.record.audit import audit
from wetread.record.views.run import shipped
from wetread.store.database import Database

BASE = "http://wetread.example/fhir"
VIEWS = Path(__file__).parents[3] / "conformance/views"
VIEW = {
    "resourceType": "ViewDefinition",
    "name": "ids",
    "resource": "Observation",
    "select": [{"column": [{"name": "id", "path": "getResourceKey()"}, {"name": "status", "path": "status"}]}],
}
FHIR_JSON = {"Content-Type": "application/fhir+json"}


@asynccontextmanager
async def _calls(database: Database, scratch: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with database.transaction() as conn:
        for id_, patient in (("o1", "p1"), ("o2", "p2")):
            await resources.put(conn, observation(id_, patient))
        members = [{"entity": {"reference": "Patient/p2"}}]
        group = {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "member": members}
        await resources.put(conn, group)
    app = FastAPI()
    views = fhir_views.Views(database, shipped(VIEWS), scratch / "tables", BASE)
    app.include_router(fhir_views.router(views, _authenticate, audit.write_many))
    headers = {"Authorization": "Bearer all"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"{BASE}/", headers=headers) as one:
        yield one


@pytest.fixture(scope="module")
async def client(
    module_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    async with _calls(module_database, tmp_path_factory.mktemp("views")) as one:
        yield one


def observation(id_: str, patient: str) -> dict[str, Any]:
    subject = {"reference": f"Patient/{patient}"}
    return {"resourceType": "Observation", "id": id_, "status": "final", "code": {"text": "x"}, "subject": subject}


def parameters(*rows: dict[str, Any], view: dict[str, Any] | None = VIEW) -> str:
    given = [{"name": "viewResource", "resource": view}] if view is not None else []
    return json.dumps({"resourceType": "Parameters", "parameter": [*given, *rows]})


async def run(client: httpx.AsyncClient, *rows: dict[str, Any], view: dict[str, Any] | None = VIEW) -> httpx.Response:
    return await client.post("ViewDefinition/$run", content=parameters(*rows, view=view), headers=FHIR_JSON)


async def test_an_inline_view_runs_over_the_store_in_each_format(client: httpx.AsyncClient) -> None:
    rows = [{"id": "o1", "status": "final"}, {"id": "o2", "status": "final"}]
    answers = {form: await run(client, {"name": "_format", "valueCode": form}) for form in fhir_views.MEDIA_TYPES}
    assert {answer.status_code for answer in answers.values()} == {200}
    assert answers["json"].json() == rows
    assert [json.loads(line) for line in answers["ndjson"].text.splitlines()] == rows
    assert answers["csv"].text == "id,status\r\no1,final\r\no2,final\r\n"
    assert pyarrow.parquet.read_table(io.BytesIO(answers["parquet"].content)).to_pylist() == rows
    types = {form: answer.headers["content-type"].split(";")[0] for form, answer in answers.items()}
    assert types == dict(fhir_views.MEDIA_TYPES)
    accepted = await client.post(
        "$viewdefinition-run", content=parameters(), headers={**FHIR_JSON, "Accept": "text/csv"}
    )
    assert accepted.text == answers["csv"].text


async def test_a_run_is_narrowed_by_patient_group_time_and_rows(client: httpx.AsyncClient) -> None:
    async def found(*rows: dict[str, Any]) -> list[str]:
        return [row["id"] for row in (await run(client, *rows)).json()]

    assert await found({"name": "patient", "valueReference": {"reference": "Patient/p1"}}) == ["o1"]
    assert await found({"name": "group", "valueReference": {"reference": f"{BASE}/Group/g"}}) == ["o2"]
    assert await found({"name": "_limit", "valueInteger": 1}) == ["o1"]
    assert await found({"name": "_since", "valueInstant": "2126-01-01T00:00:00Z"}) == []
    given = [{"name": "resource", "resource": observation(id_, "p9")} for id_ in ("x", "y")]
    assert await found(*given) == ["x", "y"]
    bare = await run(client, {"name": "header", "valueBoolean": False}, {"name": "_format", "valueCode": "csv"})
    assert bare.text == "o1,final\r\no2,final\r\n"


async def test_shipped_views_run_by_their_id(client: httpx.AsyncClient) -> None:
    for path in ("ViewDefinition/imaging-studies/$run", "ViewDefinition/imaging-studies/$viewdefinition-run"):
        answer = await client.get(path, params={"_format": "csv"})
        assert answer.text.startswith("id,patient_id,")
    reference = {"name": "viewReference", "valueReference": {"reference": "ViewDefinition/ai-findings"}}
    assert (await run(client, reference, view=None)).json() == []
    assert (await client.get("ViewDefinition/none/$run")).status_code == 404


@pytest.mark.parametrize(
    ("rows", "view", "status", "expression"),
    [
        ([], None, 400, "viewResource"),
        ([{"name": "viewReference", "valueString": "ai-findings"}], VIEW, 400, "viewResource"),
        ([], {**VIEW, "select": []}, 400, "ViewDefinition.select"),
        ([{"name": "_format", "valueCode": "xlsx"}], VIEW, 406, "_format"),
        ([{"name": "_limit", "valueInteger": 0}], VIEW, 400, "_limit"),
        ([{"name": "_since", "valueInstant": "yesterday"}], VIEW, 400, "_since"),
        ([{"name": "_since", "valueInstant": "2026-01-01T00:00:00"}], VIEW, 400, "_since"),
        ([{"name": "source", "valueString": "s3://elsewhere"}], VIEW, 422, "source"),
        ([{"name": "patient", "valueString": "Practitioner/1"}], VIEW, 400, "patient"),
        ([{"name": "colour", "valueString": "red"}], VIEW, 400, "colour"),
        ([{"name": "resource", "valueString": "red"}], VIEW, 400, "Parameters.parameter[1]"),
        ([{"name": "group", "valueString": "none"}], VIEW, 404, None),
    ],
)
async def test_a_refusal_is_an_outcome_that_tells_where(
    client: httpx.AsyncClient, rows: list[dict[str, Any]], view: dict[str, Any] | None, status: int, expression: str
) -> None:
    answer = await run(client, *rows, view=view)
    assert answer.status_code == status
    [issue] = answer.json()["issue"]
    assert issue.get("expression", [None]) == [expression]


async def test_a_run_over_given_resources_takes_rights_to_their_type(client: httpx.AsyncClient) -> None:
    given = {"name": "resource", "resource": {"resourceType": "Patient", "id": "x"}}
    content = parameters(given, view={**VIEW, "resource": "Patient"})
    headers = {**FHIR_JSON, "Authorization": "Bearer observations"}
    assert (await client.post("ViewDefinition/$run", content=content, headers=headers)).status_code == 403


async def test_a_run_is_audited_and_takes_rights_to_its_type(database: Database, tmp_path: Path) -> None:
    of_patients = parameters(view={**VIEW, "resource": "Patient"})
    async with _calls(database, tmp_path) as client:
        for token, content, status in (
            ("Bearer observations", parameters({"name": "patient", "valueString": "Patient/p1"}), 200),
            ("Bearer observations", of_patients, 403),
            ("none", parameters(), 401),
        ):
            headers = {**FHIR_JSON, "Authorization": token}
            assert (await client.post("ViewDefinition/$run", content=content, headers=headers)).status_code == status
    assert not list((tmp_path / "tables").iterdir()), "a table stays nowhere"
    events = await audits(database)
    codes = [[coding["code"] for coding in event["subtype"]] for event in events]
    assert codes == [["view-run"]] * 3
    assert [event["outcome"] for event in events] == ["0", "4", "4"]
    told = {
        detail["type"]: detail["valueString"]
        for entity in events[0]["entity"]
        for detail in entity.get("detail", [])
        if "valueString" in detail
    }
    assert (told["view"], told["rows"], told["type"]) == ("ids", "1", "Observation")
    assert "Patient/p1" in [entity.get("what", {}).get("reference") for entity in events[0]["entity"]]
