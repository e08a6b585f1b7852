"""The FHIR face over HTTP, on a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import fhir
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Conflict, Unauthorized
from wetread.record.audit import audit
from wetread.record.resources import Version
from wetread.store.database import Connection, Database

BASE = "http://wetread.example/fhir"
JSON = {"Content-Type": "application/fhir+json"}
READERS = {
    "all": SYSTEM,
    "observations": Reader("observer", (Scope("system", "Observation", frozenset("cruds")),)),
    "patient": Reader("phone", (Scope("patient", "*", frozenset("rs")),), patient_id="p1"),
}


async def nobody_is_told(*_: object) -> None:
    """Stands where the application listens for Subscriptions."""


def patient(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p1", "name": [{"family": "Chalmers"}], **more}


def observation(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "preliminary", "code": {"text": "Volume"}, **more}


async def authenticate(request: Request) -> Reader:
    reader = READERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if reader is None:
        raise Unauthorized("an access token is needed")
    return reader


def application(
    database: Database, write: fhir.AuditHook = audit.write_many, on_write: fhir.OnWrite = nobody_is_told
) -> FastAPI:
    app = FastAPI()
    app.include_router(fhir.router(database, authenticate, write, BASE, on_write=on_write, max_body_bytes=100_000))
    return app


def caller(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), headers={"Authorization": "Bearer all"})


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(application(database)) as client:
        yield client


@pytest.fixture(scope="module")
async def shared_client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """For requests that store nothing."""
    async with caller(application(module_database)) as client:
        yield client


async def put(client: httpx.AsyncClient, resource: dict[str, Any], **headers: str) -> httpx.Response:
    path = f"{resource['resourceType']}/{resource['id']}"
    return await client.put(f"{BASE}/{path}", json=resource, headers={**JSON, **headers})


async def audits(database: Database) -> list[dict[str, Any]]:
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT body FROM audit_event ORDER BY position")
        return [json.loads(body) async for (body,) in rows]


async def test_a_resource_lives_through_create_read_update_history_and_delete(client: httpx.AsyncClient) -> None:
    created = await client.post(f"{BASE}/Patient", json=patient(), headers=JSON)
    assert created.status_code == 201
    assert created.headers["content-type"] == "application/fhir+json"
    resource = created.json()
    url = f"{BASE}/Patient/{resource['id']}"
    assert resource["id"] != "p1"
    assert created.headers["location"] == f"{url}/_history/1"
    assert created.headers["etag"] == 'W/"1"'
    assert created.headers["last-modified"].endswith("GMT")

    updated = await put(client, {**resource, "active": True}, **{"If-Match": 'W/"1"'})
    assert (updated.status_code, updated.headers["etag"]) == (200, 'W/"2"')
    assert (await client.get(url)).json()["active"] is True
    assert "active" not in (await client.get(f"{url}/_history/1")).json()

    deleted = await client.delete(url)
    assert (deleted.status_code, deleted.headers["etag"]) == (204, 'W/"3"')
    assert (await client.get(url)).status_code == 410
    history = (await client.get(f"{url}/_history")).json()
    assert [e["request"]["method"] for e in history["entry"]] == ["DELETE", "PUT", "POST"]
    assert [e["response"]["etag"] for e in history["entry"]] == ['W/"3"', 'W/"2"', 'W/"1"']
    assert history["total"] == 3


async def test_history_comes_in_pages(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await put(client, patient(telecom=[{"system": "phone", "value": str(number)}]))
    url: str | None = f"{BASE}/Patient/p1/_history?_count=2"
    versions = []
    while url:
        page = (await client.get(url)).json()
        versions += [e["resource"]["meta"]["versionId"] for e in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
    assert versions == ["5", "4", "3", "2", "1"]
    later = (await client.get(f"{BASE}/Patient/p1/_history?_since=2999")).json()
    assert (later["total"], later.get("entry")) == (0, None)


async def test_the_body_comes_back_with_its_digits(client: httpx.AsyncClient) -> None:
    body = json.dumps(observation(id="o1")).replace('"id"', '"valueQuantity": {"value": 1.00}, "id"')
    await client.put(f"{BASE}/Observation/o1", content=body, headers=JSON)
    assert '"value": 1.00' in (await client.get(f"{BASE}/Observation/o1")).text


async def test_update_as_create_answers_201_once(client: httpx.AsyncClient) -> None:
    assert [(await put(client, patient())).status_code for _ in range(2)] == [201, 200]


async def test_64_parallel_conditional_creates_give_exactly_one_201(client: httpx.AsyncClient) -> None:
    body = patient(identifier=[{"system": "urn:a", "value": "1"}])
    headers = {**JSON, "If-None-Exist": "identifier=urn:a|1"}
    answers = await asyncio.gather(*(client.post(f"{BASE}/Patient", json=body, headers=headers) for _ in range(64)))
    assert sorted(a.status_code for a in answers) == [200] * 63 + [201]
    assert len({a.json()["id"] for a in answers}) == 1


@pytest.mark.parametrize(
    ("prefer", "body"), [("return=minimal", None), ("return=OperationOutcome", "OperationOutcome"), ("", "Patient")]
)
async def test_prefer_return_shapes_the_answer(client: httpx.AsyncClient, prefer: str, body: str | None) -> None:
    answer = await put(client, patient(), Prefer=prefer)
    assert answer.status_code == 201
    assert (answer.json()["resourceType"] if answer.content else None) == body


async def test_a_conditional_read_says_when_nothing_changed(client: httpx.AsyncClient) -> None:
    await put(client, patient())
    first = await client.get(f"{BASE}/Patient/p1")
    for header in ({"If-None-Match": 'W/"1"'}, {"If-Modified-Since": first.headers["last-modified"]}):
        again = await client.get(f"{BASE}/Patient/p1", headers=header)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", 'W/"1"')
    for header in ({"If-None-Match": 'W/"7"'}, {"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}):
        assert (await client.get(f"{BASE}/Patient/p1", headers=header)).status_code == 200


async def test_search_answers_by_get_and_by_post(client: httpx.AsyncClient) -> None:
    await put(client, patient())
    got = await client.get(f"{BASE}/Patient?family=chal")
    posted = await client.post(f"{BASE}/Patient/_search?_total=accurate", data={"family": "chal"})
    assert [e["resource"]["id"] for e in got.json()["entry"]] == ["p1"]
    assert [e["resource"]["id"] for e in posted.json()["entry"]] == ["p1"]
    assert got.json()["entry"][0]["fullUrl"] == f"{BASE}/Patient/p1"
    assert posted.json()["link"][0]["url"] == f"{BASE}/Patient?_total=accurate&family=chal"


async def test_metadata_needs_no_token_and_names_what_is_served(shared_client: httpx.AsyncClient) -> None:
    answer = await shared_client.get(f"{BASE}/metadata", headers={"Authorization": ""})
    statement = answer.json()
    assert (answer.status_code, statement["fhirVersion"]) == (200, "4.0.1")
    types = {r["type"]: r for r in statement["rest"][0]["resource"]}
    assert {"Patient", "ImagingStudy", "Task", "AuditEvent", "Basic"} <= types.keys()
    assert {"name": "birthdate", "type": "date"}.items() <= next(
        p for p in types["Patient"]["searchParam"] if p["name"] == "birthdate"
    ).items()
    for resource_type, row in types.items():
        answer = await shared_client.get(f"{BASE}/{resource_type}?_count=1")
        assert answer.status_code == 200, resource_type
        assert row["interaction"]


async def test_every_parameter_that_metadata_names_can_be_searched_by(shared_client: httpx.AsyncClient) -> None:
    statement = (await shared_client.get(f"{BASE}/metadata")).json()
    strict = {"Prefer": "handling=strict"}
    values = {"date": "2024", "number": "1", "quantity": "1", "reference": "Patient/1"}
    for row in statement["rest"][0]["resource"]:
        if row["type"] in ("Patient", "Observation", "Task", "ImagingStudy", "DiagnosticReport", "ServiceRequest"):
            for p in (p for p in row["searchParam"] if p["type"] != "composite"):
                params = {p["name"]: values.get(p["type"], "x")}
                answer = await shared_client.get(f"{BASE}/{row['type']}", params=params, headers=strict)
                assert answer.status_code == 200, (row["type"], p)


ERRORS = [
    ("GET", "Patient/none", {}, None, 404, "not-found"),
    ("GET", "Nonsense/1", {}, None, 404, "not-found"),
    ("GET", "Nonsense", {}, None, 404, "not-found"),
    ("GET", "Patient/%00", {}, None, 404, "not-found"),
    ("GET", "Patient/a/b/c/d", {}, None, 404, "not-found"),
    ("GET", "Patient/p1/_history/x", {}, None, 404, "not-found"),
    ("GET", "Patient/p1/_history/9", {}, None, 404, "not-found"),
    ("GET", "Patient/none/_history", {}, None, 404, "not-found"),
    ("GET", "AuditEvent/none", {}, None, 404, "not-found"),
    ("POST", "Nonsense", JSON, {"resourceType": "Nonsense"}, 404, "not-found"),
    ("POST", "AuditEvent", JSON, {"resourceType": "AuditEvent"}, 405, "not-supported"),
    ("PATCH", "AuditEvent/1", JSON, {}, 405, "not-supported"),
    ("PUT", "metadata", {}, None, 405, "not-supported"),
    ("PUT", "", {}, None, 405, "not-supported"),
    ("DELETE", "Patient/p1/_history/1", {}, None, 405, "not-supported"),
    ("GET", "Patient/_search", {}, None, 405, "not-supported"),
    ("PATCH", "Patient/p1", JSON, {}, 400, "invalid"),
    ("DELETE", "Patient", {}, None, 400, "invalid"),
    ("GET", "Patient/p1", {"Authorization": ""}, None, 401, "login"),
    ("GET", "nowhere/at/all/to/be/found", {"Authorization": ""}, None, 401, "login"),
    ("GET", "Patient/p1", {"Authorization": "Bearer observations"}, None, 403, "forbidden"),
    ("GET", "Patient/p1", {"Authorization": "Bearer patient"}, None, 404, "not-found"),
    ("GET", "Patient/p1", {"Accept": "text/turtle"}, None, 406, "not-supported"),
    ("GET", "Patient/p1", {"Accept": "application/fhir+json; fhirVersion=5.0"}, None, 406, "not-supported"),
    ("GET", "Patient/p1?_format=ttl", {}, None, 406, "not-supported"),
    ("POST", "Patient", {"Content-Type": "text/turtle"}, "<Patient/>", 415, "not-supported"),
    ("POST", "Patient/_search", JSON, {}, 415, "not-supported"),
    ("POST", "Patient", JSON, "{", 400, "invalid"),
    ("POST", "Patient", JSON, "[]", 400, "invalid"),
    ("POST", "Patient", JSON, '{"resourceType":"Patient","active":NaN}', 400, "invalid"),
    ("POST", "Patient", JSON, '{"resourceType":"Patient","active":true,"active":false}', 400, "invalid"),
    ("POST", "Patient", JSON, '{"resourceType":"Patient","gender":"\\ud800"}', 400, "invalid"),
    ("POST", "Patient", JSON, '{"a":' * 15_000, 400, "invalid"),
    ("POST", "Patient", JSON, '{"resourceType":"Patient","extension":' + "[" * 300 + "]" * 300 + "}", 400, "invalid"),
    ("POST", "Patient", JSON, b"\xff\xfe", 400, "invalid"),
    ("POST", "Patient", JSON, observation(), 400, "invalid"),
    ("POST", "Patient", JSON, " " * 100_001, 413, "too-long"),
    ("POST", "Patient", JSON, {"resourceType": "Patient", "bogus": 1}, 400, "structure"),
    ("POST", "Observation", JSON, observation(status="bogus"), 400, "code-invalid"),
    ("POST", "Observation", JSON, {"resourceType": "Observation", "status": "final"}, 400, "required"),
    ("PUT", "Patient/p2", JSON, patient(), 400, "invalid"),
    ("PUT", "Patient/p1", {**JSON, "If-Match": "soon"}, patient(), 400, "invalid"),
    ("PUT", "Patient/p1", {**JSON, "If-Match": 'W/"9"'}, patient(), 412, "conflict"),
    ("GET", "Patient?birthdate=soon", {}, None, 400, "invalid"),
    ("GET", "Patient?name=%00", {}, None, 400, "invalid"),
    ("GET", "Patient?name:bogus=x", {}, None, 400, "invalid"),
    ("GET", "Patient?bogus=x", {"Prefer": "handling=strict"}, None, 400, "invalid"),
    ("POST", "", JSON, patient(), 400, "invalid"),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "code"), ERRORS)
async def test_an_error_is_an_operation_outcome_and_leaves_an_audit_event(
    shared_client: httpx.AsyncClient,
    module_database: Database,
    method: str,
    path: str,
    headers: dict[str, str],
    body: Any,
    status: int,
    code: str,
) -> None:
    content = json.dumps(body) if isinstance(body, dict) else body
    before = len(await audits(module_database))
    url = f"{BASE}/{path}" if path else BASE
    answer = await shared_client.request(method, url, headers=headers, content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/fhir+json"
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert outcome["issue"][0]["code"] == code
    assert outcome["issue"][0]["diagnostics"]
    assert ("www-authenticate" in answer.headers) is (status == 401)
    assert ("allow" in answer.headers) is (status == 405)
    (event,) = (await audits(module_database))[before:]
    assert event["outcome"] == "4"
    assert event["outcomeDesc"] == outcome["issue"][0]["diagnostics"]


async def test_validation_tells_every_fault_and_where(client: httpx.AsyncClient) -> None:
    body = observation(status="bogus", valueQuantity={"value": "x"}, component=[{"valueString": "a"}])
    issues = (await client.post(f"{BASE}/Observation", json=body, headers=JSON)).json()["issue"]
    assert {(i["code"], *i["expression"]) for i in issues} == {
        ("code-invalid", "Observation.status"),
        ("value", "Observation.value.ofType(Quantity).value"),
        ("required", "Observation.component[0].code"),
    }


async def test_an_error_elsewhere_in_the_app_is_not_ours_to_render(database: Database) -> None:
    async with caller(application(database)) as client:
        answer = await client.get("http://wetread.example/elsewhere")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")


async def test_an_unexpected_fault_is_an_operation_outcome_too(database: Database, client: httpx.AsyncClient) -> None:
    async with database.transaction() as conn:
        await conn.execute("DROP TABLE index_token CASCADE")
    answer = await client.get(f"{BASE}/Patient?identifier=1")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (500, "exception")
    assert "index_token" not in answer.text
    (event,) = await audits(database)
    assert event["outcome"] == "12"


async def test_every_access_leaves_its_audit_event(client: httpx.AsyncClient, database: Database) -> None:
    headers = {"X-Request-Id": "request-7"}
    await put(client, patient(), **headers)
    for _ in range(2):
        await client.get(f"{BASE}/Patient/p1", headers=headers)
    await client.get(f"{BASE}/Patient/p1/_history", headers=headers)
    await client.get(f"{BASE}/Patient?family=chal", headers=headers)
    await client.delete(f"{BASE}/Patient/p1", headers=headers)
    events = await audits(database)
    assert [e["subtype"][0]["code"] for e in events] == [
        "update",
        "read",
        "read",
        "history-instance",
        "search-type",
        "delete",
    ]
    assert {e["outcome"] for e in events} == {"0"}
    for event in events:
        whats = [entity["what"] for entity in event["entity"] if "what" in entity]
        assert {"reference": "Patient/p1"} in whats
        assert {"identifier": {"value": "request-7"}} in whats


async def test_a_search_that_finds_several_patients_is_audited_for_each(
    client: httpx.AsyncClient, database: Database
) -> None:
    for number in (1, 2, 3):
        await put(client, patient(id=f"p{number}"))
        await put(client, observation(id=f"o{number}", subject={"reference": f"Patient/p{number}"}))
    before = len(await audits(database))
    await client.get(f"{BASE}/Observation?status=preliminary")
    events = (await audits(database))[before:]
    persons = [e for event in events for e in event["entity"] if e.get("role", {}).get("code") == "1"]
    assert [p["what"]["reference"] for p in persons] == ["Patient/p1", "Patient/p2", "Patient/p3"]


async def test_the_audit_of_a_write_shares_its_transaction(database: Database) -> None:
    async def refuse(conn: Any, entries: Sequence[audit.AuditEntry]) -> list[str]:
        if any(entry.outcome == "0" for entry in entries):
            raise RuntimeError
        return await audit.write_many(conn, entries)

    async with caller(application(database, write=refuse)) as client:
        assert (await put(client, patient())).status_code == 500
        assert (await client.get(f"{BASE}/Patient/p1")).status_code == 404


async def test_who_listens_to_writes_hears_of_each_and_can_undo_it(database: Database) -> None:
    heard: list[tuple[str, str, int | None]] = []

    async def listen(
        conn: Connection, reader: Reader, resource_type: str, resource_id: str, version: Version | None
    ) -> None:
        heard.append((resource_type, resource_id, version.version_id if version else None))
        if resource_type == "Basic":
            raise Conflict("nothing basic today")

    basic = {"resourceType": "Basic", "id": "b1", "code": {"text": "x"}}
    bundle = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            {"resource": patient(active=True), "request": {"method": "PUT", "url": "Patient/p1"}},
            {"request": {"method": "DELETE", "url": "Patient/p1"}},
            {"request": {"method": "GET", "url": "Patient"}},
            {"resource": basic, "request": {"method": "PUT", "url": "Basic/b1"}},
        ],
    }
    async with caller(application(database, on_write=listen)) as client:
        await put(client, patient())
        answer = (await client.post(BASE, json=bundle, headers=JSON)).json()
        assert (await client.get(f"{BASE}/Basic/b1")).status_code == 404
    assert heard == [("Patient", "p1", 1), ("Patient", "p1", 2), ("Patient", "p1", None), ("Basic", "b1", 1)]
    assert [e["response"]["status"][:3] for e in answer["entry"]] == ["200", "204", "200", "409"]
    assert answer["entry"][3]["response"]["outcome"]["issue"][0]["code"] == "conflict"
    told = [(e["subtype"][0]["code"], e["outcome"]) for e in await audits(database)]
    assert told[1:6] == [("update", "0"), ("delete", "0"), ("search-type", "0"), ("update", "4"), ("batch", "0")]


async def test_a_transaction_is_audited_as_one_and_entry_by_entry(
    client: httpx.AsyncClient, database: Database
) -> None:
    entries = [{"resource": patient(), "request": {"method": "PUT", "url": "Patient/p1"}}]
    body = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    answer = await client.post(f"{BASE}/", json=body, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (200, "transaction-response")
    assert [e["subtype"][0]["code"] for e in await audits(database)] == ["transaction", "update"]


async def test_audit_events_are_read_and_searched_through_the_same_face(client: httpx.AsyncClient) -> None:
    await put(client, patient())
    found = (await client.get(f"{BASE}/AuditEvent?patient=Patient/p1")).json()
    (entry,) = found["entry"]
    read = await client.get(f"{BASE}/AuditEvent/{entry['resource']['id']}")
    assert read.json() == entry["resource"]


async def test_the_face_answers_on_a_real_socket(database: Database) -> None:
    server = uvicorn.Server(uvicorn.Config(application(database), port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/fhir"
    async with httpx.AsyncClient(headers={"Authorization": "Bearer all"}) as client:
        created = await client.put(f"{url}/Patient/p1", json=patient(), headers=JSON)
        read = await client.get(f"{url}/Patient/p1", headers={"If-None-Match": created.headers["etag"]})
        outcome = await client.request("TRACE", f"{url}/Patient/p1")
    server.should_exit = True
    await task
    assert (created.status_code, read.status_code) == (201, 304)
    assert outcome.json()["resourceType"] == "OperationOutcome"
