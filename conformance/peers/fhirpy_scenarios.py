"""One scenario of a FHIR client that is not Wetread's (fhirpy) against a running server:

    python fhirpy_scenarios.py BASE_URL TOKEN SCENARIO

Ends with status 0 where the client saw what FHIR R4 promises.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import MultipleResourcesFound, OperationOutcome, ResourceNotFound

_BASE_URL, _TOKEN, _SCENARIO = sys.argv[1:]
_SYSTEM = "urn:oid:2.999.7"
_CODE = "http://loinc.org|8867-4"
client = SyncFHIRClient(_BASE_URL, authorization=f"Bearer {_TOKEN}")


def patient(family: str) -> Any:
    name = [{"family": family, "given": ["Ada"]}]
    return client.resource("Patient", identifier=[{"system": _SYSTEM, "value": family}], name=name)


def observation(subject: Any, value: int) -> Any:
    return client.resource(
        "Observation",
        status="final",
        code={"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        subject=subject.to_reference(),
        effectiveDateTime=f"2026-03-{value:02}",
        valueQuantity={"value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
    )


def family() -> str:
    return f"Py{uuid.uuid4().hex[:8]}"


def chart(count: int) -> tuple[Any, list[Any]]:
    person = patient(family()).create()
    return person, [observation(person, value).create() for value in range(1, count + 1)]


def create_read_update_delete() -> None:
    person = patient(family()).create()
    read = client.reference("Patient", person.id).to_resource()
    assert read.serialize() == person.serialize()
    read["gender"] = "female"
    assert read.save().meta.versionId == "2"
    person.refresh()
    assert person.gender == "female"
    person.delete()
    try:
        client.get("Patient", person.id)
    except ResourceNotFound:
        return
    raise AssertionError("a deleted resource was read")


def json_patch() -> None:
    person = patient(family()).create()
    patching = SyncFHIRClient(
        _BASE_URL, authorization=f"Bearer {_TOKEN}", extra_headers={"Content-Type": "application/json-patch+json"}
    )
    operations: Any = [{"op": "add", "path": "/birthDate", "value": "1980-02-29"}]
    changed = patching.execute(f"Patient/{person.id}", method="patch", data=operations)
    assert (changed["birthDate"], changed["meta"]["versionId"]) == ("1980-02-29", "2")


def merge_patch_is_refused() -> None:
    """fhirpy's own `patch` is a JSON merge patch, which R4 does not know (http.html#patch)."""
    person = patient(family()).create()
    try:
        person.patch(gender="female")
    except OperationOutcome:
        pass
    else:
        raise AssertionError("a merge patch was taken")
    assert "gender" not in person.refresh()


def conditional_update() -> None:
    name = family()
    made, created = client.resources("Patient").search(identifier=f"{_SYSTEM}|{name}").update(patient(name))
    assert created
    again, created = client.resources("Patient").search(identifier=f"{_SYSTEM}|{name}").update(patient(name))
    assert (again.id, created) == (made.id, False)


def conditional_delete() -> None:
    name = family()
    made = patient(name).create()
    _, status = client.resources("Patient").search(identifier=f"{_SYSTEM}|{name}").delete()
    assert status in (200, 204)
    assert client.resources("Patient").search(identifier=f"{_SYSTEM}|{name}").fetch_all() == []
    assert made.id


def conditional_patch() -> None:
    name = family()
    made = patient(name).create()
    patching = SyncFHIRClient(
        _BASE_URL, authorization=f"Bearer {_TOKEN}", extra_headers={"Content-Type": "application/json-patch+json"}
    )
    operations: Any = [{"op": "add", "path": "/active", "value": True}]
    where = {"identifier": f"{_SYSTEM}|{name}"}
    changed = patching.execute("Patient", method="patch", data=operations, params=where)
    assert (changed["id"], changed["active"]) == (made.id, True)


