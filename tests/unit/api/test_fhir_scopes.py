"""What a scope opens and keeps shut at the FHIR face (SMART App Launch 2.2, docs/decisions/0025): each way by which
others have told of a patient whom the token is not for is tried here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from wetread.domain.reader import Scope
from wetread.errors import InvalidInput
from wetread.record import resources
from wetread.record.scopes import checked_scopes
from wetread.store.database import Database

from .scoped import JSON, face, found, observation, ref, store, token

PATCH = {"Content-Type": "application/json-patch+json"}
LAB = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
IMAGING = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}]}
ALL = token("system/*.cruds")
OWN = token("patient/*.cruds", "p1")
READ = token("patient/*.rs", "p1")
PATIENTS = [
    {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"family": "Own"}],
        "generalPractitioner": [ref("Practitioner/d")],
    },
    {"resourceType": "Patient", "id": "p2", "name": [{"family": "Other"}], "gender": "male"},
    {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Doctor"}]},
]
BOTH = [
    *PATIENTS,
    observation("o1", "Patient/p1", category=[LAB]),
    observation("i1", "Patient/p1", category=[IMAGING], performer=[ref("Practitioner/d")]),
    observation("o2", "Patient/p2", category=[LAB], hasMember=[ref("Observation/o1")]),
]


@pytest.fixture(scope="module")
async def client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody writes to what these tests read."""
    await store(module_database, *BOTH)
    async with face(module_database) as client:
        yield client


