"""$validate over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.api.test_fhir import BASE, JSON, application, caller, observation, patient, put

from wetread.store.database import Database


@pytest.fixture(scope="module")
async def client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(application(module_database)) as client:
        assert (await put(client, patient())).status_code == 201
        yield client


async def issues(client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int = 200) -> list[dict[str, Any]]:
    answer = await client.post(f"{BASE}/{path}", json=body, headers=JSON)
    assert answer.status_code == status, answer.text
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    found: list[dict[str, Any]] = outcome["issue"]
    return found


def severities(found: list[dict[str, Any]]) -> set[str]:
    return {issue["severity"] for issue in found}


def with_parameters(resource: dict[str, Any], **more: str) -> dict[str, Any]:
    forms = {"mode": "valueCode", "profile": "valueUri"}
    rows = [{"name": name, forms[name]: value} for name, value in more.items()]
    return {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": resource}, *rows]}


@pytest.mark.parametrize("path", ["Observation/$validate", "Resource/$validate"])
async def test_good_content_is_told_so_as_it_is_and_in_parameters(client: httpx.AsyncClient, path: str) -> None:
    for body in (observation(), with_parameters(observation(), mode="create")):
        assert "error" not in severities(await issues(client, path, body))


async def test_each_fault_has_its_place_and_the_status_is_still_200(client: httpx.AsyncClient) -> None:
    found = await issues(client, "Observation/$validate", {**observation(), "status": "maybe", "colour": "red"})
    assert severities(found) >= {"error"}
    assert {e for issue in found for e in issue.get("expression", ())} >= {"Observation.status"}


async def test_nothing_is_stored(client: httpx.AsyncClient) -> None:
    await issues(client, "Observation/$validate", observation(id="only-looked-at"))
    assert (await client.get(f"{BASE}/Observation/only-looked-at")).status_code == 404


async def test_a_stored_resource_and_a_deletion(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{BASE}/Patient/p1/$validate")
    assert answer.status_code == 200
    assert "error" not in severities(answer.json()["issue"])
    assert (await client.get(f"{BASE}/Patient/p1/$validate?mode=delete")).status_code == 200
    assert (await client.get(f"{BASE}/Patient/p9/$validate?mode=delete")).status_code == 404


async def test_an_update_needs_the_id_of_the_url(client: httpx.AsyncClient) -> None:
    good = await issues(client, "Patient/p1/$validate", with_parameters(patient(), mode="update"))
    assert "error" not in severities(good)
    bad = await issues(client, "Patient/p1/$validate", with_parameters(patient() | {"id": "p2"}, mode="update"))
    assert "Patient.id" in {e for issue in bad for e in issue.get("expression", ())}
    none = await issues(client, "Patient/$validate", with_parameters({"resourceType": "Patient"}, mode="update"))
    assert "error" in severities(none)


async def test_a_profile_that_is_not_known_is_told_of(client: httpx.AsyncClient) -> None:
    base = with_parameters(observation(), profile="http://hl7.org/fhir/StructureDefinition/Observation")
    assert "error" not in severities(await issues(client, "Observation/$validate", base))
    unknown = with_parameters(observation(), profile="http://nowhere.example/StructureDefinition/x")
    assert "error" in severities(await issues(client, "Observation/$validate", unknown))


async def test_profiles_of_ours_of_the_r4_package_and_of_the_site(client: httpx.AsyncClient) -> None:
    ours = "https://wetread.org/fhir/StructureDefinition/ai-observation"
    found = await issues(client, "Observation/$validate", with_parameters(observation(), profile=ours))
    assert {issue["code"] for issue in found if issue["severity"] == "error"} - {"not-found", "not-supported"}
    weight = "http://hl7.org/fhir/StructureDefinition/bodyweight"
    found = await issues(client, "Observation/$validate", with_parameters(observation(), profile=weight))
    assert any("Observation.category" in e for issue in found for e in issue.get("expression", ()))
    named = {
        "resourceType": "StructureDefinition",
        "id": "named",
        "url": "http://hospital.example/StructureDefinition/named",
        "name": "NamedPatient",
        "status": "active",
        "kind": "resource",
        "abstract": False,
        "type": "Patient",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
        "derivation": "constraint",
        "differential": {
            "element": [
                {"id": "Patient", "path": "Patient"},
                {"id": "Patient.gender", "path": "Patient.gender", "min": 1},
            ]
        },
    }
    assert (await put(client, named)).status_code == 201
    answer = await client.get(f"{BASE}/Patient/p1/$validate", params={"profile": named["url"]})
    assert "error" in severities(answer.json()["issue"])
    good = with_parameters(patient(gender="other"), profile=str(named["url"]))
    assert "error" not in severities(await issues(client, "Patient/$validate", good))


@pytest.mark.parametrize(
    "body",
    [
        patient(),
        {"resourceType": "Parameters"},
        with_parameters(observation(), mode="guess"),
        with_parameters(observation(), mode="profile"),
        with_parameters(observation(), mode="delete"),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert severities(await issues(client, "Observation/$validate", body, 400)) == {"error"}
