"""One scenario of a FHIR client that is not Wetread's (the SMART Python client, whose models are strict R4):

    python smart_client_scenarios.py BASE_URL TOKEN SCENARIO

Ends with status 0 where the client saw what FHIR R4 promises.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

import requests
from fhirclient.client import FHIRClient
from fhirclient.models.bundle import Bundle
from fhirclient.models.capabilitystatement import CapabilityStatement
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRNotFoundException, FHIRUnauthorizedException

_BASE_URL, _TOKEN, _SCENARIO = sys.argv[1:]
smart = FHIRClient(settings={"app_id": "wetread-conformance", "api_base": _BASE_URL})
server = smart.server
server.session.headers["Authorization"] = f"Bearer {_TOKEN}"


def family() -> str:
    return f"Smart{uuid.uuid4().hex[:8]}"


def patient(name: str) -> Patient:
    return Patient({"resourceType": "Patient", "name": [{"family": name, "given": ["Ada"]}], "birthDate": "1980-02-29"})


def observation(subject: str, day: int) -> Observation:
    return Observation(
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "subject": {"reference": f"Patient/{subject}"},
            "effectiveDateTime": f"2026-03-{day:02}T10:00:00+01:00",
        }
    )


def created(resource: Any) -> str:
    """Its id, as the server gave it."""
    answer = resource.create(server)
    return str(answer["id"])


def status_of_read(person_id: str) -> int:
    """What the client raises as, where it cannot read."""
    try:
        Patient.read(person_id, server)
    except (FHIRNotFoundException, FHIRUnauthorizedException, requests.HTTPError) as error:
        return int(error.response.status_code)
    return 200


def capabilities() -> None:
    statement = server.capabilityStatement
    assert isinstance(statement, CapabilityStatement)
    assert statement.fhirVersion == "4.0.1"
    assert {"Patient", "Observation", "ImagingStudy"} <= {one.type for one in statement.rest[0].resource}


def create_read_update_delete() -> None:
    name = family()
    person_id = created(patient(name))
    person = Patient.read(person_id, server)
    assert (person.name[0].family, person.meta.versionId) == (name, "1")
    person.active = True
    person.update(server)
    assert Patient.read(person_id, server).meta.versionId == "2"
    version = Patient.read_from(f"Patient/{person_id}/_history/1", server)
    assert version.active is None
    person.delete(server)
    assert status_of_read(person_id) == 410


def history() -> None:
    person_id = created(patient(family()))
    person = Patient.read(person_id, server)
    person.active = True
    person.update(server)
    versions = Bundle.read_from(f"Patient/{person_id}/_history", server)
    assert [entry.resource.meta.versionId for entry in versions.entry] == ["2", "1"]


def search_and_paging() -> None:
    person_id = created(patient(family()))
    made = {created(observation(person_id, day)) for day in range(1, 8)}
    search = Observation.where({"patient": person_id, "_count": "3"})
    pages = [[entry.resource.id for entry in page.entry or ()] for page in search.perform_iter(server)]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert {one for page in pages for one in page} == made
    later = Observation.where({"patient": person_id, "date": "ge2026-03-06"}).perform_resources(server)
    assert len(later) == 2


def chains_and_includes() -> None:
    name = family()
    person_id = created(patient(name))
    sign_id = created(observation(person_id, 1))
    found = Observation.where({"subject:Patient.family": name}).include("subject").perform_resources(server)
    assert {one.id for one in found} == {person_id, sign_id}
    search = Patient.where({"_id": person_id}).include("subject", Observation, reverse=True)
    assert {one.id for one in search.perform_resources(server)} == {person_id, sign_id}


def batch_and_transaction() -> None:
    urn, name = f"urn:uuid:{uuid.uuid4()}", family()
    sign = observation("x", 1).as_json() | {"subject": {"reference": urn}}
    entries = [
        {"fullUrl": urn, "resource": patient(name).as_json(), "request": {"method": "POST", "url": "Patient"}},
        {"resource": sign, "request": {"method": "POST", "url": "Observation"}},
    ]
    for kind, count in (("transaction", 2), ("batch", 1)):
        answer = server.post_json(".", {"resourceType": "Bundle", "type": kind, "entry": entries[:count]})
        bundle = Bundle(answer.json())
        assert bundle.type == f"{kind}-response"
        assert [entry.response.status[:3] for entry in bundle.entry] == ["201"] * count
    assert len(Observation.where({"subject:Patient.family": name}).perform_resources(server)) == 1


def operations() -> None:
    person_id = created(patient(family()))
    sign_id = created(observation(person_id, 1))
    everything = Bundle.read_from(f"Patient/{person_id}/$everything", server)
    assert {entry.resource.id for entry in everything.entry} == {person_id, sign_id}


def refusals() -> None:
    assert status_of_read(f"none-{family()}") == 404
    server.session.headers["Authorization"] = "Bearer none"
    assert status_of_read("x") == 401


if __name__ == "__main__":
    globals()[_SCENARIO]()
