"""Every request leaves an AuditEvent, whatever door it comes to and however it ends; none is answered without."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute

from wetread import app as composition
from wetread.api.every_request import EveryRequest
from wetread.settings import Settings, load
from wetread.store.database import Database

UNRECORDED = re.compile(r"/healthz|/readyz|/console/\{name\}")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(None, {"data_dir": tmp_path_factory.mktemp("house")})


@pytest.fixture(scope="module")
async def web(settings: Settings, module_database: Database) -> AsyncIterator[FastAPI]:
    async with composition.house(settings, module_database.url, ["http"]) as built:
        yield composition.web_app(built)


@pytest.fixture
async def client(web: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(web, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:
        yield client


@pytest.fixture(scope="module")
def token(settings: Settings) -> dict[str, str]:
    issued = composition.tokens(settings).issue(
        "operator:test", "system/*.cruds", ["administrator", "governance"], timedelta(hours=1)
    )
    return {"Authorization": f"Bearer {issued.token}"}


async def _rows(database: Database, since: int = 0) -> list[tuple[int, str, str, dict[str, Any]]]:
    """Position, kind, outcome and content of the rows after `since`."""
    async with database.transaction() as conn:
        rows = await conn.execute(
            "SELECT position, kind, outcome, body FROM audit_event WHERE position > %s ORDER BY position", (since,)
        )
        return [(*row[:3], json.loads(row[3])) for row in await rows.fetchall()]


async def _last(database: Database) -> int:
    async with database.transaction() as conn:
        row = await (await conn.execute("SELECT coalesce(max(position), 0) FROM audit_event")).fetchone()
    return int(row[0]) if row else 0


def _doors(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every route, those of routers within too."""
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from _doors(inner.routes, prefix + getattr(route, "path", ""))
        elif getattr(route, "path", ""):
            for method in getattr(route, "methods", None) or ():
                yield method, prefix + str(route.path)


def _addressed(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "1", path.replace("{rest:fhir_rest}", "/Patient").replace("{rest:path}", "$x"))


async def test_every_door_records_who_is_let_in_who_is_not_and_what_makes_no_sense(
    web: FastAPI, client: httpx.AsyncClient, module_database: Database, token: dict[str, str]
) -> None:
    doors = sorted({door for door in _doors(web.routes) if not UNRECORDED.fullmatch(door[1])})
    assert len(doors) > 50
    unrecorded, statuses = [], Counter[int]()
    for method, path in doors:
        bad = {**token, "Accept": "image/x-nothing", "Content-Type": "application/x-nothing"}
        for what, headers, body in (("good", token, b""), ("stranger", {}, b""), ("nonsense", bad, b"\xff{")):
            since = await _last(module_database)
            answer = await client.request(method, _addressed(path), headers=headers, content=body)
            statuses[answer.status_code] += 1
            if not await _rows(module_database, since):
                unrecorded.append(f"{method} {path} ({what}): {answer.status_code}")
    assert not unrecorded, "\n".join(unrecorded)
    assert {200, 401, 404, 405, 406, 415, 422} <= set(statuses), statuses