@pytest.fixture
async def own(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """On a database that the test may write to."""
    await store(database, *BOTH)
    async with face(database) as client:
        yield client


def outward(answer: httpx.Response) -> tuple[int, str, dict[str, str]]:
    """All that a caller could tell two answers apart by, but for what it asked for."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")}
    return answer.status_code, answer.text, headers


# Reading


@pytest.mark.parametrize("path", ["{}", "{}/_history", "{}/_history/1", "{}/_history/2", "{}/$meta", "{}/$validate"])
@pytest.mark.parametrize(
    "more", [{}, {"If-None-Match": 'W/"1"'}, {"If-Modified-Since": "Mon, 01 Jan 2300 00:00:00 GMT"}]
)
async def test_what_a_token_may_not_see_reads_as_what_is_not_there(
    client: httpx.AsyncClient, path: str, more: dict[str, str]
) -> None:
    hidden = await client.get("Observation/" + path.format("o2"), headers={**READ, **more})
    unknown = await client.get("Observation/" + path.format("xx"), headers={**READ, **more})
    assert hidden.status_code == 404
    assert outward(hidden) == outward(unknown)


async def test_what_is_the_patients_reads_as_ever(client: httpx.AsyncClient) -> None:
    for path in ("Patient/p1", "Observation/o1", "Observation/o1/_history/1", "Observation/o1/_history"):
        assert (await client.get(path, headers=READ)).status_code == 200
    known = {**READ, "If-None-Match": 'W/"1"'}
    assert (await client.get("Observation/o1", headers=known)).status_code == 304


@pytest.mark.parametrize(
    "query",
    [
        "Observation",
        "Observation?_summary=count",
        "Observation?_total=accurate",
        "Observation?_total=estimate&_count=1",
        "Observation?_sort=-_lastUpdated",
        "Observation?_sort=code",
        "Observation?subject=Patient/p2",
        "Observation?patient=p2&_summary=count",
        "Observation?subject.name=Other",
        "Observation?subject:Patient.gender=male",
        "Observation?patient:missing=false",
        "Observation?_filter=patient%20re%20Patient/p2",
        "Observation?_filter=subject.name%20eq%20Other",
        "Observation?_id=o1,o2",
        "Observation?category:not=imaging",
        "Patient",
        "Patient?_has:Observation:patient:category=laboratory",
        "Patient?name=Other",
        "Patient?_summary=count",
        "Patient/p2/Observation",
        "Patient/p2/*",
        "Patient/p1/*",
        "Patient?_revinclude=Observation:patient",
        "Observation?_include=*&_include:iterate=*&_revinclude=*&_revinclude:iterate=*",
        "Observation?_include:iterate=Observation:has-member&_revinclude:iterate=Observation:has-member",
        "Practitioner?_id=d&_revinclude=Observation:performer&_revinclude:iterate=Observation:has-member",
        "?_type=Observation,Patient",
        "",
        "_history",
        "Observation/_history",
        "Patient/_history",
        "Patient/$everything",
        "Patient/p1/$everything",
        "Observation/$lastn?patient=p2",
        "Observation/$lastn?patient:missing=false",
    ],
)
async def test_nothing_of_another_patient_comes_back_or_is_counted(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(query, headers=token("patient/*.rs patient/Practitioner.rs", "p1"))
    assert answer.status_code == 200, answer.text
    assert found(answer) <= {"Patient/p1", "Observation/o1", "Observation/i1", "Practitioner/d"}
    body = answer.json()
    matches = [entry for entry in body.get("entry", ()) if entry.get("search", {}).get("mode") == "match"]
    if "_count=1" not in query and "=count" not in query:
        assert body.get("total", len(matches)) == len(matches)
    said = json.dumps({name: value for name, value in body.items() if name != "link"})
    assert not any(word in said for word in ("Other", '"o2"', "/o2"))


async def test_the_same_questions_find_what_is_the_patients(client: httpx.AsyncClient) -> None:
    for query, ids in (
        ("Observation", {"Observation/o1", "Observation/i1"}),
        ("Observation?subject.name=Own", {"Observation/o1", "Observation/i1"}),
        ("Patient?_has:Observation:patient:category=laboratory", {"Patient/p1"}),
        ("Patient?_revinclude=Observation:patient", {"Patient/p1", "Observation/o1", "Observation/i1"}),
        ("?_type=Observation,Patient", {"Patient/p1", "Observation/o1", "Observation/i1"}),
        ("_history", {"Patient/p1", "Observation/o1", "Observation/i1"}),
    ):
        assert found(await client.get(query, headers=READ)) == ids, query
    assert (await client.get("Observation?_summary=count", headers=READ)).json()["total"] == 2


async def test_a_list_shows_only_what_its_reader_may_see(own: httpx.AsyncClient, database: Database) -> None:
    entry = [{"item": ref("Observation/o1")}, {"item": ref("Observation/o2")}]
    content = {"resourceType": "List", "status": "current", "mode": "working", "entry": entry}
    await store(database, {**content, "id": "l1", "subject": ref("Patient/p1")})
    await store(database, {**content, "id": "l2", "subject": ref("Patient/p2")})
    assert found(await own.get("Observation?_list=l1", headers=READ)) == {"Observation/o1"}
    assert found(await own.get("Observation?_list=l2", headers=READ)) == set()


async def test_a_scope_on_one_type_opens_no_other(client: httpx.AsyncClient) -> None:
    only = token("patient/Observation.rs", "p1")
    assert (await client.get("Patient", headers=only)).status_code == 403
    assert (await client.get("Patient/p1", headers=only)).status_code == 403
    assert (await client.get("Observation?subject.name=Own", headers=only)).status_code == 403
    assert (await client.get("Patient?_has:Observation:patient:status=final", headers=only)).status_code == 403
    whole = {"Observation/o1", "Observation/i1"}
    assert found(await client.get("", headers=only)) == whole
    assert found(await client.get("Observation?_include=*", headers=only)) == whole


async def test_each_letter_opens_its_own_interactions(client: httpx.AsyncClient) -> None:
    read, search = token("patient/Observation.r", "p1"), token("patient/Observation.s", "p1")
    for path, letter in (
        ("Observation/o1", "r"),
        ("Observation/o1/_history/1", "r"),
        ("Observation/o1/_history", "r"),
        ("Observation", "s"),
        ("Observation/_history", "s"),
        ("_history", "s"),
    ):
        assert (await client.get(path, headers=read)).status_code == (200 if letter == "r" else 403), path
        assert (await client.get(path, headers=search)).status_code == (200 if letter == "s" else 403), path
    assert found(await client.get("Patient?_revinclude=*", headers=token("user/Patient.rs user/Observation.r"))) == {
        "Patient/p1",
        "Patient/p2",
    }


async def test_levels_open_what_they_say_and_scopes_add_up(client: httpx.AsyncClient) -> None:
    everybody = {"Observation/o1", "Observation/i1", "Observation/o2"}
    assert found(await client.get("Observation", headers=token("user/Observation.rs"))) == everybody
    both = token("patient/*.rs system/Observation.read", "p1")
    assert found(await client.get("Observation", headers=both)) == everybody
    assert found(await client.get("Patient", headers=both)) == {"Patient/p1"}
    assert (await client.get("Observation", headers=token("patient/*.rs"))).status_code == 403


# Scopes with search parameters

IMAGES = "Observation.rs?category=imaging"


@pytest.mark.parametrize("level", ["system", "user"])
async def test_a_search_parameter_narrows_reads_as_it_narrows_searches(client: httpx.AsyncClient, level: str) -> None:
    images = token(f"{level}/{IMAGES}")
    assert found(await client.get("Observation", headers=images)) == {"Observation/i1"}
    assert (await client.get("Observation?_summary=count", headers=images)).json()["total"] == 1
    assert (await client.get("Observation/i1", headers=images)).status_code == 200
    assert (await client.get("Observation/i1/_history/1", headers=images)).status_code == 200
    for path in ("Observation/o1", "Observation/o1/_history", "Observation/o1/_history/1"):
        assert (await client.get(path, headers=images)).status_code == 404
    assert found(await client.get("Observation/_history", headers=images)) == {"Observation/i1"}
    asked = token(f"{level}/{IMAGES} {level}/Patient.rs")
    assert found(await client.get("Patient?_has:Observation:patient:category=laboratory", headers=asked)) == set()
    assert found(await client.get("Patient?_revinclude=Observation:patient", headers=asked)) == {
        "Patient/p1",
        "Patient/p2",
        "Observation/i1",
    }


async def test_parameters_of_one_scope_hold_together_and_scopes_add_up(client: httpx.AsyncClient) -> None:
    one = token("patient/Observation.rs?category=imaging&code=http://loinc.org|1-1", "p1")
    assert found(await client.get("Observation", headers=one)) == set()
    two = token("patient/Observation.rs?category=imaging patient/Observation.rs?category=laboratory", "p1")
    assert found(await client.get("Observation", headers=two)) == {"Observation/o1", "Observation/i1"}
    either = token("system/Observation.rs?category=imaging,laboratory")
    assert len(found(await client.get("Observation", headers=either))) == 3
    mixed = token("patient/Observation.rs?category=imaging system/Observation.s?category=laboratory", "p1")
    assert len(found(await client.get("Observation", headers=mixed))) == 3
    assert (await client.get("Observation/o1", headers=mixed)).status_code == 404


@pytest.mark.parametrize(
    "scope",
    [
        "system/Observation.rs?subject.name=x",
        "system/Observation.rs?subject:Patient=x",
        "system/Patient.rs?_has:Observation:patient:code=x",
        "system/Observation.rs?category:not=x",
        "system/Observation.rs?_filter=status eq final",
        "system/Observation.rs?_text=x",
        "system/Observation.rs?_lastUpdated=gt2020",
        "system/Observation.rs?value-quantity=5",
        "system/Observation.rs?code-value-quantity=a$5",
        "system/Observation.rs?unknown=x",
        "system/Observation.rs?date=nonsense",
        "system/Observation.rs?date=ap2020",
        "system/Observation.rs?_count=1",
        "system/*.rs?category=imaging",
        "system/Nonsense.rs",
        "system/AuditEvent.rs?patient=p1",
        "system/Observation.rs?code=" + ",".join(map(str, range(101))),
    ],
)
async def test_a_scope_that_cannot_be_kept_is_refused_when_asked_for_and_opens_nothing(
    client: httpx.AsyncClient, scope: str
) -> None:
    parsed = Scope.parse(scope)
    with pytest.raises(InvalidInput):
        checked_scopes([parsed])
    path = "Observation" if parsed.resource_type == "*" else parsed.resource_type
    answer = await client.get(path, headers=token(scope.replace(" ", "+")))
    # What a token should not have opens nothing, unless it is a parameter that the type has all the same.
    assert answer.status_code in (403, 404) or found(answer) == set() or parsed.resource_type == "*"


def test_scopes_that_can_be_kept_pass_as_they_are() -> None:
    texts = "patient/*.rs system/Observation.rs?category=imaging&date=ge2020 user/*.r?_tag=a|b launch"
    scopes = [Scope.parse(text) for text in texts.split()[:-1]]
    assert checked_scopes(scopes) == tuple(scopes)


# Former versions and deletions


async def test_a_former_version_that_was_another_patients_stays_closed(
    own: httpx.AsyncClient, database: Database
) -> None:
    await store(database, observation("m", "Patient/p2", note=[{"text": "secret"}]))
    await store(database, observation("m", "Patient/p1"))
    assert (await own.get("Observation/m/_history/2", headers=READ)).status_code == 200
    hidden = await own.get("Observation/m/_history/1", headers=READ)
    assert outward(hidden) == outward(await own.get("Observation/m/_history/7", headers=READ))
    for path in ("Observation/m/_history", "Observation/_history", "_history", "Observation/m/_history?_count=1"):
        answer = await own.get(path, headers=READ)
        assert "secret" not in answer.text
        assert "/_history/1" not in answer.text
        assert "total" not in answer.json()
    versions = (await own.get("Observation/m/_history", headers=READ)).json()["entry"]
    assert [entry["resource"]["meta"]["versionId"] for entry in versions] == ["2"]
    assert (await own.get("Observation/m/_history", headers=ALL)).json()["total"] == 2


async def test_what_was_taken_from_the_patient_is_closed_with_all_its_versions(
    own: httpx.AsyncClient, database: Database
) -> None:
    await store(database, observation("m", "Patient/p1"))
    await store(database, observation("m", "Patient/p2"))
    for path in ("Observation/m", "Observation/m/_history/1", "Observation/m/_history"):
        assert (await own.get(path, headers=READ)).status_code == 404
    assert "Observation/m" not in found(await own.get("Observation/_history", headers=READ))


async def test_a_constraint_is_asked_of_each_version(own: httpx.AsyncClient, database: Database) -> None:
    await store(database, observation("m", "Patient/p1", category=[LAB]))
    await store(database, observation("m", "Patient/p1", category=[IMAGING]))
    images = token(f"system/{IMAGES}")
    assert (await own.get("Observation/m/_history/2", headers=images)).status_code == 200
    assert (await own.get("Observation/m/_history/1", headers=images)).status_code == 404


async def test_only_who_may_see_all_of_a_type_is_told_what_was_deleted(own: httpx.AsyncClient) -> None:
    for id_ in ("o1", "o2"):
        assert (await own.delete(f"Observation/{id_}", headers=ALL)).status_code == 204
    assert (await own.get("Observation/o1", headers=ALL)).status_code == 410
    unknown = outward(await own.get("Observation/xx", headers=READ))
    for id_ in ("o1", "o2"):
        assert outward(await own.get(f"Observation/{id_}", headers=READ)) == unknown
        assert (await own.get(f"Observation/{id_}/_history", headers=READ)).status_code == 404
        assert (await own.get(f"Observation/{id_}/_history/2", headers=READ)).status_code == 404
    assert found(await own.get("Observation/_history", headers=READ)) == {"Observation/i1"}


# What refers to others, and what belongs to nobody


async def test_provenance_is_open_where_all_its_targets_are(own: httpx.AsyncClient, database: Database) -> None:
    def provenance(id_: str, *targets: str) -> dict[str, Any]:
        agent = [{"who": {"display": "x"}}]
        about = [ref(target) for target in targets]
        recorded = "2026-01-01T00:00:00Z"
        return {"resourceType": "Provenance", "id": id_, "target": about, "recorded": recorded, "agent": agent}

    await store(
        database,
        provenance("one", "Observation/o1"),
        provenance("two", "Observation/o1", "Patient/p1"),
        provenance("mixed", "Observation/o1", "Observation/o2"),
        provenance("other", "Observation/o2"),
        provenance("away", "Observation/o1", "http://elsewhere.example/fhir/Observation/9"),
        provenance("of-staff", "Practitioner/d"),
        provenance("of-itself", "Provenance/one"),
    )
    seen = {"Provenance/one", "Provenance/two"}
    assert found(await own.get("Provenance", headers=READ)) == seen
    assert found(await own.get("Observation?_id=o1&_revinclude=Provenance:target", headers=READ)) == {
        "Observation/o1", *seen,
    }  # fmt: skip
    assert (await own.get("Provenance/one/_history/1", headers=READ)).status_code == 200
    assert (await own.get("Provenance/mixed", headers=READ)).status_code == 404
    assert found(await own.get("Provenance", headers=token("patient/Provenance.rs", "p1"))) == set()
    some = token("patient/Provenance.rs patient/Observation.rs", "p1")
    assert found(await own.get("Provenance", headers=some)) == {"Provenance/one"}


async def test_a_binary_is_open_by_its_security_context(own: httpx.AsyncClient, database: Database) -> None:
    content = {"resourceType": "Binary", "contentType": "text/plain", "data": "eA=="}
    await store(database, {**content, "id": "own", "securityContext": ref("Observation/o1")})
    await store(database, {**content, "id": "other", "securityContext": ref("Observation/o2")})
    await store(database, {**content, "id": "open"})
    for id_, status in (("own", 200), ("other", 404), ("open", 404)):
        answer = await own.get(f"Binary/{id_}", headers={**READ, "Accept": "application/fhir+json"})
        assert answer.status_code == status, id_


async def test_who_belongs_to_no_patient_is_open_to_a_scope_that_names_the_type(
    own: httpx.AsyncClient, database: Database
) -> None:
    await store(
        database,
        {"resourceType": "Device", "id": "free"},
        {"resourceType": "Device", "id": "mine", "patient": ref("Patient/p1")},
        {"resourceType": "Device", "id": "theirs", "patient": ref("Patient/p2")},
        {
            "resourceType": "Group",
            "id": "g",
            "type": "person",
            "actual": True,
            "member": [{"entity": ref("Patient/p1")}],
        },
        {"resourceType": "Task", "id": "t", "status": "draft", "intent": "order", "for": ref("Patient/p1")},
    )
    by_name = token("patient/Practitioner.rs patient/Device.rs patient/Group.rs patient/Task.rs", "p1")
    assert found(await own.get("Practitioner", headers=by_name)) == {"Practitioner/d"}
    assert found(await own.get("Practitioner", headers=READ)) == set()
    assert found(await own.get("Device", headers=by_name)) == {"Device/free", "Device/mine"}
    for refused in ("Group", "Task"):
        assert found(await own.get(refused, headers=by_name)) == set()
    doctor = {**PATIENTS[2], "id": "d"}
    writer = token("patient/Practitioner.cruds", "p1")
    assert (await own.put("Practitioner/d", json=doctor, headers={**writer, **JSON})).status_code in (200, 403)
    changed = {**doctor, "name": [{"family": "Hacked"}]}
    assert (await own.put("Practitioner/d", json=changed, headers={**writer, **JSON})).status_code == 403


# Writing


async def current(client: httpx.AsyncClient, what: str) -> tuple[int, str]:
    answer = await client.get(what, headers=ALL)
    return answer.status_code, answer.headers.get("etag", "")


async def test_a_patients_app_writes_within_its_compartment(own: httpx.AsyncClient) -> None:
    made = await own.post("Observation", json=_without_id(observation("", "Patient/p1")), headers={**OWN, **JSON})
    assert made.status_code == 201
    id_ = made.json()["id"]
    changed = observation(id_, "Patient/p1", code="1-1")
    assert (await own.put(f"Observation/{id_}", json=changed, headers={**OWN, **JSON})).status_code == 200
    move = [{"op": "replace", "path": "/status", "value": "amended"}]
    answer = await own.patch(f"Observation/{id_}", content=json.dumps(move), headers={**OWN, **PATCH})
    assert answer.status_code == 200
    assert (await own.delete(f"Observation/{id_}", headers=OWN)).status_code == 204
    assert (await current(own, f"Observation/{id_}"))[0] == 410


@pytest.mark.parametrize(
    "content",
    [
        observation("", "Patient/p2"),
        observation("", "Patient/p1", performer=[ref("Patient/p2")]),
        observation("", "Patient/p2", performer=[ref("Patient/p1")]),
        observation("", "Patient/p1", performer=[ref("http://elsewhere.example/fhir/Patient/p2")]),
        observation("", "Group/g"),
        {"resourceType": "Patient", "name": [{"family": "New"}]},
        {"resourceType": "Organization", "name": "x"},
    ],
)
async def test_nothing_is_created_outside_of_the_compartment(own: httpx.AsyncClient, content: dict[str, Any]) -> None:
    type_ = content["resourceType"]
    before = (await own.get(f"{type_}?_summary=count", headers=ALL)).json()["total"]
    answer = await own.post(type_, json=_without_id(content), headers={**OWN, **JSON})
    assert answer.status_code == 403
    for kind in ("batch", "transaction"):
        bundle = _bundle(kind, ("POST", type_, _without_id(content)))
        done = await own.post("", json=bundle, headers={**OWN, **JSON})
        assert done.status_code == 403 or done.json()["entry"][0]["response"]["status"].startswith("403")
    assert (await own.get(f"{type_}?_summary=count", headers=ALL)).json()["total"] == before


async def test_nothing_is_moved_into_or_out_of_the_compartment(own: httpx.AsyncClient) -> None:
    out = observation("o1", "Patient/p2", category=[LAB])
    assert (await own.put("Observation/o1", json=out, headers={**OWN, **JSON})).status_code == 403
    move = [{"op": "replace", "path": "/subject/reference", "value": "Patient/p2"}]
    for path in ("Observation/o1", "Observation?_id=o1"):
        answer = await own.patch(path, content=json.dumps(move), headers={**OWN, **PATCH})
        assert answer.status_code == 403
    into = observation("o2", "Patient/p1")
    assert (await own.put("Observation/o2", json=into, headers={**OWN, **JSON})).status_code == 405
    assert await current(own, "Observation/o1") == (200, 'W/"1"')
    assert await current(own, "Observation/o2") == (200, 'W/"1"')


async def test_a_constraint_holds_before_and_after_a_write(own: httpx.AsyncClient) -> None:
    images = token("system/Observation.cruds?category=imaging")
    lab = observation("i1", "Patient/p1", category=[LAB])
    assert (await own.put("Observation/i1", json=lab, headers={**images, **JSON})).status_code == 403
    image = observation("o1", "Patient/p1", category=[IMAGING])
    assert (await own.put("Observation/o1", json=image, headers={**images, **JSON})).status_code == 405
    made = _without_id(observation("", "Patient/p2", category=[IMAGING]))
    assert (await own.post("Observation", json=made, headers={**images, **JSON})).status_code == 201
    assert (await own.delete("Observation/o1", headers=images)).status_code == 204
    assert (await current(own, "Observation/o1"))[0] == 200
    tag = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}]}
    answer = await own.post("Observation/o1/$meta-add", json=tag, headers={**images, **JSON})
    assert answer.status_code == 404


@pytest.mark.parametrize("more", [{}, {"If-Match": 'W/"1"'}, {"If-None-Match": "*"}])
async def test_writes_tell_nothing_of_what_is_hidden(own: httpx.AsyncClient, more: dict[str, str]) -> None:
    patch = json.dumps([{"op": "replace", "path": "/status", "value": "amended"}])

    async def answers(id_: str) -> list[tuple[int, str, dict[str, str]]]:
        content = observation(id_, "Patient/p1")
        headers = {**OWN, **more}
        return [
            outward(await own.put(f"Observation/{id_}", json=content, headers={**headers, **JSON})),
            outward(await own.patch(f"Observation/{id_}", content=patch, headers={**headers, **PATCH})),
            outward(await own.delete(f"Observation/{id_}", headers=headers)),
            outward(await own.put(f"Observation?_id={id_}&code=x", json=content, headers={**headers, **JSON})),
            outward(await own.patch(f"Observation?_id={id_}", content=patch, headers={**headers, **PATCH})),
            outward(await own.delete(f"Observation?_id={id_}", headers=headers)),
            outward(await own.get(f"Observation/{id_}/$validate?mode=delete", headers=headers)),
        ]

    assert await answers("o2") == await answers("xx")
    assert await current(own, "Observation/o2") == (200, 'W/"1"')
    assert (await current(own, "Observation/xx"))[0] == 404


async def test_who_may_see_but_not_write_is_refused_and_told_so(own: httpx.AsyncClient) -> None:
    some = token("patient/*.rs patient/Observation.ud?category=imaging", "p1")
    content = observation("o1", "Patient/p1", category=[IMAGING])
    assert (await own.put("Observation/o1", json=content, headers={**some, **JSON})).status_code == 403
    assert (await own.delete("Observation/o1", headers=some)).status_code == 403
    assert (await own.delete("Observation/i1", headers=some)).status_code == 204


async def test_a_conditional_create_finds_only_what_is_visible(own: httpx.AsyncClient, database: Database) -> None:
    marked = {"identifier": [{"system": "urn:test", "value": "1"}]}
    await store(database, observation("hidden", "Patient/p2", **marked))
    content = _without_id(observation("", "Patient/p1", **marked))
    asked = {**OWN, **JSON, "If-None-Exist": "identifier=urn:test|1"}
    made = await own.post("Observation", json=content, headers=asked)
    assert made.status_code == 201
    again = await own.post("Observation", json=content, headers=asked)
    assert (again.status_code, again.headers["etag"]) == (200, made.headers["etag"])


async def test_a_bundle_is_held_to_the_scopes_entry_by_entry(own: httpx.AsyncClient) -> None:
    entries = [
        ("GET", "Observation/o1", None),
        ("GET", "Observation/o2", None),
        ("GET", "Observation?_summary=count", None),
        ("DELETE", "Observation/o2", None),
        ("PUT", "Observation/o2", observation("o2", "Patient/p1")),
        ("PUT", "Observation/o1", observation("o1", "Patient/p2")),
    ]
    answer = await own.post("", json=_bundle("batch", *entries), headers={**OWN, **JSON})
    said = answer.json()["entry"]
    assert [e["response"]["status"][:3] for e in said] == ["200", "404", "200", "204", "405", "403"]
    assert said[2]["resource"]["total"] == 2
    for entry in entries[4:]:
        failed = await own.post("", json=_bundle("transaction", entry), headers={**OWN, **JSON})
        assert failed.status_code in (403, 405)
    assert await current(own, "Observation/o2") == (200, 'W/"1"')
    assert await current(own, "Observation/o1") == (200, 'W/"1"')


async def test_a_transaction_may_write_what_its_later_entries_open(own: httpx.AsyncClient) -> None:
    order = {
        "resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": ref("Patient/p1"),
    }  # fmt: skip
    provenance = {
        "resourceType": "Provenance",
        "target": [ref("urn:uuid:6a1f9f0e-3b0c-4c7a-9c52-0b0b54f4b0c1")],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"who": {"display": "x"}}],
    }
    bundle = _bundle("transaction", ("POST", "Provenance", provenance), ("POST", "ServiceRequest", order))
    bundle["entry"][1]["fullUrl"] = "urn:uuid:6a1f9f0e-3b0c-4c7a-9c52-0b0b54f4b0c1"
    answer = await own.post("", json=bundle, headers={**OWN, **JSON})
    assert answer.status_code == 200, answer.text


async def test_a_reference_by_search_finds_only_what_is_visible(own: httpx.AsyncClient) -> None:
    for name, status in (("Own", 200), ("Other", 412), ("Nobody", 412)):
        content = observation("", f"Patient?name={name}")
        bundle = _bundle("transaction", ("POST", "Observation", _without_id(content)))
        answer = await own.post("", json=bundle, headers={**OWN, **JSON})
        assert answer.status_code == status


async def test_whoever_waited_for_a_move_sees_where_it_went(database: Database) -> None:
    """An update that was let in before the resource moved to another patient is judged after it has."""
    await store(database, *BOTH)
    content = observation("o1", "Patient/p1", code="1-1")
    async with face(database) as client:
        async with database.transaction() as conn:
            await resources.put(conn, observation("o1", "Patient/p2"))
            late = asyncio.create_task(client.put("Observation/o1", json=content, headers={**OWN, **JSON}))
            await asyncio.sleep(0.3)
            assert not late.done()
        assert (await late).status_code == 405


# Doors without a patient's limit


@pytest.mark.parametrize("path", ["$export", "Patient/$export", "AuditEvent", "AuditEvent/1", "Group/g/$export"])
async def test_what_is_not_limited_to_a_patient_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={**READ, "Prefer": "respond-async"})
    assert answer.status_code in (403, 404), answer.text


def _without_id(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "id"}


def _bundle(kind: str, *entries: tuple[str, str, dict[str, Any] | None]) -> dict[str, Any]:
    listed = [
        {"request": {"method": method, "url": url}, **({"resource": content} if content else {})}
        for method, url, content in entries
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": listed}
