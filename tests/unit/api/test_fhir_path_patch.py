"""FHIRPath Patch over HTTP: by id, by condition, and in a transaction, whose links hold in it (R4 fhirpatch.html)."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

FHIR = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def client(shared_fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_fhir_client


def parameters(kind: str, path: str, **parts: dict[str, Any]) -> dict[str, Any]:
    made = [{"name": "type", "valueCode": kind}, {"name": "path", "valueString": path}]
    made += [{"name": name, **value} for name, value in parts.items()]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": made}]}


async def observation(client: httpx.AsyncClient) -> tuple[str, str]:
    """The url of a new one, and its identifier."""
    marker = uuid.uuid4().hex
    content = (
        '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.50},'
        f'"identifier":[{{"system":"urn:test","value":"{marker}"}}]}}'
    )
    answer = await client.post("Observation", content=content, headers=FHIR)
    return f"Observation/{answer.json()['id']}", marker


async def test_a_patch_by_path_changes_what_it_names_and_no_digit_else(client: httpx.AsyncClient) -> None:
    url, marker = await observation(client)
    change = parameters("replace", "Observation.code.text", value={"valueString": "y"})
    stale = await client.patch(url, json=change, headers={**FHIR, "If-Match": 'W/"7"'})
    assert stale.status_code == 412
    patched = await client.patch(url, json=change, headers={**FHIR, "If-Match": 'W/"1"'})
    assert (patched.status_code, patched.headers["etag"]) == (200, 'W/"2"')
    assert '"value":1.50' in patched.text
    assert patched.json()["code"] == {"text": "y"}
    again = parameters("delete", "Observation.code.text")
    refused = await client.patch(f"Observation?identifier=urn:test|{marker}", json=again, headers=FHIR)
    assert refused.status_code == 400  # an Observation has a code
    assert (await client.get(url)).text == patched.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"resourceType": "Patient"}, (400, ["resourceType"])),
        (parameters("spam", "Observation"), (400, ["Parameters.parameter[0].part"])),
        (parameters("add", "Observation.note", name={"valueString": "text"}, value={"valueMarkdown": "x"}),
         (422, ["Parameters.parameter[0]"])),
        (parameters("replace", "Observation.status", value={"valueCode": "spam"}), (400, ["Observation.status"])),
        (parameters("replace", "Observation.id", value={"valueId": "other"}), (400, ["Observation.id"])),
    ],
)  # fmt: skip
async def test_a_patch_that_cannot_be_done_is_told_where(
    client: httpx.AsyncClient, change: dict[str, Any], expected: tuple[int, list[str]]
) -> None:
    url, _ = await observation(client)
    answer = await client.patch(url, json=change, headers=FHIR)
    assert (answer.status_code, answer.json()["issue"][0].get("expression")) == expected
    assert (await client.get(url)).headers["etag"] == 'W/"1"'


async def test_a_patch_in_a_transaction_refers_to_what_the_transaction_creates(client: httpx.AsyncClient) -> None:
    url, _ = await observation(client)
    urn = f"urn:uuid:{uuid.uuid4()}"
    add = parameters(
        "add", "Observation", name={"valueString": "subject"}, value={"valueReference": {"reference": urn}}
    )
    entries = [
        {"resource": add, "request": {"method": "PATCH", "url": url}},
        {"fullUrl": urn, "resource": {"resourceType": "Patient"}, "request": {"method": "POST", "url": "Patient"}},
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    answer = await client.post("", json=bundle, headers={**FHIR, "Prefer": "return=representation"})
    patched, patient = (e["resource"] for e in answer.json()["entry"])
    assert patched["subject"] == {"reference": f"Patient/{patient['id']}"}
    again = await client.post("", json={**bundle, "entry": entries[:1]}, headers=FHIR)
    assert (again.status_code, again.json()["issue"][0]["expression"]) == (
        422,
        ["Bundle.entry[0].resource.parameter[0]"],
    )
    entries[0]["resource"] = parameters("add", "Observation")
    wrong = await client.post("", json=bundle, headers=FHIR)
    assert wrong.json()["issue"][0]["expression"] == ["Bundle.entry[0].resource.parameter[0].part"]


async def test_a_patch_by_path_may_be_xml(client: httpx.AsyncClient) -> None:
    url, _ = await observation(client)
    parts = (
        '<part><name value="type"/><valueCode value="replace"/></part>'
        '<part><name value="path"/><valueString value="Observation.value.value"/></part>'
        '<part><name value="value"/><valueDecimal value="2.500"/></part>'
    )
    operation = f'<parameter><name value="operation"/>{parts}</parameter>'
    answer = await client.patch(
        url,
        content=f'<Parameters xmlns="http://hl7.org/fhir">{operation}</Parameters>',
        headers={"Content-Type": "application/fhir+xml", "Accept": "application/fhir+json"},
    )
    assert answer.status_code == 200, answer.text
    assert '"value":2.500' in answer.text
