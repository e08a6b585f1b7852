"""$everything and $lastn over HTTP, on the records of two patients that touch one another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.api.test_fhir import BASE, READERS, application, audits, caller, put
from tests.unit.api.test_fhir_terminology import valid

from wetread.api import fhir_operations
from wetread.domain.reader import Reader, Scope
from wetread.record.operations import everything
from wetread.store.database import Database

MINE = {
    *("Patient/p1", "Encounter/e1", "Observation/o1", "Observation/o2", "ServiceRequest/s1", "ImagingStudy/i1"),
    *("DiagnosticReport/d1", "Provenance/v1", "Task/t1", "Device/worn", "Appointment/both", "Condition/c1"),
}
WITH_ME = {"Practitioner/doc", "PractitionerRole/role", "Organization/hospital", "Organization/trust", "Device/model"}
FOREIGN = {
    *("Patient/p2", "Observation/other", "Observation/reported", "Device/pump", "Provenance/mixed", "Group/ward"),
    *("Encounter/e2", "Practitioner/stranger"),
}


def ref(target: str) -> dict[str, str]:
    return {"reference": target}


def of(type_: str, id_: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": type_, "id": id_, **more}


def seen(id_: str, patient: str, day: str, *codes: str, **more: Any) -> dict[str, Any]:
    coding = [{"system": "http://loinc.org", "code": code} for code in codes]
    code = {"coding": coding} if coding else {"text": more.pop("text", "free")}
    timed = {"effectiveDateTime": day} if day else {}
    return of("Observation", id_, status="final", code=code, subject=ref(f"Patient/{patient}"), **timed, **more)


def records() -> list[dict[str, Any]]:
    me, other = ref("Patient/p1"), ref("Patient/p2")
    inpatient = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"}
    agent = {"agent": [{"who": ref("Practitioner/doc")}], "recorded": "2026-01-01T00:00:00Z"}
    code = {"text": "CT of the head"}
    return [
        of("Organization", "trust", name="Trust"),
        of("Organization", "hospital", name="Hospital", partOf=ref("Organization/trust")),
        of("Practitioner", "doc"),
        of("Practitioner", "stranger"),
        of("PractitionerRole", "role", practitioner=ref("Practitioner/doc"), organization=ref("Organization/hospital")),
        of("Patient", "p1", generalPractitioner=[ref("Practitioner/doc")]),
        of("Patient", "p2", link=[{"other": me, "type": "seealso"}]),
        of("Device", "model"),
        of("Device", "worn", patient=me),
        of("Device", "pump", patient=other),
        of("Encounter", "e1", status="finished", **{"class": inpatient}, subject=me, period={"start": "2025-01-01"}),
        of("Encounter", "e2", status="finished", **{"class": inpatient}, subject=other),
        of(
            "ServiceRequest",
            "s1",
            status="active",
            intent="order",
            subject=me,
            encounter=ref("Encounter/e1"),
            code=code,
        )
        | {"requester": ref("PractitionerRole/role"), "authoredOn": "2026-03-01"},
        of("ImagingStudy", "i1", status="available", subject=me, started="2026-03-02T10:00:00Z"),
        seen("o1", "p1", "2026-03-02T11:00:00Z", "1", device=ref("Device/model"), encounter=ref("Encounter/e1")),
        seen("o2", "p1", "2024-05-05", "2", device=ref("Device/pump")),
        seen("other", "p2", "2026-03-02", "1", performer=[ref("Practitioner/stranger")]),
        seen("reported", "p2", "2026-03-02", "1", performer=[me]),
        of("DiagnosticReport", "d1", status="preliminary", code=code, subject=me, result=[ref("Observation/o1")]),
        of("Provenance", "v1", target=[ref("Observation/o1")], **agent),
        of("Provenance", "mixed", target=[ref("Observation/o1"), ref("Observation/other")], **agent),
        of("Task", "t1", status="requested", intent="order", encounter=ref("Encounter/e1"), **{"for": me}),
        of("Group", "ward", type="person", actual=True, member=[{"entity": me}, {"entity": other}]),
        of("Condition", "c1", subject=me),
        of("Appointment", "both", status="proposed")
        | {"participant": [{"actor": me, "status": "accepted"}, {"actor": other, "status": "accepted"}]},
    ]


@pytest.fixture(scope="module")
async def client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(application(module_database)) as client:
        for resource in records():
            answer = await put(client, resource)
            assert answer.status_code in (200, 201), answer.text
        yield client


async def bundle(client: httpx.AsyncClient, path: str, status: int = 200, **params: Any) -> dict[str, Any]:
    answer = await client.get(path if path.startswith("http") else f"{BASE}/{path}", params=params or None)
    assert answer.status_code == status, answer.text
    return valid(answer.text)


def names(found: dict[str, Any], mode: str = "") -> list[str]:
    return [
        f"{e['resource']['resourceType']}/{e['resource']['id']}"
        for e in found.get("entry", ())
        if mode in ("", e["search"]["mode"])
    ]


async def paged(client: httpx.AsyncClient, path: str, **params: Any) -> list[str]:
    """The names of all pages, in order."""
    found = await bundle(client, path, **params)
    gathered = names(found)
    while more := [link["url"] for link in found["link"] if link["relation"] == "next"]:
        found = await bundle(client, more[0])
        gathered += names(found)
    return gathered


class TestPatientEverything:
    async def test_the_compartment_and_what_goes_with_it(self, client: httpx.AsyncClient) -> None:
        found = await bundle(client, "Patient/p1/$everything")
        assert names(found)[0] == "Patient/p1"
        assert set(names(found, "match")) == MINE
        assert set(names(found, "include")) == WITH_ME
        assert found["total"] == len(MINE)

    async def test_never_what_is_another_patients(self, client: httpx.AsyncClient) -> None:
        assert FOREIGN.isdisjoint(names(await bundle(client, "Patient/p1/$everything")))
        other = names(await bundle(client, "Patient/p2/$everything"))
        assert {"Patient/p2", "Observation/other", "Observation/reported", "Device/pump"} <= set(other)
        assert (MINE - {"Appointment/both"}).isdisjoint(other)

    @pytest.mark.parametrize("count", [1, 3, 100])
    async def test_the_pages_together_are_the_whole(self, client: httpx.AsyncClient, count: int) -> None:
        whole = names(await bundle(client, "Patient/p1/$everything"))
        assert await paged(client, "Patient/p1/$everything", _count=count) == whole

    async def test_a_page_ends_where_its_texts_are_long_enough(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = names(await bundle(client, "Patient/p1/$everything"))
        monkeypatch.setattr(everything, "MOST_CHARACTERS", 700)
        first = await bundle(client, "Patient/p1/$everything")
        assert 1 < len(names(first)) < 6
        assert first["total"] == len(MINE)
        assert await paged(client, "Patient/p1/$everything") == whole

    async def test_only_some_types(self, client: httpx.AsyncClient) -> None:
        found = await bundle(client, "Patient/p1/$everything", _type="Observation,Device")
        assert set(names(found)) == {"Observation/o1", "Observation/o2", "Device/worn", "Device/model"}
        assert await bundle(client, "Patient/p1/$everything", 400, _type="Wall")

    async def test_only_care_of_a_time_and_what_has_none(self, client: httpx.AsyncClient) -> None:
        found = names(await bundle(client, "Patient/p1/$everything", start="2026-03-02", end="2026-03-02"))
        assert {"Observation/o1", "ImagingStudy/i1", "Encounter/e1", "Condition/c1", "Patient/p1"} <= set(found)
        assert {"Observation/o2", "ServiceRequest/s1"}.isdisjoint(found)

    async def test_only_what_is_new(self, client: httpx.AsyncClient) -> None:
        found = await bundle(client, "Patient/p1/$everything", _since="2090-01-01T00:00:00Z")
        assert (names(found), found["total"]) == ([], 0)

    async def test_of_every_patient(self, client: httpx.AsyncClient) -> None:
        everyone = await paged(client, "Patient/$everything", _count=4)
        assert len(everyone) == len(set(everyone))
        assert set(everyone) >= (MINE | WITH_ME | FOREIGN) - {"Group/ward"}

    async def test_by_post(self, client: httpx.AsyncClient) -> None:
        body = {"resourceType": "Parameters", "parameter": [{"name": "_type", "valueCode": "Condition"}]}
        headers = {"Content-Type": "application/fhir+json"}
        answer = await client.post(f"{BASE}/Patient/p1/$everything", json=body, headers=headers)
        assert names(answer.json()) == ["Condition/c1"]

    async def test_a_reader_sees_only_the_types_of_its_scopes(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scopes = tuple(Scope("user", t, frozenset("rs")) for t in ("Patient", "Observation"))
        monkeypatch.setitem(READERS, "nurse", Reader("nurse", scopes))
        answer = await client.get(f"{BASE}/Patient/p1/$everything", headers={"Authorization": "Bearer nurse"})
        assert set(names(answer.json())) == {"Patient/p1", "Observation/o1", "Observation/o2"}
        refused = {"Authorization": "Bearer observations"}
        assert (await client.get(f"{BASE}/Patient/p1/$everything", headers=refused)).status_code == 403
        assert (await client.get(f"{BASE}/Patient/$everything", headers=refused)).status_code == 403

    async def test_nothing_is_reached_through_a_type_that_the_reader_may_not_see(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_types = ("Patient", "PractitionerRole", "Organization", "Device", "Provenance")
        scopes = tuple(Scope("user", t, frozenset("rs")) for t in open_types)
        monkeypatch.setitem(READERS, "clerk", Reader("clerk", (*scopes, Scope("user", "Task", frozenset("r")))))
        answer = await client.get(f"{BASE}/Patient/p1/$everything", headers={"Authorization": "Bearer clerk"})
        assert set(names(answer.json())) == {"Patient/p1", "Device/worn"}
        monkeypatch.setitem(READERS, "clerk", Reader("clerk", (Scope("user", "Patient", frozenset("r")),)))
        refused = await client.get(f"{BASE}/Patient/$everything", headers={"Authorization": "Bearer clerk"})
        assert refused.status_code == 403

    async def test_what_is_not_there(self, client: httpx.AsyncClient) -> None:
        assert await bundle(client, "Patient/nobody/$everything", 404)
        assert await bundle(client, "Patient/p1/$everything", 400, _cursor="x")
        assert await bundle(client, "Patient/p1/$everything", 400, start="yesterday")
        assert await bundle(client, "Patient/p1/$everything", 400, _count="-1")

    async def test_the_audit_names_the_patient(self, client: httpx.AsyncClient, module_database: Database) -> None:
        await bundle(client, "Patient/p1/$everything")
        event = (await audits(module_database))[-1]
        assert event["subtype"][0]["code"] == "operation"
        assert "Patient/p1" in [e.get("what", {}).get("reference") for e in event["entity"]]


async def test_an_operation_that_takes_too_long_is_cut_off(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fhir_operations, "TIME_LIMIT_S", 0.0001)
    assert (await bundle(client, "Patient/$everything", 422))["issue"][0]["code"] == "too-costly"


class TestEncounterEverything:
    async def test_what_happened_in_it_and_to_whom(self, client: httpx.AsyncClient) -> None:
        found = await bundle(client, "Encounter/e1/$everything")
        assert set(names(found, "match")) == {
            *("Encounter/e1", "Patient/p1", "ServiceRequest/s1", "Observation/o1", "Task/t1", "Provenance/v1"),
        }
        assert set(names(found, "include")) == WITH_ME
        assert await paged(client, "Encounter/e1/$everything", _count=2) == names(found)

    async def test_only_at_instance_level(self, client: httpx.AsyncClient) -> None:
        assert await bundle(client, "Encounter/$everything", 404)


@pytest.fixture(scope="module")
async def measured(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Observations of p3: codes a and b are one concept in one of them, c stands alone, and there are texts."""
    vital = [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}
    ]
    await put(client, of("Patient", "p3"))
    for resource in (
        seen("a1", "p3", "2026-01-01T08:00:00Z", "a", category=vital),
        seen("a2", "p3", "2026-01-03T08:00:00Z", "a", category=vital),
        seen("ab", "p3", "2026-01-02T08:00:00Z", "b", "a"),
        seen("b1", "p3", "2026-01-03T08:00:00Z", "b"),
        seen("c1", "p3", "2025-01-01T08:00:00Z", "c", category=vital),
        seen("c2", "p3", "", "c"),
        seen("x1", "p3", "2024-01-01", text="pain"),
        seen("x2", "p3", "2024-02-01", text="Pain"),
        seen("x3", "p3", "2024-03-01", text="pain"),
    ):
        assert (await put(client, resource)).status_code in (200, 201)
    return client


