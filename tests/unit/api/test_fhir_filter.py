"""`_filter` over HTTP (FHIR R4 search_filter.html): found, told in the self link, and refused by name."""

from __future__ import annotations

import uuid

import httpx
import pytest


@pytest.fixture
def client(shared_fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_fhir_client


async def test_a_filter_is_applied_and_told(client: httpx.AsyncClient) -> None:
    family = f"F{uuid.uuid4().hex}"
    for gender in ("male", "female"):
        patient = {"resourceType": "Patient", "gender": gender, "name": [{"family": family}]}
        await client.post("Patient", json=patient, headers={"Content-Type": "application/fhir+json"})
    text = f'family eq "{family}" and not(gender eq male)'
    for answer in (
        await client.get("Patient", params={"_filter": text}),
        await client.post("Patient/_search", data={"_filter": text}),
    ):
        found = answer.json()
        assert [e["resource"]["gender"] for e in found["entry"]] == ["female"]
        assert "_filter=" in found["link"][0]["url"]


async def test_an_operator_that_does_not_fit_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.get("Patient", params={"_filter": "family po 2014"})
    issue = answer.json()["issue"][0]
    assert (answer.status_code, issue["code"], issue["expression"]) == (422, "not-supported", ["http._filter"])
    assert "operator po" in issue["diagnostics"]
