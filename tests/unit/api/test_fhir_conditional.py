"""Patch, and writes that a search addresses in place of an id (FHIR R4 http.html 3.1.0.7 to 3.1.0.10)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from wetread.store.database import Database

JSON = {"Content-Type": "application/fhir+json"}
PATCH = {"Content-Type": "application/json-patch+json"}


@pytest.fixture
def client(shared_fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_fhir_client


def named(value: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": "urn:test", "value": value}], **more}


async def stored(client: httpx.AsyncClient, resource: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(resource["resourceType"], json=resource, headers=JSON)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def problem(answer: httpx.Response) -> tuple[int, str]:
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    return answer.status_code, outcome["issue"][0]["code"]


async def test_a_json_patch_changes_what_it_names_and_no_digit_else(client: httpx.AsyncClient) -> None:
    text = (
        '{"resourceType":"Observation","status":"preliminary","code":{"text":"x"},"valueQuantity":{"value":1.500},'
        '"component":[{"code":{"text":"a"},"valueQuantity":{"value":2.0}}]}'
    )
    created = await client.post("Observation", content=text, headers=JSON)
    url = f"Observation/{created.json()['id']}"
    operations = (
        '[{"op":"replace","path":"/status","value":"final"},'
        '{"op":"add","path":"/component/-","value":{"code":{"text":"b"},"valueQuantity":{"value":3.10}}}]'
    )
    patched = await client.patch(url, content=operations, headers={**PATCH, "If-Match": 'W/"1"'})
    assert (patched.status_code, patched.headers["etag"]) == (200, 'W/"2"')
    body = (await client.get(url)).text
    assert body == patched.text
    assert json.loads(body)["status"] == "final"
    assert [digits in body for digits in ('"value":1.500', '"value":2.0', '"value":3.10')] == [True] * 3


@pytest.mark.parametrize(
    ("operations", "headers", "expected"),
    [
        ([{"op": "replace", "path": "/gender", "value": "male"}], {"If-Match": 'W/"7"'}, (412, "conflict")),
        ([{"op": "test", "path": "/active", "value": True}], {}, (422, "processing")),
        ([{"op": "remove", "path": "/photo"}], {}, (422, "processing")),
        ([{"op": "add", "path": "/gender", "value": "bogus"}], {}, (400, "code-invalid")),
        ([{"op": "add", "path": "/bogus", "value": 1}], {}, (400, "structure")),
        ([{"op": "replace", "path": "/id", "value": "other"}], {}, (400, "invalid")),
        ([{"op": "replace", "path": "/resourceType", "value": "Basic"}], {}, (400, "invalid")),
        ({"op": "remove"}, {}, (400, "invalid")),
        ([], {"Content-Type": "application/xml-patch+xml"}, (415, "not-supported")),
        ([], {"Content-Type": "application/fhir+json"}, (400, "invalid")),
    ],
)
async def test_a_patch_that_cannot_be_done_changes_nothing(
    client: httpx.AsyncClient, operations: Any, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    resource = await stored(client, {"resourceType": "Patient", "active": False})
    url = f"Patient/{resource['id']}"
    answer = await client.patch(url, content=json.dumps(operations), headers={**PATCH, **headers})
    assert problem(answer) == expected
    assert (await client.get(url)).json() == resource


async def test_a_patch_needs_something_to_patch(client: httpx.AsyncClient) -> None:
    assert problem(await client.patch("Patient/none", content="[]", headers=PATCH)) == (404, "not-found")
    resource = await stored(client, named("gone"))
    await client.delete(f"Patient/{resource['id']}")
    assert problem(await client.patch(f"Patient/{resource['id']}", content="[]", headers=PATCH)) == (410, "deleted")


async def test_a_patch_that_changes_nothing_makes_no_version(client: httpx.AsyncClient) -> None:
    resource = await stored(client, named("same", active=True))
    operations = [{"op": "replace", "path": "/active", "value": True}]
    answer = await client.patch(f"Patient/{resource['id']}", json=operations, headers=PATCH)
    assert (answer.status_code, answer.headers["etag"]) == (200, 'W/"1"')


async def test_a_conditional_update_creates_then_updates_the_one_match(client: httpx.AsyncClient) -> None:
    value = uuid.uuid4().hex
    url = f"Patient?identifier=urn:test|{value}"
    created = await client.put(url, json=named(value), headers=JSON)
    assert (created.status_code, created.headers["etag"]) == (201, 'W/"1"')
    id_ = created.json()["id"]
    assert created.headers["location"].endswith(f"/fhir/Patient/{id_}/_history/1")

    updated = await client.put(url, json=named(value, active=True), headers=JSON)
    assert (updated.status_code, updated.json()["id"], updated.json()["meta"]["versionId"]) == (200, id_, "2")
    with_id = await client.put(url, json=named(value, id=id_, active=False), headers={**JSON, "If-Match": 'W/"2"'})
    assert (with_id.status_code, with_id.headers["etag"]) == (200, 'W/"3"')
    assert problem(await client.put(url, json=named(value, id="other"), headers=JSON)) == (400, "invalid")
    stale = await client.put(url, json=named(value), headers={**JSON, "If-Match": 'W/"1"'})
    assert problem(stale) == (412, "conflict")


async def test_a_conditional_update_without_a_match_keeps_a_free_id_and_takes_no_other(
    client: httpx.AsyncClient,
) -> None:
    value, id_ = uuid.uuid4().hex, uuid.uuid4().hex
    created = await client.put(f"Patient?identifier={value}", json=named(value, id=id_), headers=JSON)
    assert (created.status_code, created.json()["id"]) == (201, id_)
    other = uuid.uuid4().hex
    taken = await client.put(f"Patient?identifier={other}", json=named(other, id=id_), headers=JSON)
    assert problem(taken) == (409, "conflict")


async def test_a_condition_may_begin_with_its_type_and_no_other(client: httpx.AsyncClient) -> None:
    """As clients of other servers send it."""
    value = uuid.uuid4().hex
    headers = [
        {**JSON, "If-None-Exist": f"{start}identifier=urn:test|{value}"} for start in ("Patient?", "?", "Basic?")
    ]
    answers = [await client.post("Patient", json=named(value), headers=each) for each in headers]
    assert [answer.status_code for answer in answers] == [201, 200, 400]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_several_matches_refuse_every_conditional_write(client: httpx.AsyncClient) -> None:
    value = uuid.uuid4().hex
    for _ in range(2):
        await stored(client, named(value))
    url = f"Patient?identifier=urn:test|{value}"
    answers = [
        await client.put(url, json=named(value), headers=JSON),
        await client.patch(url, content="[]", headers=PATCH),
        await client.delete(url),
        await client.post("Patient", json=named(value), headers={**JSON, "If-None-Exist": f"identifier={value}"}),
    ]
    assert [problem(answer) for answer in answers] == [(412, "conflict")] * 4
    assert (await client.get(url)).json()["total"] == 2


async def test_a_conditional_patch_patches_the_one_match(client: httpx.AsyncClient) -> None:
    value = uuid.uuid4().hex
    resource = await stored(client, named(value))
    url = f"Patient?identifier=urn:test|{value}"
    operations = [{"op": "add", "path": "/active", "value": True}]
    answer = await client.patch(url, json=operations, headers=PATCH)
    assert (answer.status_code, answer.json()["id"], answer.json()["active"]) == (200, resource["id"], True)
    none = await client.patch("Patient?identifier=none", json=operations, headers=PATCH)
    assert problem(none) == (404, "not-found")


async def test_a_conditional_delete_deletes_the_one_match_and_none_is_well(client: httpx.AsyncClient) -> None:
    value = uuid.uuid4().hex
    resource = await stored(client, named(value))
    url = f"Patient?identifier=urn:test|{value}"
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(f"Patient/{resource['id']}")).status_code == 410
    assert (await client.delete(url)).status_code == 204


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_write_without_id_and_without_search_is_refused(client: httpx.AsyncClient, method: str) -> None:
    headers = PATCH if method == "PATCH" else JSON
    content = {"PUT": json.dumps(named("x")), "PATCH": "[]", "DELETE": ""}[method]
    assert problem(await client.request(method, "Patient", content=content, headers=headers)) == (400, "invalid")
    unknown = await client.request(method, "Patient?bogus=1", content=content, headers=headers)
    assert problem(unknown)[0] == 400


async def test_deleting_what_is_not_there_is_well_and_a_preference_is_met(client: httpx.AsyncClient) -> None:
    assert (await client.delete("Patient/never-was")).status_code == 204
    resource = await stored(client, named("deleted"))
    url = f"Patient/{resource['id']}"
    stale = await client.delete(url, headers={"If-Match": 'W/"9"'})
    assert problem(stale) == (412, "conflict")
    answer = await client.delete(url, headers={"Prefer": "return=OperationOutcome"})
    assert (answer.status_code, answer.headers["etag"]) == (200, 'W/"2"')
    assert answer.json()["issue"][0]["severity"] == "information"
    again = await client.delete(url)
    assert (again.status_code, again.headers["etag"]) == (204, 'W/"2"')


async def test_a_conditional_read_gives_what_the_caller_has_not(client: httpx.AsyncClient) -> None:
    resource = await stored(client, named("read"))
    url = f"Patient/{resource['id']}"
    first = await client.get(url)
    for headers, status in (
        ({"If-None-Match": first.headers["etag"]}, 304),
        ({"If-None-Match": 'W/"7", W/"1"'}, 304),
        ({"If-None-Match": 'W/"7"'}, 200),
        ({"If-Modified-Since": first.headers["last-modified"]}, 304),
        ({"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 200),
        ({"If-Modified-Since": "soon"}, 200),
        ({"If-None-Match": 'W/"7"', "If-Modified-Since": first.headers["last-modified"]}, 200),
    ):
        answer = await client.get(url, headers=headers)
        assert (answer.status_code, bool(answer.content)) == (status, status == 200), headers
        assert answer.headers["etag"] == 'W/"1"'


async def test_an_update_that_wants_nothing_there_yet_is_refused_where_something_is(client: httpx.AsyncClient) -> None:
    id_ = uuid.uuid4().hex
    headers = {**JSON, "If-None-Match": "*"}
    assert (await client.put(f"Patient/{id_}", json=named("a", id=id_), headers=headers)).status_code == 201
    assert problem(await client.put(f"Patient/{id_}", json=named("b", id=id_), headers=headers)) == (412, "conflict")


async def test_where_clients_choose_no_ids_a_put_creates_nothing(
    database: Database, calls: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
) -> None:
    async with calls(database, update_create=False) as client:
        refused = await client.put("Patient/mine", json=named("x", id="mine"), headers=JSON)
        assert problem(refused) == (405, "not-supported")
        assert "allow" in refused.headers
        conditional = await client.put("Patient?identifier=x", json=named("x", id="mine"), headers=JSON)
        assert problem(conditional) == (405, "not-supported")
        created = await client.put("Patient?identifier=x", json=named("x"), headers=JSON)
        assert created.status_code == 201
        resource = created.json()
        updated = await client.put(f"Patient/{resource['id']}", json={**resource, "active": True}, headers=JSON)
        assert updated.status_code == 200
