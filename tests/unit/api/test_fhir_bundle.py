"""Batch and transaction over HTTP (FHIR R4 http.html 3.1.0.11)."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import httpx
import pytest

DIV = '<div xmlns="http://www.w3.org/1999/xhtml">'
JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def client(shared_fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_fhir_client


def entry(method: str, url: str, resource: Any = None, full_url: str = "", **request: Any) -> dict[str, Any]:
    parts = {"fullUrl": full_url, "resource": resource, "request": {"method": method, "url": url, **request}}
    return {k: v for k, v in parts.items() if v}


def patient(value: str = "", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": "urn:test", "value": value or "x"}], **more}


def json_patch(*operations: dict[str, Any]) -> dict[str, Any]:
    data = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}


async def send(client: httpx.AsyncClient, kind: str, *entries: Any, **headers: str) -> httpx.Response:
    body = {"resourceType": "Bundle", "type": kind, "entry": entries}
    return await client.post("", json=body, headers={**JSON, **headers})


def statuses(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [e["response"]["status"][:3] for e in answer.json()["entry"]]


async def test_links_between_entries_become_real_wherever_r4_has_them(client: httpx.AsyncClient) -> None:
    urn = "urn:uuid:7a1f0c66-3f1e-4f0e-9f0c-0c6f5a1d2b3c"
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "text": {
            "status": "generated",
            "div": f'{DIV}<a href="{urn}">p</a> <img src=\'{urn}\' alt="{urn}"/></div>',
        },
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": urn}],
        "subject": {"reference": urn},
        "content": [{"attachment": {"url": urn, "title": urn}}],
        "extension": [
            {"url": "http://example.org/x", "valueUri": urn},
            {"url": "http://example.org/y", "valueString": urn},
        ],
    }
    answer = await send(
        client,
        "transaction",
        entry("POST", "DocumentReference", document),
        entry("POST", "Patient", patient(), urn),
    )
    stored, subject = (e["resource"] for e in answer.json()["entry"])
    real = f"Patient/{subject['id']}"
    assert stored["subject"]["reference"] == real
    assert stored["content"][0]["attachment"] == {"url": real, "title": urn}
    assert f'<a href="{real}">' in stored["text"]["div"]
    assert f"src='{real}' alt=\"{urn}\"" in stored["text"]["div"]
    assert [list(e.values())[1] for e in stored["extension"]] == [real, urn]
    assert stored["identifier"][0]["value"] == urn


async def test_entries_of_another_server_find_each_other_by_its_urls(client: httpx.AsyncClient) -> None:
    def observation(reference: str) -> dict[str, Any]:
        subject = {"reference": reference}
        return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": subject}

    other = "http://other.example/base/Patient/77"
    answer = await send(
        client,
        "transaction",
        entry("POST", "Patient", patient(), other),
        entry("POST", "Observation", observation("Patient/77")),
        entry("POST", "Observation", observation(other)),
        entry("POST", "Observation", observation(f"{other}/_history/3")),
        entry("POST", "Observation", observation("Patient/78")),
    )
    made, *observations = (e["resource"] for e in answer.json()["entry"])
    found = [o["subject"]["reference"] for o in observations]
    assert found == [f"Patient/{made['id']}"] * 3 + ["Patient/78"]


async def test_every_kind_of_entry_in_one_transaction(client: httpx.AsyncClient) -> None:
    a, b, c, d = (uuid.uuid4().hex for _ in range(4))
    before = [patient(a, id=a), patient(b, id=b, active=False), patient(c, id=c)]
    await send(client, "transaction", *(entry("PUT", f"Patient/{p['id']}", p) for p in before))
    answer = await send(
        client,
        "transaction",
        entry("GET", f"Patient/{b}"),
        entry("GET", f"Patient?identifier=urn:test|{d}"),
        entry("GET", f"Patient/{a}/_history"),
        entry("GET", f"Patient/{a}/_history/1"),
        entry("GET", f"Patient/{c}", ifNoneMatch='W/"1"'),
        entry("PATCH", f"Patient/{b}", json_patch({"op": "replace", "path": "/active", "value": True})),
        entry("PUT", f"Patient?identifier=urn:test|{d}", patient(d)),
        entry("POST", "Patient", patient(c), ifNoneExist=f"identifier=urn:test|{c}"),
        entry("DELETE", f"Patient?identifier=urn:test|{a}"),
    )
    assert statuses(answer) == ["200", "200", "200", "200", "304", "200", "201", "200", "204"]
    read, search, history, vread, known, patched, updated, existing, _ = answer.json()["entry"]
    assert read["resource"]["active"] is True
    assert read["resource"] == patched["resource"]
    assert [e["resource"]["id"] for e in search["resource"]["entry"]] == [updated["resource"]["id"]]
    assert [e["request"]["method"] for e in history["resource"]["entry"]] == ["DELETE", "PUT"]
    assert vread["resource"]["id"] == a
    assert "resource" not in known
    assert existing["resource"]["id"] == c


async def test_a_deletion_comes_before_a_conditional_create(client: httpx.AsyncClient) -> None:
    value = uuid.uuid4().hex
    await client.put(f"Patient/{value}", json=patient(value, id=value), headers=JSON)
    answer = await send(
        client,
        "transaction",
        entry("POST", "Patient", patient(value), ifNoneExist=f"identifier=urn:test|{value}"),
        entry("DELETE", f"Patient/{value}"),
    )
    assert statuses(answer) == ["201", "204"]


@pytest.mark.parametrize(
    ("faulty", "status", "where"),
    [
        (entry("GET", "Patient/none"), 404, "Bundle.entry[1].request"),
        (entry("GET", "Patient/$everything"), 422, "Bundle.entry[1].request.url"),
        (entry("POST", "$validate", patient()), 422, "Bundle.entry[1].request.url"),
        (entry("HEAD", "Patient/1"), 422, "Bundle.entry[1].request.method"),
        (entry("PUT", "Patient/x", patient(id="x"), ifMatch='W/"4"'), 412, "Bundle.entry[1].request"),
        (entry("PUT", "Patient/y", patient(id="x")), 400, "Bundle.entry[1].resource.id"),
        (entry("PATCH", "Patient/none", json_patch()), 404, "Bundle.entry[1].request"),
        (entry("PATCH", "Patient/none", {"resourceType": "Basic"}), 422, "Bundle.entry[1].resource"),
        (entry("PATCH", "Patient/none", {"resourceType": "Parameters"}), 404, "Bundle.entry[1].request"),
        (entry("PATCH", "Patient/none", json_patch({"op": "spam"})), 400, "Bundle.entry[1].resource.data"),
        (entry("PATCH", "Patient?identifier=none", json_patch()), 404, "Bundle.entry[1].request"),
        (entry("POST", "Patient", patient(gender="bogus")), 400, "Bundle.entry[1].resource.gender"),
        (entry("POST", "Patient", patient(), ifNoneExist="bogus=1"), 400, "Bundle.entry[1].request"),
        (entry("PUT", "Patient/good", patient(id="good")), 400, "Bundle.entry[1].request"),
        ("nothing", 400, "Bundle.entry[1].request"),
    ],
)
async def test_one_faulty_entry_undoes_a_transaction_and_is_named(
    client: httpx.AsyncClient, faulty: Any, status: int, where: str
) -> None:
    answer = await send(client, "transaction", entry("PUT", "Patient/good", patient(id="good")), faulty)
    assert answer.status_code == status, answer.text
    assert answer.json()["issue"][0]["expression"][0].startswith(where)
    assert "allow" not in answer.headers
    assert (await client.get("Patient/good")).status_code == 404


async def test_a_batch_does_what_it_can(client: httpx.AsyncClient) -> None:
    id_ = uuid.uuid4().hex
    answer = await send(
        client,
        "batch",
        entry("GET", f"Patient/{id_}"),
        entry("PUT", f"Patient/{id_}", patient(id=id_)),
        entry("PUT", f"Patient/{id_}", patient(id=id_, active=True), ifMatch='W/"1"'),
        entry("PUT", f"Patient/{id_}", patient(id=id_, active=False), ifMatch='W/"1"'),
        entry("GET", "metadata"),
        entry("GET", f"Patient/{id_}/$everything"),
        entry("GET", f"Patient?_id={id_}"),
        {},
    )
    assert statuses(answer) == ["404", "201", "200", "412", "404", "422", "200", "400"]
    assert answer.json()["type"] == "batch-response"
    assert answer.json()["entry"][0]["response"]["status"] == "404 Not Found"
    assert answer.json()["entry"][0]["response"]["outcome"]["issue"][0]["code"] == "not-found"


async def test_the_answer_is_as_preferred(client: httpx.AsyncClient) -> None:
    create = entry("POST", "Patient", patient())
    minimal = (await send(client, "transaction", create, Prefer="return=minimal")).json()["entry"][0]
    assert "resource" not in minimal
    assert minimal["response"]["location"].endswith("/_history/1")
    told = (await send(client, "transaction", create, Prefer="return=OperationOutcome")).json()["entry"][0]
    assert told["response"]["outcome"]["issue"][0]["severity"] == "information"
    assert "resource" not in told
    whole = (await send(client, "transaction", create, entry("GET", "Patient?_count=1"))).json()["entry"]
    assert [e["resource"]["resourceType"] for e in whole] == ["Patient", "Bundle"]


async def test_too_many_entries_are_refused(client: httpx.AsyncClient) -> None:
    answer = await send(client, "batch", *[entry("GET", "Patient/1")] * 1001)
    assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (413, ["Bundle.entry"])


@pytest.mark.parametrize("kind", ["searchset", "history", "document", "", None, 7])
async def test_other_bundles_are_refused(client: httpx.AsyncClient, kind: Any) -> None:
    assert (await send(client, kind)).status_code == 400


@pytest.mark.parametrize(
    "second",
    [
        entry("POST", "Patient", patient("twice"), ifNoneExist="identifier=urn:test|twice"),
        entry("PUT", "Patient?identifier=urn:test|twice", patient("twice")),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_of_one_condition_a_transaction_makes_no_two_resources(
    client: httpx.AsyncClient, method: str, second: dict[str, Any]
) -> None:
    """What the first makes, the second would match (FHIR R4 3.1.0.11.2: overlapping identities fail)."""
    query = "identifier=urn:test|twice"
    first = (
        entry("POST", "Patient", patient("twice"), ifNoneExist=query)
        if method == "POST"
        else entry("PUT", f"Patient?{query}", patient("twice"))
    )
    answer = await send(client, "transaction", first, second)
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[1].request"]
    assert (await client.get(f"Patient?{query}&_summary=count")).json()["total"] == 0


async def test_two_entries_may_ask_for_the_same_that_is_there(client: httpx.AsyncClient) -> None:
    value = uuid.uuid4().hex
    await client.post("Patient", json=patient(value), headers=JSON)
    create = entry("POST", "Patient", patient(value), ifNoneExist=f"identifier=urn:test|{value}")
    assert statuses(await send(client, "transaction", create, create)) == ["200", "200"]


async def test_two_entries_of_one_full_url_are_refused(client: httpx.AsyncClient) -> None:
    urn, value = uuid.uuid4().urn, uuid.uuid4().hex
    referring = {"resourceType": "Basic", "code": {"text": "x"}, "subject": {"reference": urn}}
    answer = await send(
        client,
        "transaction",
        entry("POST", "Patient", patient(value), urn),
        entry("POST", "Patient", patient(value), urn),
        entry("POST", "Basic", referring),
    )
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[1].fullUrl"]
    assert (await client.get(f"Patient?identifier={value}&_summary=count")).json()["total"] == 0


async def test_an_entrys_url_may_be_by_the_address_of_this_server_and_no_other(client: httpx.AsyncClient) -> None:
    id_ = uuid.uuid4().hex
    ours, theirs = "http://wetread.example/fhir", "https://elsewhere.example/fhir"
    put = entry("PUT", f"{ours}/Patient/{id_}", patient(id=id_))
    get = [entry("GET", f"{base}/Patient/{id_}") for base in (ours, theirs)]
    assert statuses(await send(client, "batch", put, *get)) == ["201", "200", "404"]
