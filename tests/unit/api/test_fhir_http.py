"""What holds for every answer of the FHIR face (FHIR R4 http.html 3.1.0.1)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
async def client(shared_fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    patient = '{"resourceType":"Patient","id":"p1","birthDate":"1970-01-01","gender":"female","photo":[{"size":1}]}'
    assert (await shared_fhir_client.put("Patient/p1", content=patient, headers=JSON)).status_code in (200, 201)
    return shared_fhir_client


@pytest.mark.parametrize(
    "path", ["metadata", "Patient/p1", "Patient/p1/_history/1", "Patient/p1/_history", "Patient?_id=p1", "_history"]
)
async def test_head_gives_what_get_gives_but_the_body(client: httpx.AsyncClient, path: str) -> None:
    got, asked = await client.get(path), await client.head(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"") == (200, b"")
    same = {"content-type", "etag", "last-modified"} | ({"content-length"} if "etag" in got.headers else set())
    assert {k: v for k, v in asked.headers.items() if k in same} == {k: got.headers[k] for k in same & set(got.headers)}
    assert int(asked.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["metadata", "Patient/p1", "Patient?_id=p1", "Patient/none"])
async def test_pretty_changes_blanks_and_nothing_else(client: httpx.AsyncClient, path: str) -> None:
    plain = await client.get(path)
    pretty = await client.get(path, params={**dict(httpx.QueryParams(httpx.URL(path).query)), "_pretty": "true"})
    assert (pretty.status_code, pretty.headers["content-length"]) == (plain.status_code, str(len(pretty.content)))
    assert pretty.text.startswith('{\n  "resourceType"')

    def essence(answer: httpx.Response) -> Any:
        return {k: v for k, v in answer.json().items() if k not in ("id", "meta", "link")}

    assert essence(pretty) == essence(plain)


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Accept": "application/fhir+json"}, "Patient/p1", 200),
        ({"Accept": "application/json"}, "Patient/p1", 200),
        ({"Accept": "text/html, application/fhir+xml;q=0.1, */*;q=0.9"}, "Patient/p1", 200),
        ({"Accept": "application/fhir+json; fhirVersion=4.0"}, "Patient/p1", 200),
        ({"Accept": "text/turtle"}, "Patient/p1", 406),
        ({"Accept": "application/fhir+xml"}, "Patient/p1?_format=json", 200),
        ({}, "Patient/p1?_format=application/fhir%2Bjson", 200),
        ({}, "Patient/p1?_format=application/fhir+json", 200),
        ({}, "Patient/p1?_format=text/json", 200),
        ({}, "Patient/p1?_format=ttl", 406),
    ],
)
async def test_json_is_spoken_where_no_xml_is_asked_for(
    client: httpx.AsyncClient, headers: dict[str, str], path: str, status: int
) -> None:
    answer = await client.get(path, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/fhir+json")


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("POST", "Patient", "application/xhtml+xml"),
        ("PUT", "Patient/p1", "text/turtle"),
        ("POST", "", "text/plain"),
        ("POST", "Patient", "application/fhir+json; fhirVersion=5.0"),
        ("PATCH", "Patient/p1", "application/xml-patch+xml"),
        ("POST", "Patient/_search", "application/fhir+json"),
        ("POST", "Patient", ""),
    ],
)
async def test_other_bodies_are_refused(client: httpx.AsyncClient, method: str, path: str, content_type: str) -> None:
    answer = await client.request(method, path, content="<Patient/>", headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (415, "not-supported")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "metadata", "GET, HEAD"),
        ("DELETE", "", "GET, HEAD, POST"),
        ("POST", "_history", "GET, HEAD"),
        ("GET", "Patient/_search", "POST"),
        ("PUT", "Patient/_history", "GET, HEAD"),
        ("POST", "Patient/p1", "GET, HEAD, PUT, PATCH, DELETE"),
        ("DELETE", "Patient/p1/_history/1", "GET, HEAD"),
        ("POST", "AuditEvent", "GET, HEAD"),
        ("DELETE", "AuditEvent/1", "GET, HEAD"),
        ("OPTIONS", "Patient", "GET, HEAD, POST, PUT, PATCH, DELETE"),
    ],
)
async def test_a_path_says_what_it_takes(client: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    answer = await client.request(method, path, headers=JSON)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["issue"][0]["code"] == "not-supported"


async def test_a_read_can_be_cut_to_what_is_wanted(client: httpx.AsyncClient) -> None:
    only = (await client.get("Patient/p1?_elements=gender")).json()
    assert (only["gender"], "birthDate" in only, only["meta"]["tag"][0]["code"]) == ("female", False, "SUBSETTED")
    summary = (await client.get("Patient/p1?_summary=true")).json()
    assert ("photo" in summary, summary["birthDate"]) == (False, "1970-01-01")
    refused = await client.get("Patient/p1?_summary=some")
    assert (refused.status_code, refused.json()["resourceType"]) == (400, "OperationOutcome")


async def test_a_request_has_an_id_of_its_own_or_the_callers(client: httpx.AsyncClient) -> None:
    given = await client.get("Patient/none", headers={"X-Request-Id": "mine-7"})
    assert (given.status_code, given.headers["x-request-id"]) == (404, "mine-7")
    assert len((await client.get("metadata")).headers["x-request-id"]) == 36


async def test_who_prefers_to_wait_elsewhere_is_answered_at_once(client: httpx.AsyncClient) -> None:
    """R4 lets a server pass over respond-async, and RFC 7240 any preference."""
    batch = {"resourceType": "Bundle", "type": "batch", "entry": []}
    answer = await client.post("", json=batch, headers={**JSON, "Prefer": "respond-async"})
    assert (answer.status_code, answer.json()["type"]) == (200, "batch-response")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("[" * 5000 + "]" * 5000, 400),
        ('{"resourceType":"Patient","contact":' + '[{"x":' * 200 + "1" + "}]" * 200 + "}", 400),
        ('{"resourceType":"Patient","text":"' + "x" * 1_000_001 + '"}', 413),
        ('{"resourceType":"Patient","multipleBirthInteger":' + "1" * 5000 + "}", 400),
        ('{"resourceType":"Patient","multipleBirthInteger":1e999999}', 400),
        ("", 400),
        ("null", 400),
        ("7", 400),
        ('{"resourceType":["Patient"]}', 422),
        ("{}", 422),
    ],
)
async def test_bodies_beyond_measure_are_refused(client: httpx.AsyncClient, body: str, status: int) -> None:
    answer = await client.post("Patient", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome"), answer.text
    assert json.loads(answer.text)["issue"][0]["diagnostics"]


async def test_too_many_parameters_are_refused(client: httpx.AsyncClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.post("Patient/_search", content="&".join(["name=x"] * 1001), headers=form)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (413, "too-long")


async def test_a_format_in_the_form_counts_as_one_in_the_url(client: httpx.AsyncClient) -> None:
    answer = await client.post("Patient/_search", data={"_id": "p1", "_format": "xml"})
    assert answer.headers["content-type"].startswith("application/fhir+xml")
    assert "<Bundle xmlns" in answer.text
    assert (await client.post("Patient/_search", data={"_format": "ttl"})).status_code == 406


@pytest.mark.parametrize("path", ["Patient/p1", "Patient?_id=p1", "Patient/none", "metadata"])
async def test_caches_are_told_that_the_form_depends_on_what_was_accepted(client: httpx.AsyncClient, path: str) -> None:
    assert "Accept" in (await client.get(path)).headers["vary"]


@pytest.mark.parametrize("count", ["_summary=count", "_count=0"])
async def test_a_count_tells_what_it_ignored(client: httpx.AsyncClient, count: str) -> None:
    found = (await client.get(f"Patient?{count}&bogus=1&_id=p1")).json()
    assert found["total"] == 1
    assert "bogus" not in found["link"][0]["url"]
    [told] = found["entry"]
    assert (told["search"]["mode"], told["resource"]["issue"][0]["expression"]) == ("outcome", ["http.bogus"])
    assert "entry" not in (await client.get(f"Patient?{count}&_id=p1")).json()


async def test_the_openapi_document_tells_both_forms(client: httpx.AsyncClient) -> None:
    described = (await client.get("openapi.json")).json()
    body = described["paths"]["/{type}"]["post"]["requestBody"]["content"]
    assert {"application/fhir+json", "application/fhir+xml"} <= set(body)