REFUSALS: tuple[tuple[int, str, str, dict[str, Any]], ...] = (
    (401, "GET", "/fhir/Patient/1", {"headers": {"Authorization": ""}}),
    (403, "POST", "/login", {"headers": {"Sec-Fetch-Site": "cross-site"}}),
    (404, "GET", "/fhir/Patient/none", {}),
    (404, "GET", "/no/such/path", {}),
    (405, "PUT", "/api/worklist", {}),
    (405, "POST", "/fhir/AuditEvent", {}),
    (406, "GET", "/fhir/Patient", {"headers": {"Accept": "image/png"}}),
    (410, "GET", "/fhir/Patient/gone", {}),
    (
        412,
        "PUT",
        "/fhir/Patient/here",
        {"headers": {"If-Match": 'W/"9"'}, "json": {"resourceType": "Patient", "id": "here"}},
    ),
    (413, "POST", "/login", {"content": b"x" * 20_000}),
    (415, "POST", "/fhir/Patient", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
    (422, "GET", "/api/worklist?limit=many", {}),
    (400, "POST", "/fhir/Patient", {"json": {"resourceType": "Patient", "gender": "blue"}}),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal[0]} {refusal[2]}")
async def test_each_refusal_is_on_record_with_who_asked_and_why(
    client: httpx.AsyncClient, module_database: Database, token: dict[str, str], refusal: tuple[int, str, str, Any]
) -> None:
    status, method, path, given = refusal
    if path.endswith(("/gone", "/here")):
        name = path.rpartition("/")[2]
        await client.put(f"/fhir/Patient/{name}", json={"resourceType": "Patient", "id": name}, headers=token)
    if path.endswith("/gone"):
        await client.delete(path, headers=token)
    since = await _last(module_database)
    headers = {**token, **given.get("headers", {})}
    answer = await client.request(method, path, **{**given, "headers": headers})
    assert answer.status_code == status, answer.text
    [(_, _, outcome, body)] = await _rows(module_database, since)
    assert outcome == "4"
    asked = body["agent"][0]["who"]["identifier"]["value"]
    expected = "anonymous" if status == 401 or path in ("/login", "/no/such/path") else "operator:test"
    assert asked == expected or (asked == "anonymous" and status in (405, 422) and path.startswith("/api/worklist"))


async def test_each_entry_of_a_batch_and_each_patient_that_a_search_found_has_its_own(
    client: httpx.AsyncClient, module_database: Database, token: dict[str, str]
) -> None:
    for name in ("b1", "b2"):
        person = {"resourceType": "Patient", "id": name, "name": [{"family": "Batch"}]}
        await client.put(f"/fhir/Patient/{name}", json=person, headers=token)
    since = await _last(module_database)
    await client.get("/fhir/Patient?family=Batch", headers=token)
    rows = await _rows(module_database, since)
    assert [row[1] for row in rows] == ["search-type"] * 2
    patients = [row[3]["entity"][0]["what"]["reference"] for row in rows]
    assert patients == ["Patient/b1", "Patient/b2"]

    since = await _last(module_database)
    urls = ("Patient/b1", "Patient?family=Batch", "Patient/none", "Nothing/1")
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    await client.post("/fhir", json={"resourceType": "Bundle", "type": "batch", "entry": entries}, headers=token)
    rows = await _rows(module_database, since)
    kinds = Counter((kind, outcome) for _, kind, outcome, _ in rows)
    assert kinds[("read", "0")] == 1
    assert kinds[("search-type", "0")] == 2
    assert kinds[("batch", "0")] == 1
    assert sum(count for (_, outcome), count in kinds.items() if outcome == "4") == 2
    queried = [row[3] for row in rows if row[1] == "search-type"]
    assert all(
        body["meta"]["profile"] == ["https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientQuery"]
        for body in queried
    )


UNTOLD = (
    ("GET", "/fhir/Patient/kept"),
    ("GET", "/fhir/Patient?_id=kept"),
    ("GET", "/fhir/metadata"),
    ("GET", "/api/worklist"),
    ("GET", "/worklist"),
    ("GET", "/dicom-web/studies"),
    ("GET", "/api/openapi.json"),
    ("GET", "/metrics"),
    ("DELETE", "/fhir/Patient/kept"),
)


async def test_where_nothing_can_be_recorded_nothing_is_answered_and_nothing_done(
    client: httpx.AsyncClient, module_database: Database, token: dict[str, str]
) -> None:
    client.headers.update(token)
    person = {"resourceType": "Patient", "id": "kept", "name": [{"family": "Kept"}]}
    assert (await client.put("/fhir/Patient/kept", json=person)).status_code == 201
    async with module_database.transaction() as conn:
        await conn.execute(
            """CREATE FUNCTION refuse_audit() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE EXCEPTION 'no more audit'; END $$"""
        )
        await conn.execute("CREATE TRIGGER full_up BEFORE INSERT ON audit_event EXECUTE FUNCTION refuse_audit()")
    answers = {path: await client.request(method, path) for method, path in UNTOLD}
    async with module_database.transaction() as conn:
        await conn.execute("DROP TRIGGER full_up ON audit_event")
    assert {path: answer.status_code for path, answer in answers.items() if answer.status_code < 500} == {}
    assert not any("Kept" in answer.text for answer in answers.values())
    assert (await client.get("/fhir/Patient/kept")).status_code == 200


async def test_probes_and_style_sheets_leave_none(client: httpx.AsyncClient, module_database: Database) -> None:
    since = await _last(module_database)
    paths = ("/healthz", "/readyz", "/console/console.css")
    answers = [await client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert await _rows(module_database, since) == []


async def test_the_worklists_table_that_has_not_changed_leaves_none(
    client: httpx.AsyncClient, module_database: Database, token: dict[str, str]
) -> None:
    first = await client.get("/worklist/table", headers={"Cookie": f"wetread_token={token['Authorization'][7:]}"})
    since = await _last(module_database)
    known = {"Cookie": f"wetread_token={token['Authorization'][7:]}", "If-None-Match": first.headers["etag"]}
    assert (await client.get("/worklist/table", headers=known)).status_code == 304
    assert await _rows(module_database, since) == []


async def test_a_fault_of_ours_is_on_record_and_a_preflight_is_not(
    module_database: Database,
) -> None:
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    app.add_middleware(EveryRequest, database=module_database, unrecorded=())
    since = await _last(module_database)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:
        assert (await client.get("/broken")).status_code == 500
        preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
        await client.options("/broken", headers=preflight)
    [(_, kind, outcome, _)] = await _rows(module_database, since)
    assert (kind, outcome) == ("request-refused", "12")


async def test_a_reference_by_the_servers_own_address_is_found_as_what_is_here(
    client: httpx.AsyncClient, settings: Settings, token: dict[str, str]
) -> None:
    subject = {"reference": f"{settings.fhir_base}/Patient/of-here"}
    finding = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": subject}
    assert (await client.post("/fhir/Observation", json=finding, headers=token)).status_code == 201
    found = (await client.get("/fhir/Observation?subject=Patient/of-here", headers=token)).json()
    assert [entry["resource"]["subject"] for entry in found["entry"]] == [subject]