class TestLastN:
    async def test_the_newest_of_each_code_with_ties_translations_and_texts(self, measured: httpx.AsyncClient) -> None:
        found = await bundle(measured, "Observation/$lastn", patient="Patient/p3")
        assert [n.removeprefix("Observation/") for n in names(found)] == ["b1", "a2", "c1", "x3", "x2"]
        assert found["total"] == 5

    async def test_more_of_each(self, measured: httpx.AsyncClient) -> None:
        found = await bundle(measured, "Observation/$lastn", subject="Patient/p3", max=3)
        assert [n.removeprefix("Observation/") for n in names(found)] == [
            *("b1", "a2", "ab", "c1", "x3", "x2", "x1", "c2"),
        ]

    async def test_with_search_parameters(self, measured: httpx.AsyncClient) -> None:
        by_category = await bundle(measured, "Observation/$lastn", patient="p3", category="vital-signs")
        assert names(by_category) == ["Observation/a2", "Observation/c1"]
        by_code = await bundle(
            measured, "Observation/$lastn", patient="p3", code="http://loinc.org|b,c", date="le2026-01-02"
        )
        assert names(by_code) == ["Observation/ab", "Observation/c1"]

    @pytest.mark.parametrize("count", [1, 2])
    async def test_in_pages(self, measured: httpx.AsyncClient, count: int) -> None:
        whole = names(await bundle(measured, "Observation/$lastn", patient="p3", max=2))
        assert await paged(measured, "Observation/$lastn", patient="p3", max=2, _count=count) == whole

    async def test_nobody_elses_and_none(self, measured: httpx.AsyncClient) -> None:
        assert names(await bundle(measured, "Observation/$lastn", patient="p1")) == ["Observation/o1", "Observation/o2"]
        assert names(await bundle(measured, "Observation/$lastn", patient="nobody")) == []

    @pytest.mark.parametrize(
        "params",
        [
            {},
            {"category": "vital-signs"},
            {"patient": "p3", "max": "0"},
            {"patient": "p3", "max": "all"},
            {"patient": "p3", "colour": "red"},
            {"patient": "p3", "_count": "-1"},
        ],
    )
    async def test_what_is_refused(self, measured: httpx.AsyncClient, params: dict[str, str]) -> None:
        found = await bundle(measured, "Observation/$lastn", 400, **params)
        assert found["resourceType"] == "OperationOutcome"