def if_match() -> None:
    person = patient(family()).create()
    stale = SyncFHIRClient(_BASE_URL, authorization=f"Bearer {_TOKEN}", extra_headers={"If-Match": 'W/"7"'})
    try:
        stale.save(person)
    except MultipleResourcesFound:
        return  # fhirpy's name for every 412
    raise AssertionError("a stale If-Match was taken")


def search() -> None:
    person, made = chart(4)
    mine = client.resources("Observation").search(patient=person)
    assert mine.search(code=_CODE).count() == 4
    assert {one.id for one in mine.search(value_quantity__ge=3).fetch()} == {one.id for one in made[2:]}
    assert {one.id for one in mine.search(date__lt="2026-03-02").fetch()} == {made[0].id}
    assert [one.valueQuantity.value for one in mine.sort("-date").fetch()] == [4, 3, 2, 1]
    assert mine.search(code__not=_CODE).fetch() == []
    assert mine.first().id in {one.id for one in made}
    few = mine.elements("status").fetch()
    assert all("valueQuantity" not in one and one.status == "final" for one in few)


def chains() -> None:
    person, made = chart(2)
    name = person.name[0].family
    found = client.resources("Observation").search(**{"subject:Patient.name": name}).fetch_all()
    assert {one.id for one in found} == {one.id for one in made}
    having = client.resources("Patient").has("Observation", "patient", code=_CODE).search(family=name).fetch_all()
    assert [one.id for one in having] == [person.id]


def includes() -> None:
    person, made = chart(2)
    bundle = client.resources("Observation").search(patient=person).include("Observation", "subject").fetch_raw()
    modes = sorted((entry.resource.resourceType, entry.search.mode) for entry in bundle.entry)
    assert modes == [("Observation", "match"), ("Observation", "match"), ("Patient", "include")]
    bundle = client.resources("Patient").search(_id=person.id).revinclude("Observation", "subject").fetch_raw()
    assert {entry.resource.id for entry in bundle.entry} == {person.id, *(one.id for one in made)}


def paging() -> None:
    person, made = chart(11)
    found = client.resources("Observation").search(patient=person).sort("date").limit(3).fetch_all()
    assert [one.id for one in found] == [one.id for one in made]


def paging_async() -> None:
    person, made = chart(5)

    async def found() -> list[str]:
        asking = AsyncFHIRClient(_BASE_URL, authorization=f"Bearer {_TOKEN}")
        return [one.id async for one in asking.resources("Observation").search(patient=person.id).limit(2)]

    assert sorted(asyncio.run(found())) == sorted(one.id for one in made)


def transaction() -> None:
    name, urn = family(), f"urn:uuid:{uuid.uuid4()}"
    sign = observation(patient(name).create(), 5).serialize() | {"subject": {"reference": urn}}
    entries = [
        {"fullUrl": urn, "resource": patient(f"{name}b").serialize(), "request": {"method": "POST", "url": "Patient"}},
        {"resource": sign, "request": {"method": "POST", "url": "Observation"}},
    ]
    answer = client.resource("Bundle", type="transaction", entry=entries)
    done = client.execute("", method="post", data=answer.serialize())
    assert [entry["response"]["status"][:3] for entry in done["entry"]] == ["201", "201"]
    found = client.resources("Observation").search(**{"subject:Patient.family": f"{name}b"}).fetch_all()
    assert len(found) == 1


def history() -> None:
    person = patient(family()).create()
    person["active"] = True
    person.save()
    versions = client.execute(f"Patient/{person.id}/_history", method="get")
    assert [entry["resource"]["meta"]["versionId"] for entry in versions["entry"]] == ["2", "1"]
    assert client.execute(f"Patient/{person.id}/_history/1", method="get")["meta"]["versionId"] == "1"


def operations() -> None:
    person, made = chart(2)
    everything = person.execute("$everything", method="get")
    assert {entry["resource"]["id"] for entry in everything["entry"]} == {person.id, *(one.id for one in made)}
    assert person.is_valid()
    wrong = client.resource("Observation", status="no-such-status", code={"text": "x"})
    assert not wrong.is_valid()


if __name__ == "__main__":
    globals()[_SCENARIO]()
